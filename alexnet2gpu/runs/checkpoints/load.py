"""A network of a config file, or of a run: `alexnet2gpu.load`."""

from collections.abc import Sequence
from pathlib import Path

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.load import load_config
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.runs.checkpoints.format import newest_checkpoint, read_towers, restore


def load(config: str | Path, checkpoint: str | Path | None = None, overrides: Sequence[str] = ()) -> AlexNet:
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
    return load_network(config, checkpoint and newest_checkpoint(Path(checkpoint)))


def load_network(config: Config, checkpoint: Path | None) -> AlexNet:
    """The network of a config with all its towers, float32 on the CPU; its weights are those of a
    checkpoint, or drawn.

    Raises: ValueError if the checkpoint is unreadable or of another network.
    """
    model = AlexNet(config.model, config.train.seed, memory=config.memory)
    if checkpoint is not None:
        restore(read_towers(checkpoint, config.model, range(config.model.towers)), model)
    return model
