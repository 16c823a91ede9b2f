"""Random legal networks, each by its number: what users might write, and what they would not."""

import random
import tempfile
from pathlib import Path

import yaml

from alexnet2gpu.config.keys import Config
from alexnet2gpu.config.load import load_config

PRECISIONS = ("float32", "float32", "float32", "bfloat16", "float64")
OF_FEATURES = ("linear", "linear", "relu", "tanh", "sigmoid", "dropout")
OF_MAPS = ("conv", "relu", "tanh", "sigmoid", "lrn", "map_norm", "max_pool", "avg_pool", "dropout")


def network(number: int, towers: int | None = None) -> Config:
    """The config of a random network; with so many towers, if that is said."""
    for attempt in range(1000):
        draw = random.Random(f"{number} {attempt}")
        tree = _tree(draw, towers)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "network.yaml")
            file.write_text(yaml.safe_dump(tree, sort_keys=False))
            try:
                return load_config(file)
            except ValueError as error:
                reason = error
    raise AssertionError(f"no legal network {number}: {reason}")


def _tree(draw, towers):
    towers = towers or draw.choice((1, 1, 2, 2, 2, 3, 4))
    shape = draw.choice((1, 3, 4)), draw.randint(16, 48), draw.randint(16, 48)
    stages = [_stage(draw, towers, maps=True) for _ in range(draw.choice((0, 1, 1, 2)))]
    flat = [_stage(draw, towers, maps=False) for _ in range(draw.choice((0, 1, 2)))]
    if stages and draw.random() < 0.7:  # as in alexnet.yaml
        stages[-1].append({"type": "flatten"})
    else:
        flat[:1] = [[{"type": "flatten"}, *(flat[0] if flat else [])]]
    stages += flat
    classifier = {"type": "linear", "out": towers * draw.randint(2, 15), "init": 0.01}
    stages[-1:] = [[*stages[-1], classifier]] if draw.random() < 0.5 else [stages[-1], [classifier]]
    named = [{f"l{n}x{m}": layer for m, layer in enumerate(stage)} for n, stage in enumerate(stages)]
    levers = "norm_input_only", "pool_places_only", "image_unpadded", "relu_in_place", "gradients_in_buckets"
    memory = {key: draw.random() < 0.8 for key in levers}
    if draw.random() < 0.25:
        memory["recompute"] = sorted(draw.sample(range(1, len(named) + 1), draw.randint(1, len(named))))
    if draw.random() < 0.1:
        memory["regather"] = True
    exchange = {"precision": draw.choice((None, None, None, "bfloat16")), "overlap": draw.random() < 0.15}
    if memory.get("regather"):
        exchange["overlap"] = False
    return {
        "model": {"towers": towers, "input": list(shape), "stages": named},
        "data": {"name": "synthetic"},
        "train": {"batch": draw.choice((12, 32, 64, 128)), "epochs": 1, "precision": draw.choice(PRECISIONS)},
        "memory": memory,
        "exchange": exchange,
        "optim": {
            "momentum": draw.choice((0.9, 0.9, 0.9, 0.0)),
            "schedule": [{"epoch": 1, "weights": 0.001, "biases": 0.002}],
        },
    }


def _stage(draw, towers, maps):
    layers = []
    for number in range(draw.randint(1, 5)):
        kind = draw.choice(OF_MAPS if maps else OF_FEATURES)
        first = maps and number == 0 and draw.random() < 0.7
        layers.append(_layer(draw, "conv" if first else kind, towers))
    return layers


def _layer(draw, kind, towers):
    layer = {"type": kind}
    if kind in ("conv", "linear"):
        most = 96 if kind == "conv" else 600
        layer |= {"out": towers * draw.randint(1, most // towers), "init": draw.choice((0.05, "xavier"))}
    if kind in ("conv", "max_pool", "avg_pool"):
        layer |= {"kernel": draw.choice((1, 2, 3, 3, 5)), "stride": draw.choice((1, 1, 2, 3))}
        layer["pad"] = draw.randint(0, layer["kernel"] // 2)
        if kind != "avg_pool":
            layer["ceil"] = draw.random() < 0.3
    if kind in ("lrn", "map_norm"):
        layer |= {"size": draw.choice((1, 3, 5)), "alpha": 1e-4, "beta": draw.choice((0.75, 0.5)), "k": 2}
    if kind == "dropout":
        layer |= {"p": draw.choice((0.0, 0.3, 0.5)), "scaling": draw.choice(("2012", "inverted"))}
    return layer
