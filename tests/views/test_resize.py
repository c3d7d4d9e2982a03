"""Resizing: Pillow's results, exact sums, the same bits for any batch and threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pocketvit.views import resize, to_input
from pocketvit.views.kernels import band_blocks, weight_matrix

PILLOW = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
SIZES = [
    ((28, 28), (224, 224)),
    ((32, 32), (64, 48)),
    ((100, 75), (32, 32)),
    ((300, 411), (96, 64)),
    ((7, 90), (31, 13)),
]


def _pictures(height: int, width: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def _difference(pixels: torch.Tensor, after: tuple[int, int], kernel: str) -> np.ndarray:
    """Return absolute differences from Pillow in grey levels."""
    ours = resize(pixels, after, kernel, lobes=3).numpy().astype(int)  # type: ignore[arg-type]
    images = [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in pixels]
    theirs = np.stack([np.asarray(image.resize(after[::-1], PILLOW[kernel])) for image in images])
    return np.abs(ours - theirs.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("kernel", ["lanczos", "bicubic", "bilinear"])
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_8_bit_pictures_are_within_one_level_of_pillow(kernel: str, before: tuple, after: tuple) -> None:
    """Everywhere on smooth pictures; on noise, where 14-bit weights show, on all but a few values in 10,000."""
    smooth = resize(_pictures(4, 5), before, "bicubic")
    assert _difference(smooth, after, kernel).max() <= 1
    noise = _difference(_pictures(*before), after, kernel)
    assert noise.max() <= 2
    assert (noise > 1).mean() < 1e-3
    assert (noise > 0).mean() < 0.06


@pytest.mark.parametrize("kernel", ["lanczos", "bicubic", "bilinear"])
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_float_pictures_equal_pillows_mode_f(kernel: str, before: tuple, after: tuple) -> None:
    picture = torch.rand((1, 1, *before), generator=torch.Generator().manual_seed(0))
    theirs = np.asarray(Image.fromarray(picture[0, 0].numpy()).resize(after[::-1], PILLOW[kernel]))
    assert np.abs(resize(picture, after, kernel, lobes=3)[0, 0].numpy() - theirs).max() < 1e-5


@pytest.mark.parametrize(("before", "after"), [size for size in SIZES if size[1][1] != 48])
def test_nearest_equals_pillow(before: tuple, after: tuple) -> None:
    """Where no centre falls between two pixels: there Pillow's floating point decides."""
    picture = _pictures(*before, count=1)
    image = Image.fromarray(picture[0].permute(1, 2, 0).contiguous().numpy())
    theirs = np.asarray(image.resize(after[::-1], Image.Resampling.NEAREST)).transpose(2, 0, 1)
    assert np.array_equal(resize(picture, after, "nearest")[0].numpy(), theirs)


@pytest.mark.parametrize(("method", "kernel", "lobes"), [("lanczos5", "lanczos", 5), ("lanczos3", "lanczos", 3)])
@pytest.mark.parametrize(("before", "after"), [((28, 28), (64, 64)), ((41, 67), (224, 100)), ((90, 64), (32, 48))])
def test_lanczos_equals_jaxs(method: str, kernel: str, lobes: int, before: tuple, after: tuple) -> None:
    """In float32 on [0, 1], enlarging and shrinking (antialiased); JAX is a development dependency for this alone."""
    import jax

    picture = torch.rand((2, 3, *before), generator=torch.Generator().manual_seed(2))
    theirs = jax.image.resize(picture.numpy(), (2, 3, *after), method)
    assert np.abs(resize(picture, after, kernel, lobes).numpy() - np.asarray(theirs)).max() < 1e-5


@pytest.mark.parametrize("lobes", [2, 5, 8])
@pytest.mark.parametrize(("before", "after"), [(28, 224), (96, 40)])
def test_lanczos_of_any_lobes_is_the_formula(lobes: int, before: int, after: int) -> None:
    """sinc(x) sinc(x / lobes), widened when shrinking and normalized, summed plainly in float64."""
    signal = torch.rand(1, 1, 1, before, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    result = resize(signal.expand(1, 1, 3, before), (3, after), "lanczos", lobes)[0, 0, 1].numpy()
    scale = before / after
    for i in range(after):
        x = (np.arange(before) + 0.5 - (i + 0.5) * scale) / max(scale, 1)
        weights = np.where(np.abs(x) < lobes, np.sinc(x) * np.sinc(x / lobes), 0)
        assert result[i] == pytest.approx((weights * signal[0, 0, 0].numpy()).sum() / weights.sum(), abs=2e-6)


@pytest.mark.parametrize("kernel", ["lanczos", "bicubic", "bilinear"])
@pytest.mark.parametrize(("before", "after"), [(28, 224), (512, 224), (5000, 7), (3, 1), (1, 9)])
def test_rounded_weights_are_multiples_of_2_to_minus_14_that_sum_to_1(kernel: str, before: int, after: int) -> None:
    """Then an 8-bit value times a weight, and every partial sum, has fewer than 24 bits: fp32 is exact."""
    matrix = weight_matrix(before, after, kernel, 5, True).astype(np.float64) * 2**14
    assert np.array_equal(matrix, np.round(matrix))
    assert (matrix.sum(axis=1) == 2**14).all()
    assert np.abs(matrix).sum(axis=1).max() * 255 < 2**24
    exact = weight_matrix(before, after, kernel, 5, False)
    assert np.abs(matrix / 2**14 - exact).max() <= 2.0**-14 + 1e-7


@pytest.mark.parametrize(("before", "after"), [(28, 224), (512, 224), (65, 64), (1000, 3)])
def test_band_blocks_hold_every_weight(before: int, after: int) -> None:
    matrix = np.zeros((after, before), np.float32)
    for block in band_blocks(before, after, "lanczos", 5, True):
        rows, columns = block.weights.shape
        matrix[block.out_start : block.out_start + rows, block.in_start : block.in_start + columns] += block.weights
    assert np.array_equal(matrix, weight_matrix(before, after, "lanczos", 5, True))


@pytest.mark.parametrize(("before", "after"), [(28, 224), (200, 96)])
def test_bits_do_not_depend_on_batch_or_threads(before: int, after: int) -> None:
    pixels = _pictures(before, before, count=9)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = resize(pixels, (after, after))
        torch.set_num_threads(2)
        assert torch.equal(resize(pixels, (after, after)), whole)
        assert all(torch.equal(resize(pixels[i : i + 1], (after, after))[0], whole[i]) for i in range(9))
    finally:
        torch.set_num_threads(threads)


def test_autocast_and_reduced_matmul_precision_change_nothing() -> None:
    pixels = _pictures(400, 400)
    plain = resize(pixels, (300, 300))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(resize(pixels, (300, 300)), plain)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_flat_pictures_stay_flat_and_overshoot_is_clamped() -> None:
    flat = torch.full((1, 3, 33, 21), 137, dtype=torch.uint8)
    assert (resize(flat, (80, 9)) == 137).all()
    edge = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    edge[..., 4:] = 255
    assert set(resize(edge, (8, 64)).unique().tolist()) >= {0, 255}


def test_gradients_flow_through_float_pictures() -> None:
    picture = torch.rand(1, 3, 16, 16, requires_grad=True)
    resize(picture, (40, 24)).sum().backward()
    assert picture.grad is not None
    assert picture.grad.sum().item() == pytest.approx(3 * 40 * 24, rel=1e-4)


def test_weights_met_first_in_inference_mode_serve_where_gradients_flow() -> None:
    with torch.inference_mode():
        pixels = resize(_pictures(37, 37, count=9), (51, 51))
        resize(torch.rand(1, 3, 37, 37), (51, 51))
    assert torch.equal(pixels, resize(_pictures(37, 37, count=9), (51, 51)))
    picture = torch.rand(1, 3, 37, 37, requires_grad=True)
    resize(picture * 2, (51, 51)).sum().backward()
    assert picture.grad is not None


def test_any_memory_layout_is_resized_alike() -> None:
    picture = torch.rand((1, 5, 12, 9), generator=torch.Generator().manual_seed(3))
    for other in (picture.to(memory_format=torch.channels_last), picture.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(resize(other, (20, 7)), resize(picture, (20, 7)))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="kernel"):
        resize(_pictures(8, 8), (4, 4), "cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lobes"):
        resize(_pictures(8, 8), (4, 4), lobes=0)


def test_network_inputs_are_scaled_and_normalized() -> None:
    pixels = _pictures(16, 16)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(to_input(pixels, 16, mean, std), expected, atol=1e-5)
    assert to_input(pixels, 24, mean, std, torch.bfloat16).shape == (2, 3, 24, 24)
    assert to_input(pixels, 24, mean, std, torch.bfloat16).dtype == torch.bfloat16


def test_what_normalizes_is_uploaded_once(monkeypatch):
    """In a mode without gradients first, as a plan does; the training that follows may need them."""
    pixels, mean, std = _pictures(8, 8), (0.11, 0.22, 0.33), (0.44, 0.55, 0.66)
    with torch.inference_mode():
        first = to_input(pixels, 8, mean, std)
    monkeypatch.setattr(torch, "tensor", None)  # would fail
    again = to_input(pixels, 8, list(mean), list(std))
    assert torch.equal(first, again)
    again.requires_grad_().mul(again).sum().backward()
    assert torch.equal(again.grad, 2 * again)
