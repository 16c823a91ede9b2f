"""What a step keeps for its backward pass, and what it computes or sends once more instead.

Each lever trades memory for something; `true` is the side that saves memory. By default those are
pulled that cost neither speed nor exactness. docs/memory.md has what each of them saves.

lever                 pulled, a rank keeps                         otherwise
norm_input_only       of a normalisation its input                 its input and three more like it
pool_places_only      of a max-pooling where its maxima were,      its input, and the places in
                      2 bytes each (4 in maps over 32,768 pixels)  8 bytes each
image_unpadded        the images as they came, and pads again      a padded copy of them
                      (where conv windows overhang)
relu_in_place         one tensor of a ReLU                         its input too, for a moment
gradients_in_buckets  under DDP, gradients in its buckets          gradients, and buckets as well
regather              of what is exchanged its own half, and       everybody's halves
                      gathers again: 1.5 times the traffic
recompute             of the stages listed (from 1) their input,   their activations
                      and computes them again

The network gives the same gradients either way. The eighth lever is train.precision: bfloat16.
"""

from dataclasses import dataclass

from alexnet2gpu import kinds
from alexnet2gpu.strict import bounded


@dataclass(frozen=True, kw_only=True)
class Levers:
    """The `memory` section of a config: see the module's docstring."""

    norm_input_only: bool = True
    pool_places_only: bool = True
    image_unpadded: bool = True
    relu_in_place: bool = True
    gradients_in_buckets: bool = True
    regather: bool = False
    recompute: tuple[int, ...] = bounded((), least=1)

    def overwrites(self, layer: kinds.Layer, before: kinds.Layer | None) -> bool:
        """Whether `layer` is a ReLU that works in place, on the output of the layer `before` it in
        its stage. Not on a stage's input, which belongs to all towers, nor where backward needs
        that output, nor after dropout, which passes on its input while testing."""
        free = (kinds.Conv, kinds.Linear, kinds.Pool, kinds.ResponseNorm)
        return self.relu_in_place and isinstance(layer, kinds.Relu) and isinstance(before, free)
