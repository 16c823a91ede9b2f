"""Response normalisation, across maps (the paper's) or within a map, keeping little for backward.

Written as operations of torch, autograd would keep four tensors of the size of the input; here it
is one function with its own backward, which keeps the input and computes the rest again.

    rule.py            its constants
    layer.py           the layer and its backward pass; which of the following computes it
    operations.py      torch's operations: anywhere
    native.py          native.c, where the CPU has a C compiler
    triton_kernels.py  across maps, on GPUs
"""

from alexnet2gpu.model.norm.layer import ResponseNorm, images_at_once
from alexnet2gpu.model.norm.rule import Rule, rule_of

__all__ = ["ResponseNorm", "Rule", "images_at_once", "rule_of"]
