"""If these fail, what our modes are raced against is another network, or not what it is said to hold and
send."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet2gpu.config.load import load_config
from alexnet2gpu.memory.predict import parts_of, random_batch
from alexnet2gpu.model.step import how_of, train_step
from alexnet2gpu.ranks.cost import sent
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.modes import Grid
from bench.modes import alternatives, tensor

NO_DROPOUT = ["model.stages.2.drop6.p=0", "model.stages.3.drop7.p=0"]
QUICK = "configs/quick.yaml"
COLLECTIVES = torch.ops._c10d_functional


def on_one_device(config, steps=3):
    """Losses."""
    with Ranks(Grid(towers=range(config.model.towers))) as ranks:
        parts, batch = parts_of("single", config, ranks), random_batch(config, ranks)
        step = how_of(config)
        return [train_step(parts.model, parts.optimizer, *batch, step)[0].item() for _ in range(steps)]


def averaged(config):
    """On a rank: the losses of DDP that averages, where it is to sum."""
    tensor.times, right = (lambda x, factor: x), tensor.times
    try:
        return alternatives.losses("tensor", config)
    finally:
        tensor.times = right


def test_an_alternative_has_the_losses_of_one_device(on_ranks):
    """Three steps in float64, dropout off, on every rank; and a wrong scale is seen."""
    config = load_config(QUICK, [*NO_DROPOUT, "train.precision=float64", "train.batch=16"])
    expected = pytest.approx(on_one_device(config), abs=1e-12)
    for name in alternatives.NAMES:
        assert on_ranks(alternatives.losses, 2, name, config) == [expected] * 2, name
    wrong, _ = on_ranks(averaged, 2, config)
    assert wrong[:1] == pytest.approx(expected.expected[:1]) and wrong != expected


@pytest.mark.slow
@pytest.mark.parametrize("name", alternatives.NAMES)
def test_the_step_of_an_alternative_is_predicted(on_ranks, name):
    """Within 1 % of each rank's peak."""
    config = load_config(QUICK)
    for rank, measured in enumerate(on_ranks(alternatives.measure, 2, name, config)):
        predicted = alternatives.predict(name, config, rank)
        assert predicted.peak == pytest.approx(measured["peak"], rel=0.01)
        for kind in ("weights", "momentum", "gradients"):
            assert predicted.bytes[kind] == measured[kind]


class Sent(TorchDispatchMode):
    """Bytes that DTensor's collectives send, of a ring of two."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (
            COLLECTIVES.all_gather_into_tensor.default,
            COLLECTIVES.reduce_scatter_tensor.default,
        ):
            self.bytes += max(args[0].nbytes, result.nbytes) // 2
        elif function is COLLECTIVES.all_reduce.default:
            self.bytes += result.nbytes
        return result


def sent_by_dtensor(config):
    """On a rank: in a step."""
    with Ranks(alternatives.grid(config)) as ranks:
        alternative = alternatives.build("tensor", config, ranks)
        with Sent() as seen:
            alternative.step()
        weights = sum(p.nbytes for p in alternative.model.convolutions.parameters())
        del alternative
        return seen.bytes + weights  # an all-reduce of DDP's


def test_bytes_sent_by_dtensor_are_those_of_the_formula(on_ranks):
    config = load_config(QUICK)
    assert on_ranks(sent_by_dtensor, 2, config) == [sent("tensor", config.model, 2, config.train.batch)] * 2
