"""AlexNet as it was trained in 2012, two towers on two GPUs. What is where, in reading order.

    model.py        Tower, AlexNet: stages of towers side by side. Start here.
    exchange.py     how towers on different ranks exchange activations and gradients. Then here.

    files.py        files that are whole, and that tell if they were changed
    strict.py       YAML -> dataclasses, with every mistake named
    kinds.py        the kinds of layers as data: keys, shapes, weights
    levers.py       what is kept for the backward pass, and what is computed or sent again
    network.py      a network as data: stages of layers; parameters, multiply-adds, traffic
    checks.py       what no single key of a config shows
    config.py       the keys of a config file
    mistakes.py     how a user's mistake ends a run
    seeds.py        which seed draws what
    precision.py    what float32, bfloat16 and float64 mean
    norm/           response normalisation
    linear.py       fully connected layers
    layers.py       max-pooling, dropout, the overhanging convolution
    link.py         how halves travel between ranks
    overlap.py      exchange and compute at once
    regather.py     keep a half of what was exchanged, gather again in backward
    cpu.py          cores; memory on the CPU that is not given back
    grid.py         which rank holds which towers of which replica: the modes
    signs.py        what one rank can find out about another
    ranks.py        a rank's device, process groups, and what joins it to others
    watch.py        ranks watch each other: whoever dies or hangs ends all
    data/           images, where they come from, packing them, the batches made of them
    optim.py        the update rule of 2012 and its schedule
    assemble.py     a rank's part of the network, and its optimizer
    diagnose.py     will it learn? What becomes of images, layer by layer, before training
    evaluate.py     top-1 and top-5 error, in every mode; ten views
    memory/         bytes per rank, predicted and measured
    checkpoint.py   a directory with one file per tower, for any mode from any mode
    nonfinite.py    where numbers stop being finite
    export.py       one file for others to read
    ensemble.py     several trained networks that vote
    run.py          the directory that a run leaves
    saver.py        writing checkpoints in the background, keeping some of them
    resume.py       which checkpoint a run goes on from
    step.py         a training step
    training.py     the parts of a run, wired, and how far it has come
    train.py        the loop
    trial.py        one step of any mode, measured, in processes started for it
    look.py         what a trained network looks for, answers, finds alike
    figures/        every plot

A file imports only from those that are above it here, model.py and exchange.py standing after
layers.py and link.py.
"""

__version__ = "0.1.0"


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
    from pathlib import Path  # here, so that importing the package is instant: see mistakes.py

    from alexnet2gpu import checkpoint as checkpoints
    from alexnet2gpu.config.load import load_config
    from alexnet2gpu.model.model import AlexNet

    config = load_config(config, overrides)
    model = AlexNet(config.model, config.train.seed, levers=config.memory)
    if checkpoint is not None:
        newest = checkpoints.newest(Path(checkpoint))
        content = checkpoints.read(newest, config.model, range(config.model.towers))
        checkpoints.restore(content, model)
    return model
