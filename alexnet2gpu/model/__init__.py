"""The arithmetic of 2012 on one device; it knows nothing of ranks.

    model.py     Tower, AlexNet: stages of towers side by side. START HERE
    layers.py    from a config's layers to modules; dropout
    conv.py      the convolution: torch's, or of few maps on GPUs over the blocks of conv_kernels.py
    linear.py    fully connected layers
    pool.py      max-pooling: torch's, or on GPUs pool_kernels.py
    norm/        response normalisation: torch's operations, a C kernel, Triton kernels
    plain.py     when torch's own operations are wanted instead
    optim.py     the update rule and its schedule; update.py carries it out
    step.py      a training step, and its precision
    graph.py     the step as one CUDA graph
    profile.py   seconds of each layer as data; timing.py measures them
    device.py    whether there is a GPU, Triton, TF32

Imports config.
"""
