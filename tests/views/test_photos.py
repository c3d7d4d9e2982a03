"""Ordinary photographs in ordinary memory: read and framed a few at a time, decoded smaller where a source can."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from pocketvit.config import ViewConfig
from pocketvit.views import Views
from pocketvit.views import render as rendering

CROPPED = ViewConfig(view_size=16, crop="random_resized", flip=0.5, randaugment_ops=1)
CONFIGS = {"plain": ViewConfig(view_size=16), "cropped": CROPPED}


class Photos:
    """Smooth photographs as JPEG files in memory; notes how many pictures were ever read at once."""

    def __init__(self, sides: list[tuple[int, int]], size: tuple[int, int] | None = None) -> None:
        random = np.random.default_rng(0)
        self.ids = np.arange(len(sides), dtype=np.uint64)
        self.size = size
        self.files = []
        for height, width in sides:
            small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            stored = io.BytesIO()
            small.resize((width, height), Image.Resampling.BICUBIC).save(stored, "JPEG", quality=95)
            self.files.append(stored.getvalue())
        self.read: list[int] = []
        self.threads: set[int] = set()

    def rgb(self, positions: np.ndarray) -> np.ndarray | list[np.ndarray]:
        self.read.append(len(positions))
        self.threads.add(threading.get_ident())
        images = [np.asarray(Image.open(io.BytesIO(self.files[position]))) for position in positions]
        return np.stack(images) if self.size else images


class Reducing(Photos):
    """A source that decodes JPEG files at a half, a quarter or an eighth of their size."""

    def reduced(self, position: int, least: int) -> np.ndarray:
        image = Image.open(io.BytesIO(self.files[position]))
        for part in (8, 4, 2):
            if min(image.size) // part >= least:
                image.draft("RGB", (image.width // part, image.height // part))
                break
        self.read.append(image.width)
        return np.asarray(image)


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("size", [None, (160, 160)])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_batch_is_read_a_few_pictures_at_a_time_and_looks_the_same(monkeypatch, config, size) -> None:
    sides = [(160, 160)] * 12 if size else [(160, 160), (90, 200)] * 6
    source = Photos(sides, size)
    whole = Views(source, CONFIGS[config]).render(np.arange(12), 1).pixels
    assert max(source.read) == (12 if size else 1)
    source.read.clear()
    monkeypatch.setattr(rendering, "_READ_BYTES", 3 * 3 * 160 * 160)
    some = Views(source, CONFIGS[config]).render(np.arange(12), 1).pixels
    assert max(source.read) == (3 if size else 1)
    assert torch.equal(some, whole)
    assert len(source.threads) > 1


@pytest.mark.parametrize("config", CONFIGS)
def test_a_source_may_decode_large_pictures_smaller(config) -> None:
    """Twice the view's size is what is asked for: views differ little, and are still the same for any grouping."""
    sides = [(320, 480), (320, 480), (40, 30)]
    full, source = Photos(sides), Reducing(sides)
    views = Views(source, CONFIGS[config])
    pixels = views.render(np.arange(3), 1).pixels
    assert source.read[:2] == [60, 60]  # an eighth: 40 x 60, no side below 32
    exact = Views(full, CONFIGS[config]).render(np.arange(3), 1).pixels
    if config == "plain":
        assert (pixels.float() - exact.float()).abs().mean() < 3
    assert torch.equal(pixels[2], exact[2])  # too small to be reduced
    assert torch.equal(views.render(np.array([1]), 1).pixels[0], pixels[1])


def test_reduced_pictures_have_views_of_their_own() -> None:
    """Labels that were stored of pictures decoded in full are not mistaken for theirs."""
    sides = [(40, 40)]
    one, other = Views(Photos(sides), CROPPED).fingerprint, Views(Reducing(sides), CROPPED).fingerprint
    assert one != other
    assert one == {name: value for name, value in other.items() if name != "reduced"}


def test_small_boxes_are_never_enlarged_from_reduced_pictures() -> None:
    asked = []

    class Asked(Reducing):
        def reduced(self, position: int, least: int) -> np.ndarray:
            asked.append(least)
            return super().reduced(position, least)

    for scale in (1.0, 0.35, 0.01):
        config = ViewConfig(view_size=16, crop="random_resized", crop_scale=(scale, 1.0))
        Views(Asked([(40, 40)]), config).render(np.arange(1), 0)
    assert asked == [32, 32, 160]
