"""A network of a config file, or of a run: `alexnet2gpu.load`."""

from pathlib import Path

from alexnet2gpu.config.load import load_config
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.runs.checkpoints import format as checkpoints


def load(config, checkpoint=None, overrides=()):
    """The network of a config file with all its towers on one device, an ordinary nn.Module.

    Args:
        config: path of the file, looked for in the current directory, then in the repository.
        checkpoint: directory of a run or of a checkpoint; of several the newest is read. Without
            it, weights are drawn from `train.seed`.
        overrides: "key.path=value" strings, as after --set.

    Returns: for configs/alexnet.yaml a module from images (B, 3, 224, 224), raw pixels 0-255 less
        the mean image, to logits (B, 1000); in training mode, as a new module is.

    Raises: ValueError naming the file, if one is missing, unreadable or of another network.
    """
    config = load_config(config, overrides)
    model = AlexNet(config.model, config.train.seed, levers=config.memory)
    if checkpoint is not None:
        newest = checkpoints.newest(Path(checkpoint))
        content = checkpoints.read(newest, config.model, range(config.model.towers))
        checkpoints.restore(content, model)
    return model
