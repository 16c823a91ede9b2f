"""If these fail, torch's own tools cannot take the network as they take any module: fake tensors, the
meta device, torch.export, torch.compile, torch.func."""

import resource

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F

import alexnet2gpu
from alexnet2gpu.config.layers import NormRule
from alexnet2gpu.config.load import load_config
from alexnet2gpu.model.linear import by_onednn
from alexnet2gpu.model.model import AlexNet
from alexnet2gpu.model.norm.layer import by_kernel, gradient_by_kernel, has_kernels
from alexnet2gpu.model.optim import SGD2012, set_rates
from alexnet2gpu.model.step import How, train_step

LRN = NormRule(True, 5, 2e-5, 0.75, 2.0)


def images(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (60 * torch.randn(*shape, generator=draw)).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def network():
    return alexnet2gpu.load("configs/quick.yaml")


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_step_on_fake_tensors(precision):
    """Of alexnet.yaml at batch 128: forward, backward, update."""
    config = load_config("configs/alexnet.yaml")
    with FakeTensorMode():
        model = AlexNet(config.model, memory=config.memory)
        optimizer = SGD2012(model.named_parameters(), 0.9, 0.0005)
        set_rates(optimizer, config.optim.schedule, 1)
        model.seed_dropout(0, 0, 0)
        batch = images(128, 3, 224, 224), torch.zeros(128, dtype=torch.int64)
        figures = train_step(model, optimizer, *batch, How(precision))
    assert isinstance(figures, FakeTensor) and figures.shape == (2,)
    for parameter in model.parameters():
        velocity = optimizer.state[parameter]["velocity"]
        assert parameter.grad.shape == parameter.shape == velocity.shape
        assert all(isinstance(tensor, FakeTensor) for tensor in (parameter, parameter.grad, velocity))


def test_the_meta_device_holds_nothing():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.device("meta"):
        model = AlexNet(load_config("configs/alexnet.yaml").model)
    assert sum(p.numel() for p in model.parameters() if p.is_meta) == 60_965_224
    assert model(torch.empty(7, 3, 224, 224, device="meta")).shape == (7, 1000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # of 244,000 KB


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_exported_network_is_of_torchs_own_operations(network, strict):
    """So that it runs where this package is not; for any number of images."""
    shapes = ({0: torch.export.Dim("batch")},)
    x = images(5, 1, 28, 28)
    program = torch.export.export(network.eval(), (x,), dynamic_shapes=shapes, strict=strict)
    assert "alexnet2gpu" not in program.graph_module.code
    torch.testing.assert_close(program.module()(x[:3]), network(x[:3]))


@pytest.mark.slow
def test_a_compiled_network_is_the_same(network):
    """Training too, in one graph each way where no dropout draws."""
    x, labels, found = images(6, 1, 28, 28), torch.arange(6), []
    for called in (network, torch.compile(network, backend="aot_eager")):
        network.seed_dropout(0, 0, 0)
        network.zero_grad()
        loss = F.cross_entropy(called(x), labels)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in network.parameters())])
    torch.testing.assert_close(*found)
    network.eval()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x))


def test_gradients_of_single_images_by_vmap(network):
    """torch.func's transforms, of a network in training but for its dropout."""
    x, labels = images(4, 1, 28, 28), torch.tensor([3, 1, 4, 1])
    parameters = dict(network.eval().named_parameters())

    def loss(parameters, image, label):
        logits = torch.func.functional_call(network, parameters, image[None])
        return F.cross_entropy(logits, label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, labels)
    F.cross_entropy(network(x), labels, reduction="sum").backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(each[name].sum(0), parameter.grad, rtol=1e-4, atol=1e-4)


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def test_the_kernels_are_whole_operations():
    """As torch.library checks them: no aliases, fakes of the same shape and layout, autograd."""
    if not has_kernels("cpu"):
        pytest.skip("no C compiler")
    x = images(2, 6, 5, 7)
    torch.library.opcheck(by_kernel, (x.requires_grad_(), *LRN), test_utils=CHECKS)
    torch.library.opcheck(gradient_by_kernel, (x.detach(), x.detach() / 7, *LRN), test_utils=CHECKS)
    linear = nn.Linear(9, 4)
    for bias in (linear.bias, None):
        arguments = torch.randn(3, 9, requires_grad=True), linear.weight, bias
        torch.library.opcheck(by_onednn, arguments, test_utils=CHECKS)
