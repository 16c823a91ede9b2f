"""AlexNet as it was trained in 2012, two towers on two GPUs.

Eight rooms, each a folder; a room imports only rooms above it. The first four are the study: they
import nothing of the machinery.

    config/     an experiment as data: YAML -> layers, a network, every key
    model/      the arithmetic of 2012 on one device: model.py, START HERE
    ranks/      several processes: modes.py, exchange.py, THEN HERE
    memory/     bytes per rank: predicted, measured
    faults/     how anything ends before its end
    data/       images -> batches
    runs/       a training run
    figures/    a figure a file
"""

__version__ = "0.1.0"


def load(config, checkpoint=None, overrides=()):
    """The network of a config file with all its towers on one device, an ordinary nn.Module: see
    runs/checkpoints/load.py."""
    from alexnet2gpu.runs.checkpoints.load import load  # here, so that importing this is instant

    return load(config, checkpoint, overrides)
