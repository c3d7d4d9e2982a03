"""Colour operations are within one level of Pillow's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from pocketvit.views import colour
from pocketvit.views.randaugment import recolour


def _pictures() -> np.ndarray:
    """Noise, a dark smooth picture, few levels, flat, and two levels: uint8 [5,3,17,23]."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (3, 17, 23))
    smooth = np.add.outer(np.arange(17) * 3, np.arange(23) * 2)[None] + np.array([10, 40, 70])[:, None, None]
    few = random.integers(3, 6, (3, 17, 23)) * 30
    flat = np.full((3, 17, 23), 77)
    two = random.integers(0, 2, (3, 17, 23)) * 200
    return np.stack([noise, smooth, few, flat, two]).astype(np.uint8)


def _through_pillow(pixels: np.ndarray, operation: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    images = [Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))) for picture in pixels]
    return np.stack([np.asarray(operation(image)).transpose(2, 0, 1) for image in images])


STRENGTHS = [0, 48, 256, 300, 486]
CASES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[Image.Image], Image.Image]]] = {
    "autocontrast": (lambda x: colour.apply_tables(x, colour.autocontrast_tables(x)), ImageOps.autocontrast),
    "equalize": (lambda x: colour.apply_tables(x, colour.equalize_tables(x)), ImageOps.equalize),
}
for _bits in (1, 4, 8):
    CASES[f"posterize {_bits}"] = (
        lambda x, b=_bits: colour.apply_tables(x, colour.posterize_table(b)),
        lambda image, b=_bits: ImageOps.posterize(image, b),
    )
for _threshold in (0, 26, 128, 255):
    CASES[f"solarize {_threshold}"] = (
        lambda x, t=_threshold: colour.apply_tables(x, colour.solarize_table(t)),
        lambda image, t=_threshold: ImageOps.solarize(image, t),
    )
for _s in STRENGTHS:
    CASES[f"brightness {_s}"] = (
        lambda x, s=_s: colour.apply_tables(x, colour.blend_table(0, s)),
        lambda image, s=_s: ImageEnhance.Brightness(image).enhance(s / 256),
    )
    CASES[f"contrast {_s}"] = (
        lambda x, s=_s: colour.apply_tables(x, colour.blend_table(colour.mean_luma(x), np.full(len(x), s))),
        lambda image, s=_s: ImageEnhance.Contrast(image).enhance(s / 256),
    )
    CASES[f"color {_s}"] = (
        lambda x, s=_s: colour.saturate(x, s),
        lambda image, s=_s: ImageEnhance.Color(image).enhance(s / 256),
    )
    CASES[f"sharpness {_s}"] = (
        lambda x, s=_s: colour.sharpen(x, s),
        lambda image, s=_s: ImageEnhance.Sharpness(image).enhance(s / 256),
    )


@pytest.mark.parametrize("name", CASES)
def test_within_one_level_of_pillow(name: str) -> None:
    ours, theirs = CASES[name]
    pixels = _pictures()
    before = pixels.copy()
    difference = np.abs(ours(pixels).astype(int) - _through_pillow(pixels, theirs).astype(int))
    assert difference.max() <= 1
    assert np.array_equal(pixels, before)


def test_luma_and_its_mean_are_pillows() -> None:
    pixels = _pictures()
    for picture, grey, mean in zip(pixels, colour.luma(pixels), colour.mean_luma(pixels), strict=True):
        image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).convert("L")
        assert np.array_equal(grey, np.asarray(image))
        assert mean == int(np.asarray(image).mean() + 0.5)


@pytest.mark.parametrize("operation", ["brightness", "color", "contrast", "sharpness"])
def test_a_direction_strengthens_or_weakens_each_picture_by_itself(operation: str) -> None:
    pixels = np.repeat(_pictures()[:1], 2, axis=0)
    both = recolour(pixels, operation, 0.5, np.array([0, 1]))
    assert np.array_equal(both[:1], recolour(pixels[:1], operation, 0.5, np.array([0])))
    assert np.array_equal(both[1:], recolour(pixels[1:], operation, 0.5, np.array([1])))
    assert not np.array_equal(both[0], both[1])


@pytest.mark.parametrize("operation", ["brightness", "color", "contrast", "sharpness", "posterize", "solarize"])
def test_magnitude_zero_changes_nothing(operation: str) -> None:
    pixels = _pictures()
    changed = np.abs(recolour(pixels, operation, 0.0, np.zeros(5, int)).astype(int) - pixels).max()
    assert changed == (0 if operation != "solarize" else 255)  # torchvision's threshold 255 inverts white, too


def test_pictures_of_one_pixel_are_handled() -> None:
    pixel = np.array([10, 20, 30], np.uint8).reshape(1, 3, 1, 1)
    for operation in ("brightness", "color", "contrast", "sharpness", "posterize", "autocontrast", "equalize"):
        assert recolour(pixel, operation, 0.9, np.zeros(1, int)).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("shape", [(2, 3, 256, 200), (2, 3, 257, 201)])
def test_large_pictures_take_shortcuts_to_the_same_values(shape: tuple[int, ...]) -> None:
    """Values looked up in pairs (where they are even in number) and histograms, against plain indexing and Pillow."""
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, shape).astype(np.uint8)
    tables = random.integers(0, 256, (2, 3, 256)).astype(np.uint8)
    pictures, channels = np.arange(2)[:, None, None, None], np.arange(3)[:, None, None]
    assert np.array_equal(colour.apply_tables(pixels, tables), tables[pictures, channels, pixels])
    assert np.array_equal(colour.apply_tables(pixels, tables[:, 0]), tables[:, 0][pictures, pixels])
    assert np.array_equal(colour.apply_tables(pixels, tables[:1, 0]), tables[0, 0][pixels])
    expected = [np.asarray(ImageOps.equalize(Image.fromarray(plane))) for plane in pixels.reshape(6, *shape[2:])]
    ours = colour.apply_tables(pixels, colour.equalize_tables(pixels))
    assert np.array_equal(ours, np.stack(expected).reshape(shape))
