"""Answers in one order of the classes are the same answers in another."""

from __future__ import annotations

import numpy as np

from pocketvit.tasks import task_named


def test_answers_follow_their_classes():
    places = np.array([2, 0, 1])
    likely = task_named("classification").reordered(np.array([[0.5, 0.3, 0.2]], np.float32), places)
    assert likely.tolist() == np.float32([[0.3, 0.2, 0.5]]).tolist()
    boxes = np.array([[[0, 0, 4, 4, 0.9, 0], [1, 1, 5, 5, 0.8, 2], [0, 0, 0, 0, 0, 0]]], np.float32)
    found = task_named("detection").reordered(boxes, places)
    assert found[0, :, 5].tolist() == [2, 1, 2]
    assert np.array_equal(found[..., :5], boxes[..., :5])
