"""Every key that a config file may hold, with its default and its unit: a class for each section of a Config.

Keys without a default must be in the file; load.py reads it. The `model` section is a Network.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from alexnet2gpu.config import layers
from alexnet2gpu.config.network import Network
from alexnet2gpu.config.schema import bounded

MOST_CLASSES = 2**20


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images (data/sources.py), and what is done to each before the network sees it, in this order."""

    name: Literal["fashion-mnist-sample", "fashion-mnist", "cifar-10", "folder", "arrays", "synthetic"]
    # how many there are, where no images are read (memory, summary, synthetic); images that are read say it
    classes: int = bounded(1000, least=1, most=MOST_CLASSES)
    dir: str | None = None  # where the files of the source are (--data)
    store: Literal["raw", "jpeg"] = "raw"  # what the pack of a folder keeps: data/pack/stores.py
    size: int = bounded(256, least=1, most=2**16)  # pixels: shorter side scaled to it, longer one cropped
    crop: int | None = bounded(None, least=1, most=2**16)  # side in pixels, at random, in testing centred
    flip: bool = False  # mirror with probability 1/2, in training
    mean: Literal["image", "none"] = "image"  # subtract the mean training image, its centre after a crop
    colour: float = bounded(0.0, least=0)  # strength of the colour noise, in training; 0: none
    colour_law: Literal["2012", "text"] = "2012"  # what that means: data/prepare.py
    divide: float = 1.0  # then divide by this; pixels are 0 to 255
    resize: int | None = bounded(None, least=1, most=2**16)  # then enlarge to this side, bilinearly
    # of a rank, to cut crops or decode JPEG ahead of the steps; null: 2, beside a GPU its cores, 16 at most
    threads: int | None = bounded(None, least=1, most=1024)
    # on a GPU, keep all images there where they take at most a quarter of its free memory
    on_gpu: bool = True


@dataclass(frozen=True, kw_only=True)
class Train:
    """The loop, the same in every mode."""

    seed: int = bounded(0, least=0)  # of everything that is drawn: seeds.py
    # a run, or a file with a state dict, whose weights a new run starts from, in all layers that fit (--from)
    weights_from: str | None = None
    batch: int = bounded(least=1)  # images of one step, over all ranks together
    accumulate: int = bounded(1, least=1)  # passes of a step, each over a part of the batch: model/step.py
    epochs: int = bounded(least=1)
    max_steps: int | None = bounded(None, least=1)  # end earlier, counted from the start of the run
    precision: Literal["float32", "bfloat16", "float16", "float64"] = "float32"  # model/precision.py
    tf32: bool = True  # on GPUs, round the factors of float32 products to TF32, 10 bits of 23: faster
    graph: bool = True  # on one GPU, a step is one CUDA graph, unless memory.recompute: model/graph.py
    log_every: int = bounded(20, least=1)  # steps to a line of metrics.jsonl
    # where the same figures go besides: into the run's tensorboard/
    log: Literal["tensorboard"] | None = None
    save_minutes: float | None = bounded(10.0, least=0)  # between checkpoints, at most; null: an epoch
    keep: int = bounded(2, least=1)  # how many checkpoints stay, the newest ones, besides the best
    threads: int | None = bounded(None, least=1, most=1024)  # CPU threads of a rank; null: its share of cores
    keep_memory: bool = True  # on the CPU, freed memory stays with the process: ranks/machine.py

    def undivided(self, replicas: int) -> str:
        """What `batch` should divide by and does not, in words; "" if it does."""
        if not self.batch % (replicas * self.accumulate):
            return ""
        return f"{replicas} replicas" + (f" x {self.accumulate} passes" if self.accumulate > 1 else "")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates; null leaves what was in force, 0 freezes."""

    weights: float | None = bounded(None, least=0)
    biases: float | None = bounded(None, least=0)


@dataclass(frozen=True, kw_only=True)
class Change(Rates):
    """What changes as an epoch starts: rates of all layers, or of some."""

    epoch: int = bounded(least=1)  # the first epoch is 1
    layers: dict[str, Rates] = field(default_factory=dict)  # of single layers: these prevail
    colour: float | None = bounded(None, least=0)  # strength of the colour noise


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The update rule of 2012: model/optim.py."""

    momentum: float = bounded(0.9, least=0, most=1)
    weight_decay: float = bounded(0.0005, least=0)
    zero1: bool = False  # under DDP, each velocity is on one replica only: ranks/zero1.py
    fc_updates: int = bounded(1, least=1)  # of fully connected stages in a step: model/step.py
    schedule: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a step keeps for its backward pass, and what it computes or sends once more instead.

    Each key trades memory for something; `true` is the side that saves memory. By default those are on that
    cost neither speed nor exactness. The network gives the same gradients either way. docs/memory.md has what
    each of them saves.

    key                   on, a rank keeps                             off
    norm_input_only       of a normalisation its input                 its input and three more
    pool_places_only      of a max-pooling where its maxima were,      its input, and the places
                          1 byte each on GPUs with Triton, else 2      in 8 bytes each
                          (4 in maps over 32,768 pixels)
    image_unpadded        the images as they came, and pads again      a padded copy of them
                          (where conv windows overhang)
    relu_in_place         one tensor of a ReLU                         its input too, for a moment
    gradients_in_buckets  under DDP, gradients in its buckets          gradients, and buckets too
    regather              of what is exchanged its own half, and       everybody's halves
                          gathers again: 1.5 times the traffic
    recompute             of the stages listed (from 1) their input,   their activations
                          and computes them again
    """

    norm_input_only: bool = True
    pool_places_only: bool = True
    image_unpadded: bool = True
    relu_in_place: bool = True
    gradients_in_buckets: bool = True
    regather: bool = False
    recompute: tuple[int, ...] = bounded((), least=1)

    def overwrites(self, layer: layers.Layer, before: layers.Layer | None) -> bool:
        """Whether `layer` is a ReLU that works in place, on the output of the layer `before` it in its stage.
        Not on a stage's input, which belongs to all towers, nor where backward needs that output, nor after
        dropout, which passes on its input while testing."""
        free = (layers.Conv, layers.Linear, layers.Pool, layers.ResponseNorm)
        return self.relu_in_place and isinstance(layer, layers.Relu) and isinstance(before, free)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """How halves travel between towers on different ranks: activations, and their gradients."""

    precision: Literal["bfloat16"] | None = None  # null: as they were computed, as logits always are
    overlap: bool = False  # a rank that holds one tower computes with its own half while the others' travel


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole experiment."""

    model: Network
    data: Data
    train: Train
    optim: Optim
    memory: Memory = Memory()
    exchange: Exchange = Exchange()

    def of_classes(self, found: int | None = None) -> "Config":
        """With the number of classes that was `found` in images for `data.classes`, if they were read; and
        where a layer has `out: classes` that number, rounded up to a multiple of the towers."""
        classes, towers = found or self.data.classes, self.model.towers

        def counted(layer):
            follows = getattr(layer, "out", None) == "classes"
            return replace(layer, out=-(-classes // towers) * towers) if follows else layer

        stages = [{name: counted(layer) for name, layer in stage.items()} for stage in self.model.stages]
        data = replace(self.data, classes=classes)
        return replace(self, data=data, model=replace(self.model, stages=tuple(stages)))

    def colour_in(self, epoch: int) -> float:
        """Strength of the colour noise in an epoch (from 1)."""
        begun = [change.colour for change in self.optim.schedule if change.epoch <= epoch]
        return [self.data.colour, *(colour for colour in begun if colour is not None)][-1]
