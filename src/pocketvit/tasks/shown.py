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
    counted = truth.where(~truth.ignored)  # of crowds and difficult objects none is missed, and none is wrong
    shown = {title: one.where(one.scores >= SHOWN) for title, one in found.items()}
    student = shown["student"] if "student" in shown else next(iter(shown.values()))
    missed = np.array([len(counted[row].labels) - _hits(counted[row], student[row]) for row in range(len(truth))])
    chosen = np.argsort(-missed, kind="stable")[: PICTURES // 2]
    rest = np.setdiff1d(np.arange(len(truth)), chosen)
    some = rest[np.linspace(0, len(rest) - 1, num=min(PICTURES - len(chosen), len(rest))).astype(int)]
    pictures, words, chosen = [], [], np.concatenate([chosen, some])
    for position, pixels in zip(chosen.tolist(), source.rgb(chosen), strict=True):
        true, wanted = truth[position], counted[position]
        told = _boxes(len(wanted.labels)) if true.known[0] else "nobody looked"
        if true.ignored.any():
            told += f", {int(true.ignored.sum())} crowded or difficult"
        panels = [_panel(pixels, true.corners, true.labels)]
        said = [told]
        for one in shown.values():
            mine = one[position]
            panels.append(_panel(pixels, mine.corners, mine.labels))
            hits = _hits(wanted, mine)
            others = len(mine.labels) - hits - _excused(true, wanted, mine)
            found_words = f"{hits} of {len(wanted.labels)} found, {others} others"
            said.append(found_words if true.known[0] else _boxes(len(mine.labels)))
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


def _excused(truth: Boxes, wanted: Boxes, found: Detections) -> int:
    """Return how many boxes lie on crowds or difficult objects of their class, and on none that counts."""
    aside = truth.where(truth.ignored)
    low = np.maximum(aside.corners[:, None, :2], found.corners[None, :, :2])
    high = np.minimum(aside.corners[:, None, 2:], found.corners[None, :, 2:])
    areas = np.prod(found.corners[:, 2:] - found.corners[:, :2], axis=1)
    within = np.prod(np.clip(high - low, 0, None), axis=2) >= SAME * np.maximum(areas, 1e-12)
    on_crowd = (within & (aside.labels[:, None] == found.labels)).any(0)
    alike = (overlaps(wanted.corners, found.corners) >= SAME) & (wanted.labels[:, None] == found.labels)
    return int((on_crowd & ~alike.any(0)).sum())


def _boxes(count: int) -> str:
    return "1 box" if count == 1 else f"{count} boxes"


def _panel(pixels: np.ndarray, corners: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return a picture with boxes, whole, on a square of `SIDE`."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    square = np.full((SIDE, SIDE, 3), 255, np.uint8)
    square[: size[1], : size[0]] = with_boxes(image, corners * scale, labels, None, ())
    return square
