"""Batches of views come in order, whole, and are rendered ahead; the thread ends with whoever asked for them."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
import torch

from pocketvit.config import ViewConfig
from pocketvit.errors import PocketError
from pocketvit.views import Views, stream
from pocketvit.views.ahead import Ahead
from pocketvit.views.streaming import chunks

MIXED = ViewConfig(view_size=8, crop="padded", crop_padding=1, flip=0.5, mixup=0.8)


class Noise:
    size = (8, 8)

    def __init__(self, count: int) -> None:
        self.ids = np.arange(count, dtype=np.uint64)
        self.images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)

    def rgb(self, positions: np.ndarray) -> np.ndarray:
        return self.images[positions]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_batches_are_the_views_of_their_positions(batch_size: int) -> None:
    views = Views(Noise(100), MIXED)
    positions = np.random.default_rng(1).permutation(100)
    whole = views.render(positions, 3)
    batches = list(stream(views, positions, 3, batch_size))
    assert [len(batch.pixels) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert torch.equal(torch.cat([batch.pixels for batch in batches]), whole.pixels)
    assert np.array_equal(np.concatenate([batch.partner for batch in batches]), whole.partner)
    assert np.array_equal(np.concatenate([batch.ratio for batch in batches]), whole.ratio)


def test_no_positions_are_no_batches() -> None:
    assert list(stream(Views(Noise(3), MIXED), np.empty(0, np.int64))) == []


def test_chunks_grow_from_one_batch_and_never_hold_two_views() -> None:
    """Also without an end: requests are asked for one by one."""
    views = Views(Noise(40), MIXED)
    requests = ((np.arange(8), 0 if number < 10 else 1, number) for number in itertools.count())
    found = list(itertools.islice(chunks(views, requests), 5))
    assert [len(chunk) for chunk in found] == [1, 2, 4, 3, 16]
    assert [request[2] for chunk in found for request, _ in chunk] == list(range(26))
    for chunk in found:
        for (positions, view, _), seen in chunk:
            assert torch.equal(seen.pixels, views.render(positions, view).pixels)


def test_a_stream_left_early_leaves_no_thread() -> None:
    before = threading.active_count()
    batches = stream(Views(Noise(100), MIXED), np.arange(100), 0, 10)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # as the end of a `for` loop does
    assert threading.active_count() == before


def test_errors_come_where_their_item_would_have_come() -> None:
    def items():
        yield 1
        yield 2
        raise PocketError("broken image")

    ready = Ahead(items())
    assert [next(ready), next(ready)] == [1, 2]
    with pytest.raises(PocketError, match="broken image"):
        next(ready)
    with pytest.raises(StopIteration):  # and nothing waits for ever
        next(ready)


def test_no_more_than_the_depth_is_made_ahead() -> None:
    made: list[int] = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    with Ahead(items(), depth=3) as ready:
        deadline = time.monotonic() + 10
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [0, 1, 2]
        assert [next(ready) for _ in range(100)] == list(range(100))
