"""Response normalisation, across maps (the paper's) or within a map, keeping little for backward.

Written as operations of torch, autograd would keep four tensors of the size of the input; here it is one
function with its own backward, which keeps the input and computes the rest again.

    layer.py           the layer, which chooses one of the following
    operations.py      torch's operations: anywhere
    native.py          native.c, where the CPU has a C compiler
    triton_kernels.py  on GPUs that have Triton
"""
