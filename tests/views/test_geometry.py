"""Boxes go where their pixels go, under every operation that moves pixels, and back."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvit.config import ViewConfig
from pocketvit.errors import PocketError
from pocketvit.sources.boxes import Boxes, offsets_of
from pocketvit.views import Views
from pocketvit.views.geometry import CUT, carried, inverse, mapped, placements

SIDE = 64
MOVES = {
    "crop": ViewConfig(view_size=SIDE),
    "pad": ViewConfig(view_size=SIDE, fit="pad"),
    "stretch": ViewConfig(view_size=SIDE, fit="stretch"),
    "padded crop and flips": ViewConfig(
        view_size=SIDE, fit="pad", crop="padded", crop_padding=9, flip=0.5, vertical_flip=0.5
    ),
    "random box": ViewConfig(view_size=SIDE, crop="random_resized", flip=0.5),
    "zoom": ViewConfig(view_size=SIDE, crop="zoom", zoom=(0.4, 2.0), flip=0.5, transpose=0.5),
    "zoom and colours": ViewConfig(view_size=SIDE, crop="zoom", color_jitter=0.2, erase=0.0, flip=0.5),
}


class Rectangles:
    """One white rectangle on black a picture; ``sizes`` [n, 2] and ``corners`` [n, 4]."""

    def __init__(self, count: int = 24, same_size: bool = False) -> None:
        generator = np.random.default_rng(1)
        self.ids = np.arange(count, dtype=np.uint64) * 31 + 7
        self.sizes = generator.integers(90, 160, (count, 2))
        if same_size:
            self.sizes[:] = (97, 130)
        low = generator.integers(5, 40, (count, 2))
        high = low + generator.integers(15, 40, (count, 2))
        self.corners = np.concatenate((low, high), axis=1).astype(np.float32)  # left, top, right, bottom
        self.images = []
        for (height, width), (left, top, right, bottom) in zip(self.sizes, self.corners.astype(int), strict=True):
            image = np.zeros((height, width, 3), np.uint8)
            image[top:bottom, left:right] = 255
            self.images.append(image)
        self.same_size = same_size

    def rgb(self, positions):
        chosen = [self.images[i] for i in positions]
        return np.stack(chosen) if self.same_size else chosen

    def boxes(self) -> Boxes:
        count = len(self.ids)
        return Boxes(
            offsets_of(np.ones(count, int)),
            self.corners,
            np.arange(count) % 3,
            np.zeros(count, np.uint8),
            self.sizes.astype(np.int32),
            np.ones(count, bool),
        )


def seen(pixels: np.ndarray) -> np.ndarray:
    """The box around what is light, by half brightness, [n, 4]; NaN where nothing is."""
    result = np.full((len(pixels), 4), np.nan)
    for row, picture in enumerate(pixels[:, 0] > 127):
        down, across = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
        if len(down):
            result[row] = across[0], down[0], across[-1] + 1, down[-1] + 1
    return result


@pytest.mark.parametrize("same_size", [False, True])
@pytest.mark.parametrize("name", MOVES)
def test_boxes_follow_their_pixels(name, same_size):
    source = Rectangles(same_size=same_size)
    views = Views(source, MOVES[name], seed=3)
    positions = np.arange(len(source.ids))[::-1].copy()
    for view in (0, 5):
        pixels = views.render(positions, view).pixels.numpy()
        boxes = source.boxes()[positions]
        moved = carried(boxes, placements(views, positions, view, boxes.sizes), SIDE)
        found = seen(pixels)
        large = [row for row in range(len(positions)) if moved.counts[row] and np.ptp(moved[row].corners) > 3]
        assert len(large) > len(positions) // 2
        for row in large:
            np.testing.assert_allclose(moved[row].corners[0], found[row], atol=1.01, err_msg=f"{name} {row}")
        assert all(np.isnan(found[row]).all() or moved.counts[row] for row in range(len(positions)))


def test_views_of_boxes_depend_on_the_sample_alone():
    source = Rectangles()
    views = Views(source, MOVES["zoom"], seed=3)
    together = placements(views, np.arange(24), 2, source.sizes)
    for row in (0, 7, 23):
        assert np.array_equal(placements(views, np.array([row]), 2, source.sizes[[row]])[0], together[row])
    assert not np.array_equal(placements(views, np.arange(24), 3, source.sizes), together)


def test_zoom_is_rendered_alike_alone_and_together():
    source = Rectangles()
    views = Views(source, MOVES["zoom"], seed=3)
    together = views.render(np.arange(24), 1).pixels
    assert all(np.array_equal(views.render(np.array([row]), 1).pixels[0], together[row]) for row in (3, 11))


def test_boxes_come_back():
    source = Rectangles()
    views = Views(source, MOVES["zoom"], seed=0)
    maps = placements(views, np.arange(24), 0, source.sizes)
    there = mapped(source.corners, maps)
    np.testing.assert_allclose(mapped(there, inverse(maps)), source.corners, atol=1e-6)


def test_boxes_that_are_mostly_outside_are_marked_and_those_outside_are_gone():
    boxes = Boxes(
        offsets_of(np.array([3])),
        np.array([[0, 0, 10, 10], [-8, 0, 2, 10], [50, 0, 60, 10]], np.float32),
        np.array([0, 1, 2]),
        np.array([0, 1, 0], np.uint8),
        np.array([[10, 10]], np.int32),
        np.array([True]),
    )
    moved = carried(boxes, np.array([[[1.0, 0, 0], [0, 1, 0]]]), 40)
    assert moved.labels.tolist() == [0, 1]
    assert moved.flags.tolist() == [0, CUT | 1]
    assert moved.corners.tolist() == [[0, 0, 10, 10], [0, 0, 2, 10]]
    assert moved.sizes.tolist() == [[40, 40]]


@pytest.mark.parametrize("config", [ViewConfig(mixup=0.5), ViewConfig(randaugment_ops=2)])
def test_views_that_boxes_cannot_follow_are_refused(config):
    source = Rectangles(2)
    with pytest.raises(PocketError, match="boxes cannot follow"):
        placements(Views(source, config), np.arange(2), 0, source.sizes)


def test_a_zoom_of_one_is_a_letterbox():
    source = Rectangles()
    zoomed = Views(source, ViewConfig(view_size=SIDE, crop="zoom", zoom=(1.0, 1.0)), seed=0)
    padded = Views(source, ViewConfig(view_size=SIDE, fit="pad"))
    for row in range(6):
        one, other = (seen(views.render(np.array([row]), 0).pixels.numpy())[0] for views in (zoomed, padded))
        np.testing.assert_allclose(one[2:] - one[:2], other[2:] - other[:2])


def test_zooms_out_of_range_are_refused():
    with pytest.raises(PocketError, match="zoom must be"):
        Views(Rectangles(2), ViewConfig(crop="zoom", zoom=(2.0, 1.0)))
