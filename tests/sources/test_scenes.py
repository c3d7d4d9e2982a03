"""Scenes that are drawn are the same everywhere, and their boxes lie where the objects are."""

from __future__ import annotations

import hashlib

import numpy as np

from pocketvit.sources import open_images
from pocketvit.sources.scenes import COUNTS, SIDE, list_scenes


def test_scenes_are_a_detection_dataset_with_its_own_splits():
    dataset = open_images("scenes")
    assert dataset.task == "detection"
    assert {split: len(source) for split, source in dataset.splits.items()} == COUNTS
    targets = dataset.train.targets
    assert 0 in targets.counts  # some show nothing
    assert set(targets.labels.tolist()) == {0, 1, 2, 3}
    assert (targets.corners >= 0).all()
    assert (targets.corners <= SIDE).all()
    sides = targets.corners[:, 2:] - targets.corners[:, :2]
    assert sides.min() >= 6


def test_drawing_again_gives_the_same():
    one, other = list_scenes(), list_scenes()
    assert (
        hashlib.sha256(one.images.parts[0].tobytes()).digest()
        == hashlib.sha256(other.images.parts[0].tobytes()).digest()
    )
    assert one.targets.same(other.targets)


def test_boxes_lie_around_objects():
    """Inside a square's box the picture is of one colour; outside it is not."""
    listing = list_scenes()
    images, targets = listing.images.parts[0], listing.targets
    flat = 0
    squares = np.flatnonzero((targets.labels == 2) & (targets.counts[targets.images] == 1))
    for row in squares:
        left, top, right, bottom = targets.corners[row].astype(int)
        inside = images[targets.images[row], top:bottom, left:right].reshape(-1, 3).std(0).max()
        flat += inside < 1
    assert len(squares) > 5
    assert flat == len(squares)
