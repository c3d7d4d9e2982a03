"""Involution against its definition: unfold, multiply, sum."""

import pytest
import torch
import torch.nn.functional as F

from pocketvit.models.involution import Involution, involve


def by_unfold(x, weight, kernel_size, stride):
    """The paper's own way: K*K copies of x, weighed and summed."""
    batch, channels = x.shape[:2]
    groups, taps, height, width = weight.shape[1:]
    copies = F.unfold(x, kernel_size, padding=kernel_size // 2, stride=stride)
    copies = copies.view(batch, groups, channels // groups, taps, height, width)
    return (copies * weight[:, :, None]).sum(3).flatten(1, 2)


CASES = [
    (5, 2, 3, 6, 5, 3, 1),
    (3, 2, 4, 8, 8, 7, 1),
    (2, 1, 2, 7, 5, 3, 2),
    (1, 3, 2, 4, 4, 5, 2),
    (2, 2, 3, 9, 7, 7, 2),
]
PATHS = {"sparse": 1 << 14, "shifts": 0}  # pictures up to how many pixels take the sparse matrix


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("batch", "groups", "share", "height", "width", "kernel_size", "stride"), CASES)
def test_equals_its_definition_forward_and_backward(
    batch, groups, share, height, width, kernel_size, stride, path, monkeypatch
):
    monkeypatch.setattr("pocketvit.models.involution.MOST_PIXELS", PATHS[path])
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


@pytest.mark.parametrize("pixels", [1, 100, 150, 300, 100_000])
def test_result_and_gradients_do_not_depend_on_how_planes_are_chunked(pixels, monkeypatch):
    """Part of an image's groups (with a rest), one image, several images with a rest, all in one."""
    torch.manual_seed(0)
    x = torch.randn(7, 48, 6, 8, requires_grad=True)
    weight = torch.randn(7, 3, 49, 6, 8, requires_grad=True)
    whole = involve(x, weight)
    expected = torch.autograd.grad(whole, (x, weight), whole)
    monkeypatch.setattr("pocketvit.models._involution_kernels._CHUNK_PIXELS", pixels)
    monkeypatch.setattr("pocketvit.models._involution_kernels._LEAST_CHUNKS", 1)
    chunked = involve(x, weight)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(torch.autograd.grad(chunked, (x, weight), chunked), expected)


def test_pictures_with_channels_last_give_the_same():
    torch.manual_seed(0)
    x, weight = torch.randn(3, 32, 8, 8), torch.randn(3, 2 * 49, 8, 8)
    last = involve(
        x.to(memory_format=torch.channels_last),
        weight.to(memory_format=torch.channels_last).unflatten(1, (2, 49)),
    )
    torch.testing.assert_close(last, involve(x, weight.unflatten(1, (2, 49))))


def test_traced_sum_equals_the_eager_one():
    """Exporters see a plain sum instead of the autograd function: both are the same network."""
    torch.manual_seed(0)
    module = Involution(32, 5, stride=2).eval()
    x = torch.randn(2, 32, 9, 9)
    exported = torch.export.export(module, (x,)).module()
    torch.testing.assert_close(exported(x), module(x))


def test_compiles_into_one_graph_with_the_same_gradients():
    torch.manual_seed(0)
    module = Involution(16, 5).eval()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 16, 6, 5, requires_grad=True)
    grads = [torch.autograd.grad(network(x).square().sum(), x)[0] for network in (module, compiled)]
    torch.testing.assert_close(grads[1], grads[0])


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
