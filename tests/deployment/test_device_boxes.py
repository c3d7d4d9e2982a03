"""The device's numpy finds the boxes that torchvision finds, and lays them where they belong."""

from __future__ import annotations

import runpy
from importlib.resources import files

import numpy as np
import pytest
import torch

from pocketvit.config import ViewConfig
from pocketvit.models import decoding
from pocketvit.tasks import task_named

DEVICE = runpy.run_path(str(files("pocketvit.deployment") / "device" / "boxes.py"))


def outputs(seed: int, places: int = 300, classes: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle, half = rng.random((places, 2)), 0.02 + 0.2 * rng.random((places, 2))
    return np.column_stack([middle - half, middle + half, rng.random((places, classes)) ** 4]).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_suppression_is_torchvisions(seed):
    given = outputs(seed)
    ours = decoding.best_boxes(torch.from_numpy(given)[None])[0].numpy()
    ours = ours[ours[:, 4] > 0]
    theirs = DEVICE["best_boxes"](given)
    assert len(ours) == len(theirs) > 20
    np.testing.assert_allclose(theirs, ours, atol=1e-6)


def test_nothing_is_an_empty_table():
    assert DEVICE["best_boxes"](np.zeros((10, 7), np.float32)).shape == (0, 6)


@pytest.mark.parametrize("aspect", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(480, 640), (333, 97), (5, 50)])
def test_boxes_are_placed_as_here(aspect, size):
    boxes = DEVICE["best_boxes"](outputs(0))
    view = ViewConfig(view_size=96, fit=aspect)
    ours = task_named("detection").placed(boxes[None], view, np.array([size]))[0]
    theirs = DEVICE["placed"](boxes, size, {"view_size": 96, "aspect": aspect})
    np.testing.assert_allclose(theirs, ours, atol=1e-2)


def test_the_limits_are_the_same():
    for name in ("LEAST", "OVERLAP", "MOST"):
        assert DEVICE[name] == getattr(decoding, name)
    from pocketvit.metrics.detection import SHOWN

    assert DEVICE["SHOWN"] == SHOWN
