"""Answers of detectors [N, K, 6] as ragged boxes, those of several detectors as one's, and what they are worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..metrics.detection import DetectionScores
from ..models.decoding import MOST
from ..sources.boxes import Detections, offsets_of
from ..teachers.fusion import SoftBoxes, fuse_boxes

_IMAGES = 64  # that are fused at a time: each box takes a number per class


def detections(answers: np.ndarray) -> Detections:
    """Return answers [N, K, 6] as ragged columns, in whatever frame they are."""
    there = answers[..., 4] > 0
    rows = answers[there]
    return Detections(
        offsets=offsets_of(there.sum(1)),
        corners=rows[:, :4].astype(np.float32),
        labels=rows[:, 5].astype(np.int64),
        scores=rows[:, 4].astype(np.float32),
    )


def fused(answers: Sequence[np.ndarray], unknown: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the answers [N, K, 6] that those of several detectors, [N, ., 6] in one frame, make: see `fuse_boxes`.

    Args:
        answers: Of each detector.
        unknown: Classes that each does not know.
    """
    found = [detections(one) for one in answers]
    classes = 1 + max(int(one.labels.max(initial=0)) for one in found)
    silent = [tuple(label for label in labels if label < classes) for labels in unknown]
    parts = []
    for start in range(0, len(answers[0]), _IMAGES):
        some = [_soft(one[start : start + _IMAGES], classes, rest) for one, rest in zip(found, silent, strict=True)]
        merged = fuse_boxes(some)
        scores, labels = merged.probabilities.max(1)
        columns = (merged.offsets, merged.corners, labels, scores)
        parts.append(Detections(*(column.numpy() for column in columns)))
    return _answers(Detections.joined(parts))


def _soft(found: Detections, classes: int, unknown: tuple[int, ...]) -> SoftBoxes:
    likely = np.zeros((len(found.labels), classes), np.float32)
    likely[np.arange(len(likely)), found.labels] = found.scores
    offsets, corners, probabilities = map(torch.from_numpy, (found.offsets, found.corners, likely))
    return SoftBoxes(offsets, corners, probabilities, unknown)


def _answers(found: Detections) -> np.ndarray:
    """Return ragged columns, best first, as answers [N, K, 6]."""
    place = np.arange(len(found.labels)) - found.offsets[found.images]
    kept = place < MOST
    answers = np.zeros((len(found), MOST, 6), np.float32)
    columns = np.column_stack((found.corners, found.scores, found.labels))
    answers[found.images[kept], place[kept]] = columns[kept]
    return answers


@dataclasses.dataclass(frozen=True)
class BoxJudgement:
    """All figures of one detector's answers: what a row of the table holds."""

    scores: DetectionScores
    classes: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """Return the figures under the names of ``results.json``, as JSON-like values."""
        scores = self.scores
        found = {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(self.classes, scores.by_class, strict=True)
        }
        return {
            "map": scores.map,
            "map_50": scores.map_50,
            "map_75": scores.map_75,
            "map_interval": None if scores.interval is None else list(scores.interval),
            "n": scores.n,
            "boxes": scores.boxes,
            "by_size": scores.by_size,
            "by_class": found,
            "curve": [round(float(one), 4) for one in _mean_curve(scores.curves)],
            "by_class_50": {
                name: None if np.isnan(value) else float(value)
                for name, value in zip(self.classes, scores.by_class_50, strict=True)
            },
            "recall": scores.recall,
            "agreement": scores.agreement,
        }


def _mean_curve(curves: np.ndarray) -> np.ndarray:
    """Mean over the classes that are there."""
    there = curves[~np.isnan(curves).any(1)]
    return there.mean(0) if len(there) else np.zeros(0)
