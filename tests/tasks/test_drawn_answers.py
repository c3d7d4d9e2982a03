"""Boxes on pictures can be seen whatever is below them, and pictures that lie are shown without white under them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from pocketvit.sources import open_images
from pocketvit.sources.boxes import CROWD, Boxes, Detections
from pocketvit.tasks.shown import SIDE, boxes_side_by_side
from pocketvit.views.drawing import COLOURS, with_boxes

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))
from drawn_boxes import scenes, write_coco


def test_a_box_is_seen_on_a_ground_of_its_own_colour():
    for label, colour in enumerate(COLOURS):
        ground = np.full((40, 40, 3), [int(colour[at : at + 2], 16) for at in (1, 3, 5)], np.uint8)
        drawn = with_boxes(ground, np.array([[10, 10, 30, 30]]), np.array([label]), None, ())
        contrast = np.abs(drawn.astype(int) - ground).sum(2)
        assert (contrast[9, 9:32] > 150).all()  # the edge
        assert not contrast[10, 10:31].any()  # the box itself


def test_pictures_that_lie_have_no_white_below_them(tmp_path):
    source = open_images(write_coco(tmp_path / "coco", scenes(size=(120, 30))), progress=False).test
    nothing = np.zeros((0, 4), np.float32)
    found = Detections(np.zeros(len(source) + 1, np.int64), nothing, np.zeros(0, np.int64), np.zeros(0, np.float32))
    pictures = boxes_side_by_side(source, {"student": found})["seen_pictures"]
    assert pictures.shape[2:4] == (SIDE // 4, SIDE)


class Pictures:
    """As much of a source as is shown."""

    names = ("a.png",)

    def __init__(self, targets: Boxes) -> None:
        self.targets = targets

    def rgb(self, positions):
        return np.zeros((len(positions), 40, 60, 3), np.uint8)


def test_crowds_are_neither_missed_nor_found():
    """One object is found; of two boxes on a crowd none is an object more, and the crowd is not missed."""
    truth = Boxes(
        offsets=np.array([0, 2]), corners=np.array([[2, 2, 12, 12], [20, 0, 60, 40]], np.float32),
        labels=np.array([0, 0]), flags=np.array([0, CROWD], np.uint8), sizes=np.array([[40, 60]]),
        known=np.array([True]),
    )  # fmt: skip
    corners = np.array([[2, 2, 12, 12], [22, 2, 30, 10], [40, 20, 50, 30], [2, 22, 12, 32]], np.float32)
    found = Detections(np.array([0, 4]), corners, np.zeros(4, np.int64), np.full(4, 0.9, np.float32))
    said = boxes_side_by_side(Pictures(truth), {"student": found})["seen_words"]
    assert said.tolist() == [["1 box, 1 crowded or difficult", "1 of 1 found, 1 others"]]
