"""Boxes on pictures can be seen whatever is below them, and pictures that lie are shown without white under them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from pocketvit.sources import open_images
from pocketvit.sources.boxes import Detections
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
