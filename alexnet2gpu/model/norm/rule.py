"""The constants of a response normalisation."""

from typing import NamedTuple

from alexnet2gpu.config import layers as kinds


class Rule(NamedTuple):
    """x / (k + alpha S)^beta, S the sum of x^2 over a window of `size`, odd, around each value:
    across neighbouring maps, or over size x size pixels of the same map.

    Here `alpha` multiplies the plain sum: see rule_of.
    """

    across_maps: bool
    size: int
    alpha: float
    beta: float
    k: float

    @property
    def dims(self) -> tuple[int, ...]:
        """Those of a tensor (B, C, H, W) that the window extends over."""
        return (1,) if self.across_maps else (2, 3)


def rule_of(layer: kinds.ResponseNorm) -> Rule:
    """That of a layer in a config, whose alpha is divided by the number of places first, as in
    nn.LocalResponseNorm and in the code of 2012; the paper's formula lacks the division."""
    across_maps = isinstance(layer, kinds.Lrn)
    places = layer.size if across_maps else layer.size**2
    return Rule(across_maps, layer.size, layer.alpha / places, layer.beta, layer.k)
