"""If these fail, ranks get other gradients than one device, or the traffic is miscounted."""

import pytest
import torch
from torch.nn import functional as F

from alexnet2gpu.config.load import load_config
from alexnet2gpu.config.network import traffic
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.ranks import exchange as exchange_module
from alexnet2gpu.ranks import link as link_module
from alexnet2gpu.ranks import overlap
from alexnet2gpu.ranks.assemble import joined
from alexnet2gpu.ranks.exchange import exchange, gather_logits
from alexnet2gpu.ranks.groups import Ranks
from alexnet2gpu.ranks.link import Link
from alexnet2gpu.ranks.torchrun import grid_of

BFLOAT16 = "exchange.precision=bfloat16"
OVERLAP = ["exchange.overlap=true"]
QUICK_4 = ["model.towers=4", "model.stages.4.fc8.out=8"]


def batch(network, count=6):
    draw = torch.Generator().manual_seed(1)
    outputs = list(network.stages[-1].values())[-1].out
    return (
        60 * torch.randn(count, *network.input, generator=draw).double(),
        torch.randint(outputs, (count,), generator=draw),
    )


def gradients(network, placement=None, kind=AlexNet):
    """Loss, logits and all gradients of one training step in float64, dropout on."""
    model = kind(network, seed=0, placement=placement).double()
    model.seed_dropout(0, 0, 0)
    images, labels = batch(network)
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    return {
        "loss": loss.detach(),
        "logits": logits.detach(),
        **{name: parameter.grad for name, parameter in model.named_parameters()},
    }


def split_gradients(overrides, exchange_backward=None, logits_backward=None, messages=True):
    """On every rank: the same of its own towers, and what each link has sent. Backwards can be
    replaced by wrong ones."""
    config = load_config("configs/quick.yaml", overrides)
    network = config.model
    with pytest.MonkeyPatch.context() as patch, Ranks(grid_of(network.towers, "split")) as ranks:
        if not messages:
            patch.setattr(link_module.Link, "_by_messages", lambda link, tensor: False)
        for function, wrong in (("_Exchange", exchange_backward), ("_GatherLogits", logits_backward)):
            if wrong is not None:
                patch.setattr(getattr(exchange_module, function), "backward", staticmethod(wrong))
        results = gradients(network, ranks.grid.placement(network), joined(config, ranks))
        return results, [link.sent for link in ranks.links]


def slice_only(ctx, gradient):
    return gradient.chunk(ctx.link.size, dim=1)[ctx.link.rank].contiguous(), None


def summed(ctx, gradient):
    return ctx.link.reduce_scatter(gradient), None


def worst(split, whole, names):
    """The largest relative difference between gradients: |a - b| / |b|, norms over each tensor."""
    return max(((split[name] - whole[name]).norm() / whole[name].norm()).item() for name in names)


@pytest.mark.parametrize(
    "overrides, ranks",
    [([], 2), (QUICK_4, 4), (QUICK_4, 2), (OVERLAP, 2), ([*QUICK_4, *OVERLAP], 4), ([*QUICK_4, *OVERLAP], 2)],
    ids=[
        "2 towers on 2",
        "4 towers on 4",
        "4 towers on 2",
        "overlap",
        "overlap, 4 towers on 4",
        "overlap, 4 towers on 2",
    ],
)
def test_a_split_has_the_logits_and_gradients_of_one_device(on_ranks, overrides, ranks):
    """Dropout on, float64. A difference here is a wrong exchange, not rounding."""
    whole = gradients(load_config("configs/quick.yaml", overrides).model)
    results = [result for result, _ in on_ranks(split_gradients, ranks, overrides)]
    names = [name for result in results for name in result if name.startswith("towers.")]
    assert sorted(names) == sorted(name for name in whole if name.startswith("towers."))
    for result in results:
        own = [name for name in result if name.startswith("towers.")]
        torch.testing.assert_close(result["logits"], whole["logits"], rtol=1e-12, atol=1e-13)
        assert worst(result, whole, own) < 1e-12


def test_keeping_only_the_slice_in_exchange_is_caught(on_ranks):
    """The first wrong pairing: loss and logits are right, yet every layer below an exchange loses
    gradient."""
    whole = gradients(load_config("configs/quick.yaml").model)
    for result, _ in on_ranks(split_gradients, 2, [], slice_only):
        own = [name for name in result if name.startswith("towers.")]
        assert result["loss"].item() == pytest.approx(whole["loss"].item(), abs=1e-12)
        below = [name for name in own if "fc8" not in name]
        assert min(worst(result, whole, [name]) for name in below) > 0.1
        assert worst(result, whole, [name for name in own if "fc8" in name]) < 1e-12


def test_summing_in_gather_logits_is_caught(on_ranks):
    """The second: loss and logits are right, every gradient is exactly n times too large."""
    whole = gradients(load_config("configs/quick.yaml").model)
    for result, _ in on_ranks(split_gradients, 2, [], None, summed):
        own = [name for name in result if name.startswith("towers.")]
        assert result["loss"].item() == pytest.approx(whole["loss"].item(), abs=1e-12)
        for name in own:
            torch.testing.assert_close(result[name], 2 * whole[name], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(
    "overrides, ranks", [([], 2), (QUICK_4, 4), (OVERLAP, 2)], ids=["2 towers", "4", "overlap"]
)
def test_bytes_sent_are_the_closed_form(on_ranks, overrides, ranks):
    network = load_config("configs/quick.yaml", overrides).model
    images = len(batch(network)[0])
    for _, sent in on_ranks(split_gradients, ranks, overrides):
        assert sent == [
            {"forward": images * way.forward, "backward": images * way.backward}
            for way in traffic(network, bytes_per_element=8)
        ]


@pytest.mark.parametrize("overrides", [[], OVERLAP], ids=["", "overlap"])
def test_in_bfloat16_a_quarter_of_float64s_bytes_travel(on_ranks, overrides):
    """All but the logits', and the answers are those of activations so rounded: near, and the
    same logits on both ranks."""
    network, overrides = load_config("configs/quick.yaml").model, [*overrides, BFLOAT16]
    whole, images = gradients(network), len(batch(network)[0])
    results = on_ranks(split_gradients, 2, overrides)
    assert torch.equal(*(result["logits"] for result, _ in results))
    for result, sent in results:
        own = [name for name in result if name.startswith("towers.")]
        assert 1e-6 < worst(result, whole, own) < 0.2  # some ReLUs change over
        for (*between, last), bytes_ in (traffic(network, 2), 2), (traffic(network, 8), 8):
            found = sent[:-1] if bytes_ == 2 else sent[-1:]
            ways = between if bytes_ == 2 else [last]
            assert found == [
                {"forward": images * way.forward, "backward": images * way.backward} for way in ways
            ]


def in_flight(way):
    """What a rank computes between the start of an exchange and waiting for it."""
    done = []
    with Ranks(grid_of(2, "split")) as ranks, pytest.MonkeyPatch.context() as patch:
        link = Link(ranks.split_group)
        start, plain = getattr(link, f"start_{way}"), overlap._apply
        of_input = overlap._of_input

        def started(*args):
            done.append("start")
            wait = start(*args)
            return lambda: done.append("wait") or wait()

        patch.setattr(link, f"start_{way}", started)
        patch.setattr(overlap, "_apply", lambda *a: done.append("apply") or plain(*a))
        patch.setattr(overlap, "_of_input", lambda *a: done.append("of input") or of_input(*a))
        half = torch.ones(2, 3, requires_grad=True)
        overlap.Overlapped(torch.nn.Linear(6, 4), link)(half).sum().backward()
    return done


def test_overlap_computes_while_halves_travel(on_ranks):
    """Forward the own half is under way before waiting; backward the others' gradient goes first,
    and the own one is computed meanwhile."""
    for done in on_ranks(in_flight, 2, "gather"):
        assert done[:4] == ["start", "apply", "wait", "apply"]
    for done in on_ranks(in_flight, 2, "scatter"):
        assert done[-4:] == ["of input", "start", "of input", "wait"]


def both_transports(pointwise):
    """Gather and reduce-scatter of a known tensor, as the CPU does it or by the collectives that
    GPUs use."""
    with pytest.MonkeyPatch.context() as patch, Ranks(grid_of(4, "split")) as ranks:
        link = Link(ranks.split_group)
        if not pointwise:
            patch.setattr(link_module.Link, "_by_messages", lambda link, tensor: False)
        half = torch.arange(6.0).view(2, 3, 1) + 10 * link.rank
        gradient = torch.arange(2.0 * 3 * link.size).view(2, 3 * link.size, 1) * (link.rank + 1)
        return link.gather(half), link.reduce_scatter(gradient)


@pytest.mark.parametrize("ranks", [2, 4])
def test_messages_and_collectives_agree(on_ranks, ranks):
    for (gathered, own), (gathered_too, own_too) in zip(
        on_ranks(both_transports, ranks, True), on_ranks(both_transports, ranks, False)
    ):
        assert torch.equal(gathered, gathered_too) and torch.equal(own, own_too)


@pytest.mark.parametrize(
    "overrides, ranks",
    [([], 2), (OVERLAP, 2), ([BFLOAT16], 2), ([*OVERLAP, BFLOAT16], 2), ([*QUICK_4, *OVERLAP], 4)],
    ids=str,
)
def test_by_collectives_as_on_gpus_gradients_are_the_same(on_ranks, overrides, ranks):
    by_messages = on_ranks(split_gradients, ranks, overrides)
    by_collectives = on_ranks(split_gradients, ranks, overrides, None, None, False)
    for (ours, sent), (theirs, sent_too) in zip(by_messages, by_collectives):
        own = [name for name in ours if name.startswith("towers.")]
        assert worst(ours, theirs, own) < 1e-12 and sent == sent_too


def on_halves(function):
    """Forward and backward of one of the two functions, each rank weighting the result
    differently."""
    with Ranks(grid_of(2, "split")) as ranks:
        link = Link(ranks.split_group)
        half = torch.full((1, 2), float(link.rank + 1), requires_grad=True)
        joined = function(half, link)
        (joined * torch.tensor([[1.0, 2, 3, 4]]) * (link.rank + 1)).sum().backward()
        return joined.detach(), half.grad


def test_the_two_pairs_by_hand(on_ranks):
    """Halves (1, 1) and (2, 2), gradients (1 2 | 3 4) on rank 0 and twice that on rank 1."""
    joined = torch.tensor([[1.0, 1, 2, 2]])
    first, second = on_ranks(on_halves, 2, exchange)
    assert torch.equal(first[0], joined) and torch.equal(second[0], joined)
    assert first[1].tolist() == [[3, 6]] and second[1].tolist() == [[9, 12]]
    first, second = on_ranks(on_halves, 2, gather_logits)
    assert torch.equal(first[0], joined) and torch.equal(second[0], joined)
    assert first[1].tolist() == [[1, 2]] and second[1].tolist() == [[6, 8]]
