"""Involution against its definition (unfold, multiply, sum), and RedNet against its published sizes."""

import pytest
import timm
import torch
import torch.nn.functional as F

from pocketvit.models import create_model
from pocketvit.models.involution import Involution, involve


def by_unfold(x, weight, kernel_size, stride):
    """The paper's own way: K*K copies of x, weighed and summed."""
    batch, channels = x.shape[:2]
    groups, taps, height, width = weight.shape[1:]
    copies = F.unfold(x, kernel_size, padding=kernel_size // 2, stride=stride)
    copies = copies.view(batch, groups, channels // groups, taps, height, width)
    return (copies * weight[:, :, None]).sum(3).flatten(1, 2)


CASES = [(5, 2, 3, 6, 5, 3, 1), (3, 2, 4, 8, 8, 7, 1), (2, 1, 2, 7, 5, 3, 2), (1, 3, 2, 4, 4, 5, 2)]


@pytest.mark.parametrize(("batch", "groups", "share", "height", "width", "kernel_size", "stride"), CASES)
def test_equals_its_definition_forward_and_backward(batch, groups, share, height, width, kernel_size, stride):
    torch.manual_seed(0)
    out = (-(-height // stride), -(-width // stride))
    x = torch.randn(batch, groups * share, height, width, dtype=torch.double, requires_grad=True)
    weight = torch.randn(batch, groups, kernel_size**2, *out, dtype=torch.double, requires_grad=True)
    ours, theirs = involve(x, weight, stride), by_unfold(x, weight, kernel_size, stride)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(ours)
    for mine, expected in zip(
        torch.autograd.grad(ours, (x, weight), grad), torch.autograd.grad(theirs, (x, weight), grad), strict=True
    ):
        torch.testing.assert_close(mine, expected)


def test_result_does_not_depend_on_how_images_are_chunked(monkeypatch):
    torch.manual_seed(0)
    x, weight = torch.randn(7, 32, 8, 8), torch.randn(7, 2, 49, 8, 8)
    whole = involve(x, weight)
    monkeypatch.setattr("pocketvit.models.involution._CHUNK_BYTES", 1)
    torch.testing.assert_close(involve(x, weight), whole)


def test_traced_sum_equals_the_eager_one():
    """Exporters see a plain sum instead of the autograd function: both are the same network."""
    torch.manual_seed(0)
    module = Involution(32, 5, stride=2).eval()
    x = torch.randn(2, 32, 9, 9)
    exported = torch.export.export(module, (x,)).module()
    torch.testing.assert_close(exported(x), module(x))


def test_onnx_runtime_gives_the_same_with_any_batch(tmp_path):
    """Odd sizes under stride 2 too, where average pooling rounds up."""
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    module = Involution(16, 3, stride=2).eval()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    x, path = torch.randn(2, 16, 7, 7), tmp_path / "involution.onnx"
    torch.onnx.export(module, (x,), path, dynamo=True, dynamic_shapes=(batch,), verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for images in (1, 5):
        x = torch.randn(images, 16, 7, 7)
        (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), module(x).detach(), atol=1e-5, rtol=1e-5)


def test_autocast_keeps_the_type_and_sums_in_float32():
    torch.manual_seed(0)
    module = Involution(32, 7)
    x = torch.randn(2, 32, 8, 8)
    expected = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.05)
    out.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_channels_that_no_group_divides_are_refused():
    with pytest.raises(ValueError, match="multiple"):
        Involution(24, 7)


@pytest.mark.parametrize(
    ("name", "millions"), [("rednet26", 9.23), ("rednet38", 12.39), ("rednet50", 15.54), ("rednet101", 25.65)]
)
def test_rednet_has_the_published_number_of_parameters(name, millions):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(("name", "size"), [("cifar_rednet11", 8), ("cifar_rednet20", 32), ("rednet26", 33)])
def test_learns_on_images_of_its_size(name, size):
    """One step lowers the loss on the very batch it was made from."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=3)
    x, y = torch.randn(6, 3, size, size), torch.tensor([0, 1, 2] * 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
