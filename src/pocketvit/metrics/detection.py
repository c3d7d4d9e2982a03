"""How good boxes are: COCO's average precision, by class and by size, and the agreement of two detectors.

Average precision is faster-coco-eval's, which computes what pycocotools does. Crowds and difficult objects are neither
right nor missed. Sizes are COCO's: small below 32 x 32 pixels of the image, large above 96 x 96.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import t

from ..errors import PocketError
from ..sources.boxes import Boxes, Detections

SHOWN = 0.4  # score from which a box is shown to people, and counted where two detectors are compared
SAME = 0.5  # overlap (intersection over union) from which two boxes of a class are the same
_GROUPS = 20  # of images that are left out in turns
_SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class DetectionScores:
    """What a detector is worth on some images. None and NaN where there is no object of the kind.

    Attributes:
        n: Images that somebody looked at.
        boxes: True boxes in them that count.
        map: Mean over classes and over overlaps .50, .55 to .95 of the average precision.
        map_50: At an overlap of .5; ``map_75`` at .75.
        interval: 95 % interval of ``map``: groups of images left out in turns (delete-a-group jackknife, Kott 2001).
        by_size: ``map`` for objects of each of COCO's sizes.
        by_class: float64 [C], of each class; ``by_class_50`` likewise at an overlap of .5.
        recall: Share of the true boxes that are among the 100 best of their image, over the same overlaps.
        curves: float64 [C, 101], precision at an overlap of .5 for recalls 0, .01 to 1.
        agreement: See `agreement`; None without a teacher.
    """

    n: int
    boxes: int
    map: float | None
    map_50: float | None
    map_75: float | None
    interval: tuple[float, float] | None
    by_size: dict[str, float | None]
    by_class: np.ndarray
    by_class_50: np.ndarray
    recall: float | None
    curves: np.ndarray
    agreement: float | None = None

    @classmethod
    def unknown(cls, classes: int, agreement: float | None) -> DetectionScores:
        """Return what can be said of images that nobody annotated."""
        nothing = np.full(classes, np.nan)
        return cls(0, 0, None, None, None, None, {}, nothing, nothing, None, np.full((classes, 101), np.nan), agreement)


def score_boxes(
    found: Detections,
    truth: Boxes,
    classes: int,
    *,
    teacher: Detections | None = None,
    groups: np.ndarray | None = None,
    interval: bool = True,
) -> DetectionScores:
    """Compare detections with the true boxes of the same images, in the same pixels.

    Args:
        found: Of N images.
        truth: Of the same.
        classes: C.
        teacher: What the teacher found in them, or None.
        groups: int [N], of images that belong together.
        interval: Whether to take one: it costs about twenty times the rest.

    Raises:
        PocketError: The numbers of images differ, or nobody looked at any.
    """
    if len(found) != len(truth) or not len(truth):
        raise PocketError(f"cannot score the boxes of {len(found)} images against those of {len(truth)}.")
    same = None if teacher is None else agreement(found, teacher)
    images = np.flatnonzero(truth.known)
    if not len(images):
        raise PocketError("cannot score boxes in images that nobody annotated.")
    coco = _Coco(found[images], truth[images], classes)
    precision, recall = coco.evaluate(np.arange(len(images)))
    between = None
    if interval:
        between = _jackknife(coco, np.arange(len(images)) if groups is None else groups[images], _mean(precision[0]))
    return DetectionScores(
        n=len(images),
        boxes=int((~truth[images].ignored).sum()),
        map=_mean(precision[0]),
        map_50=_mean(precision[0, 0]),
        map_75=_mean(precision[0, 5]),
        interval=between,
        by_size={name: _mean(precision[number]) for number, name in enumerate(_SIZES, 1)},
        by_class=_means(precision[0], (0, 1)),
        by_class_50=_means(precision[0, 0], (0,)),
        recall=_mean(recall[0]),
        curves=precision[0, 0].T,
        agreement=same,
    )


def agreement(one: Detections, other: Detections) -> float:
    """Return how many boxes two detectors find alike, as a share: 2 |both| / (|one| + |other|).

    Boxes of score `SHOWN` and more count; two are alike if they are of one class and overlap by half, each matched
    with one other at most. Two that find nothing agree.
    """
    one, other = (found.where(found.scores >= SHOWN) for found in (one, other))
    both = 0
    for image in range(len(one)):
        mine, theirs = one[image], other[image]
        alike = overlaps(mine.corners, theirs.corners)
        alike = np.where((mine.labels[:, None] == theirs.labels) & (alike >= SAME), alike, 0)
        rows, columns = linear_sum_assignment(alike, maximize=True)
        both += int((alike[rows, columns] > 0).sum())
    total = len(one.labels) + len(other.labels)
    return 2 * both / total if total else 1.0


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes [a, 4] and [b, 4]: float64 [a, b]."""
    one, other = (boxes.astype(np.float64) for boxes in (one, other))
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    return common / np.maximum(areas[0][:, None] + areas[1] - common, 1e-12)


class _Coco:
    """Detections and true boxes as faster-coco-eval takes them, to be evaluated on some images or others."""

    def __init__(self, found: Detections, truth: Boxes, classes: int) -> None:
        from faster_coco_eval import COCO, COCOeval_faster  # here, for it is not needed to classify

        self.classes = classes
        quiet = {"print_function": lambda *_, **__: None}
        images = [
            {"id": number, "height": height, "width": width}
            for number, (height, width) in enumerate(truth.sizes.tolist())
        ]
        boxes = [
            {
                "id": number,
                "image_id": image,
                "category_id": label,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(crowd),
            }
            for number, (image, label, box, crowd) in enumerate(
                zip(truth.images.tolist(), truth.labels.tolist(), _sides(truth.corners), truth.ignored, strict=True), 1
            )
        ]
        names = [{"id": number, "name": str(number)} for number in range(classes)]
        self.truth = COCO({"images": images, "annotations": boxes, "categories": names}, **quiet)
        answers = [
            {"image_id": image, "category_id": label, "bbox": box, "score": score}
            for image, label, box, score in zip(
                found.images.tolist(), found.labels.tolist(), _sides(found.corners), found.scores.tolist(), strict=True
            )
        ]
        self.eval = COCOeval_faster(self.truth, self.truth.loadRes(answers), "bbox", **quiet) if answers else None

    def evaluate(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return precisions [4 sizes, 10 overlaps, 101 recalls, C] and recalls [4, 10, C]; NaN: no such object."""
        if self.eval is None:  # nothing was found anywhere
            there = np.zeros((4, self.classes), bool)
            for box in self.truth.anns.values():
                if not box["iscrowd"] and box["image_id"] in set(images.tolist()):
                    size = 1 + int(box["area"] > 32**2) + int(box["area"] > 96**2)
                    there[[0, size], box["category_id"]] = True
            nothing = np.where(there, 0.0, np.nan)
            return (
                np.broadcast_to(nothing[:, None, None], (4, 10, 101, self.classes)),
                np.broadcast_to(nothing[:, None], (4, 10, self.classes)),
            )
        self.eval.params.imgIds = images.tolist()
        self.eval.evaluate()
        self.eval.accumulate()
        precision, recall = (np.asarray(self.eval.eval[name], np.float64) for name in ("precision", "recall"))
        precision, recall = (np.where(values < 0, np.nan, values)[..., -1] for values in (precision, recall))
        return np.moveaxis(precision, 3, 0), np.moveaxis(recall, 2, 0)


def _jackknife(coco: _Coco, groups: np.ndarray, whole: float | None) -> tuple[float, float] | None:
    """Return a 95 % interval of the mean average precision around ``whole``."""
    _, numbers = np.unique(groups, return_inverse=True)
    order = np.random.Generator(np.random.Philox(key=0)).permutation(numbers.max() + 1)
    parts = min(_GROUPS, len(order))
    part = (order % parts)[numbers]
    if whole is None or parts < 2:
        return None
    without = [_mean(coco.evaluate(np.flatnonzero(part != number))[0][0]) for number in range(parts)]
    figures = np.array([whole if value is None else value for value in without])
    error = np.sqrt((parts - 1) / parts * ((figures - figures.mean()) ** 2).sum())
    reach = float(t.ppf(0.975, parts - 1) * error)
    return max(0.0, whole - reach), min(1.0, whole + reach)


def _sides(corners: np.ndarray) -> list[list[float]]:
    """Corners [m, 4] to COCO's left, top, width, height."""
    corners = corners.astype(np.float64)
    return np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1).tolist()


def _mean(values: np.ndarray) -> float | None:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None


def _means(values: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Means over axes that are NaN throughout or nowhere."""
    return np.asarray(values.mean(axis=tuple(axes)))


def rounded(value: Any) -> str:
    """Return a figure for people: ".457", "n/a" where there is none."""
    return "n/a" if value is None or np.isnan(value) else f"{value:.3f}".lstrip("0") or "0"
