"""Ordinary photographs in ordinary memory: read and framed a few at a time."""

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


def test_pictures_of_a_bounded_resolution_have_views_of_their_own() -> None:
    """Labels that were stored of pictures decoded in full are not mistaken for theirs."""
    full, bounded = Photos([(40, 40)]), Photos([(40, 40)])
    bounded.bound = 448
    one, other = Views(full, CROPPED).fingerprint, Views(bounded, CROPPED).fingerprint
    assert other == {**one, "bound": 448}
