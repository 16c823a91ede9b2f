"""Every key that a config file may hold, with its default and its unit.

    model    towers, input, stages                          a Network; layers.py has the layers
    data     name, dir, crop, flip, mean, colour, ...       which images, what is done to them
    train    seed, batch, epochs, max_steps, precision, ... the loop
    optim    momentum, weight_decay, schedule               the update rule and its rates
    memory   norm_input_only, regather, recompute, ...      what a step keeps for its backward pass
    exchange precision, overlap                             how halves travel between ranks

Keys without a default must be in the file; load.py reads it.
"""

from dataclasses import dataclass, field
from typing import Literal

from alexnet2gpu.config import layers
from alexnet2gpu.config.network import Network
from alexnet2gpu.config.schema import bounded


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, and what is done to each before the network sees it, in this order.

    name        of the source: data/sources.py
    dir         where its files are (--data)
    store       of a folder of photographs, what its pack keeps: data/stores.py
    size        to what their shorter side is scaled and their longer one cropped, in pixels
    crop        side in pixels, placed at random in training, centred in testing; null: no crop
    flip        mirror with probability 1/2, in training
    mean        image: subtract the mean training image, its centre if images are cropped
    colour      strength of the colour noise, in training; 0: none
    colour_law  what that means: data/prepare.py
    divide      then divide by this; pixels are 0 to 255
    resize      then enlarge to this side, bilinearly
    threads     of a rank, to cut crops or to decode JPEG, ahead of the steps
    """

    name: Literal["fashion-mnist-sample", "fashion-mnist", "cifar-10", "folder", "arrays", "synthetic"]
    dir: str | None = None
    store: Literal["raw", "jpeg"] = "raw"
    size: int = bounded(256, least=1, most=2**16)
    crop: int | None = bounded(None, least=1, most=2**16)
    flip: bool = False
    mean: Literal["image", "none"] = "image"
    colour: float = bounded(0.0, least=0)
    colour_law: Literal["2012", "text"] = "2012"
    divide: float = 1.0
    resize: int | None = bounded(None, least=1, most=2**16)
    threads: int = bounded(2, least=1, most=1024)


@dataclass(frozen=True, kw_only=True)
class Train:
    """The loop, the same in every mode.

    seed         of everything that is drawn: seeds.py
    batch        images of one step, over all ranks together
    max_steps    end earlier, counted from the start of the run
    precision    precision.py
    log_every    steps to a line of metrics.jsonl
    save_minutes a checkpoint at least this often, besides those after epochs; null: only these
    keep         how many checkpoints stay, the newest ones, besides the best
    threads      CPU threads of a rank; null: the machine's cores, shared evenly
    keep_memory  on the CPU, freed memory stays with the process: cpu.py
    """

    seed: int = bounded(0, least=0)
    batch: int = bounded(least=1)
    epochs: int = bounded(least=1)
    max_steps: int | None = bounded(None, least=1)
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    log_every: int = bounded(20, least=1)
    save_minutes: float | None = bounded(10.0, least=0)
    keep: int = bounded(2, least=1)
    threads: int | None = bounded(None, least=1, most=1024)
    keep_memory: bool = True


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates; null leaves what was in force, 0 freezes."""

    weights: float | None = bounded(None, least=0)
    biases: float | None = bounded(None, least=0)


@dataclass(frozen=True, kw_only=True)
class Change(Rates):
    """What changes as an epoch starts: rates of all layers, over which those of single `layers`
    prevail; the strength of the colour noise."""

    epoch: int = bounded(least=1)  # the first epoch is 1
    layers: dict[str, Rates] = field(default_factory=dict)
    colour: float | None = bounded(None, least=0)


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The update rule of 2012: optim.py."""

    momentum: float = bounded(0.9, least=0, most=1)
    weight_decay: float = bounded(0.0005, least=0)
    schedule: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a step keeps for its backward pass, and what it computes or sends once more instead.

    Each key trades memory for something; `true` is the side that saves memory. By default those
    are on that cost neither speed nor exactness. docs/memory.md has what each of them saves.

    key                   on, a rank keeps                             off
    norm_input_only       of a normalisation its input                 its input and three more
    pool_places_only      of a max-pooling where its maxima were,      its input, and the places
                          2 bytes each (4 in maps over 32,768 pixels)  in 8 bytes each
    image_unpadded        the images as they came, and pads again      a padded copy of them
                          (where conv windows overhang)
    relu_in_place         one tensor of a ReLU                         its input too, for a moment
    gradients_in_buckets  under DDP, gradients in its buckets          gradients, and buckets too
    regather              of what is exchanged its own half, and       everybody's halves
                          gathers again: 1.5 times the traffic
    recompute             of the stages listed (from 1) their input,   their activations
                          and computes them again

    The network gives the same gradients either way.
    """

    norm_input_only: bool = True
    pool_places_only: bool = True
    image_unpadded: bool = True
    relu_in_place: bool = True
    gradients_in_buckets: bool = True
    regather: bool = False
    recompute: tuple[int, ...] = bounded((), least=1)

    def overwrites(self, layer: layers.Layer, before: layers.Layer | None) -> bool:
        """Whether `layer` is a ReLU that works in place, on the output of the layer `before` it in
        its stage. Not on a stage's input, which belongs to all towers, nor where backward needs
        that output, nor after dropout, which passes on its input while testing."""
        free = (layers.Conv, layers.Linear, layers.Pool, layers.ResponseNorm)
        return self.relu_in_place and isinstance(layer, layers.Relu) and isinstance(before, free)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """The `exchange` section of a config: how towers on different ranks exchange.

    precision   in which activations and their gradients travel; null: as they were computed.
                Logits are always exchanged so
    overlap     a rank that holds one tower computes with its own half while the others' travel
    """

    precision: Literal["bfloat16"] | None = None
    overlap: bool = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole experiment."""

    model: Network
    data: Data
    train: Train
    optim: Optim
    memory: Memory = Memory()
    exchange: Exchange = Exchange()

    def colour_in(self, epoch: int) -> float:
        """Strength of the colour noise in an epoch (from 1)."""
        begun = [change.colour for change in self.optim.schedule if change.epoch <= epoch]
        return [self.data.colour, *(colour for colour in begun if colour is not None)][-1]
