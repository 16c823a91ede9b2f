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


def load(config_or_run, checkpoint=None, overrides=()):
    """A network with all its towers on one device, an ordinary nn.Module, in training mode as a new one is.

    Args:
        config_or_run: a config file, looked for in the current directory, then in the repository; or the
            directory of a run or of a checkpoint, of which the newest is read.
        checkpoint: such a directory, beside a config file. Without it, weights are drawn from `train.seed`.
        overrides: "key.path=value" strings, as after --set.

    Returns: for configs/alexnet.yaml a module from images (B, 3, 224, 224), raw pixels 0-255 less the mean
        image, to logits (B, 1000). Of a run it is a Classifier (runs/predict.py): it has the names of its
        `classes`, and `predict(files, views=1)` takes photographs.

    Raises: ValueError naming the file, if one is missing, unreadable or of another network.
    """
    import os

    from alexnet2gpu.config.load import load_config  # here, so that importing this is instant
    from alexnet2gpu.runs.checkpoints.towers import load_network
    from alexnet2gpu.runs.predict import load_classifier

    if os.path.isdir(config_or_run):
        return load_classifier(config_or_run, None, overrides)
    if checkpoint is not None:
        return load_classifier(checkpoint, config_or_run, overrides)
    return load_network(load_config(config_or_run, overrides), None)
