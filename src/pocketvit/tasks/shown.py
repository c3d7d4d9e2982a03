"""Boxes side by side with the true ones, as the report shows them: where the student misses most comes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..metrics.detection import SAME, SHOWN, overlaps
from ..sources.boxes import Boxes, Detections
from ..views.drawing import with_boxes

if TYPE_CHECKING:
    from ..sources.base import Source

PICTURES = 8
SIDE = 400  # pixels of a picture


def boxes_side_by_side(source: Source, found: Mapping[str, Detections]) -> dict[str, np.ndarray]:
    """Return the arrays of ``samples.npz`` that `reporting.by_box.seen` reads.

    Args:
        source: The scored split, with its true boxes.
        found: By who found them, in pixels of the images.
    """
    truth: Boxes = source.targets
    shown = {title: one.where(one.scores >= SHOWN) for title, one in found.items()}
    student = shown["student"] if "student" in shown else next(iter(shown.values()))
    missed = np.array([len(truth[row].labels) - _hits(truth[row], student[row]) for row in range(len(truth))])
    chosen = np.argsort(-missed, kind="stable")[: PICTURES // 2]
    rest = np.setdiff1d(np.arange(len(truth)), chosen)
    some = rest[np.linspace(0, len(rest) - 1, num=min(PICTURES - len(chosen), len(rest))).astype(int)]
    pictures, words, chosen = [], [], np.concatenate([chosen, some])
    for position, pixels in zip(chosen.tolist(), source.rgb(chosen), strict=True):
        true = truth[position]
        told = f"{len(true.labels)} boxes" if true.known[0] else "nobody looked"
        panels = [_panel(pixels, true.corners, true.labels)]
        said = [told]
        for one in shown.values():
            mine = one[position]
            panels.append(_panel(pixels, mine.corners, mine.labels))
            hits = _hits(true, mine)
            found_words = f"{hits} of {len(true.labels)} found, {len(mine.labels) - hits} others"
            said.append(found_words if true.known[0] else f"{len(mine.labels)} boxes")
        pictures.append(np.stack(panels))
        words.append(said)
    stacked = np.stack(pictures)
    longest = source.targets.sizes[chosen].max(1, keepdims=True)
    high, wide = (np.ceil(source.targets.sizes[chosen] / longest * SIDE).max(0)).astype(int)
    return {
        "seen_pictures": stacked[:, :, :high, :wide],  # of pictures that all lie or all stand, without the white
        "seen_titles": np.array(["truth", *shown]),
        "seen_words": np.array(words),
        "seen_names": np.array([str(source.names[position]) for position in chosen]),
    }


def _hits(truth: Boxes, found: Detections) -> int:
    """Return how many true boxes of an image are found, the surest box first, each box once."""
    alike = overlaps(truth.corners, found.corners)
    alike[truth.labels[:, None] != found.labels] = 0
    hits = 0
    for column in np.argsort(-found.scores, kind="stable"):
        if len(alike) and alike[:, column].max() >= SAME:
            alike[alike[:, column].argmax()] = 0
            hits += 1
    return hits


def _panel(pixels: np.ndarray, corners: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return a picture with boxes, whole, on a square of `SIDE`."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    square = np.full((SIDE, SIDE, 3), 255, np.uint8)
    square[: size[1], : size[0]] = with_boxes(image, corners * scale, labels, None, ())
    return square
