"""AlexNet as it was trained in 2012, two towers on two GPUs.

Eight rooms, each a folder; a room imports only rooms above it. The first four are the study: they
import nothing of the machinery.

    config/     an experiment as data: YAML -> layers, a network, every key
    model/      the arithmetic of 2012 on one device: model.py, START HERE
    ranks/      several processes: exchange.py, THEN HERE; modes.py
    memory/     bytes per rank: predicted, measured
    faults/     crashes, signals, hangs, damaged files: one message, nothing lost
    data/       images -> batches
    runs/       a training run
    figures/    a figure a file
"""

__version__ = "0.1.0"


def load(config, checkpoint=None, overrides=()):
    """The network of a config file with all its towers on one device, an ordinary nn.Module.

    Args:
        config: path of the file, looked for in the current directory, then in the repository.
        checkpoint: directory of a run or of a checkpoint; of several the newest is read. Without it, weights
            are drawn from `train.seed`.
        overrides: "key.path=value" strings, as after --set.

    Returns: for configs/alexnet.yaml a module from images (B, 3, 224, 224), raw pixels 0-255 less the mean
        image, to logits (B, 1000); in training mode, as a new module is.

    Raises: ValueError naming the file, if one is missing, unreadable or of another network.
    """
    from alexnet2gpu.config.load import load_config  # here, so that importing this is instant
    from alexnet2gpu.runs.checkpoints.format import newest_checkpoint
    from alexnet2gpu.runs.checkpoints.towers import load_network

    settings = load_config(config, overrides)
    return load_network(settings, checkpoint and newest_checkpoint(checkpoint))
