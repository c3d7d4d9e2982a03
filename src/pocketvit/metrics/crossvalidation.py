"""Cross-validation: every image answered once, by the network of the fold that it was held out of.

Few images (under about 500) leave a test split too small to say much. Pooling the out-of-fold answers makes every image
a test image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PocketError
from ..files import write_text
from .judgement import Judgement
from .screening import AtPoint, OperatingPoint, errors_at


@dataclass(frozen=True)
class OutOfFold:
    """What each image was answered by the network that never saw it.

    Attributes:
        names: [n] of the images.
        fold: int [n], the fold that an image was held out in.
        targets: int [n], -1 where unknown; int [n, C] for several labels an image.
        probabilities: floating [n, C].
        groups: int or text [n], the patient, say, of each image; None where images are independent.
    """

    names: Sequence[str]
    fold: np.ndarray
    targets: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class Spread:
    """One figure over the folds.

    The folds' networks share most of their training images, so that the deviation over the root of k is *not* the
    error of the mean: no unbiased estimate of that exists (Bengio & Grandvalet, JMLR 2004).

    Attributes:
        mean: Over the folds that have the figure.
        deviation: Standard deviation over them (n - 1); None for one.
        low, high: The least and the most.
        folds: How many have it.
    """

    mean: float
    deviation: float | None
    low: float
    high: float
    folds: int

    def words(self, scale: float = 100.0, digits: int = 1, unit: str = " %") -> str:
        """Say it: "91.2 % over 5 folds, from 88.0 to 94.1 %, standard deviation 2.3"."""
        mean, low, high = (f"{scale * value:.{digits}f}" for value in (self.mean, self.low, self.high))
        text = f"{mean}{unit} over {self.folds} fold{'' if self.folds == 1 else 's'}"
        if self.deviation is None:
            return text
        return f"{text}, from {low} to {high}{unit}, standard deviation {scale * self.deviation:.{digits}f}"


@dataclass(frozen=True)
class FoldScores:
    """Figures of a cross-validation.

    Attributes:
        pooled: Over all images, with intervals. Its AUC ranks answers of different networks against each other, which
            can only blur it (Forman & Scholz 2010, "Apples-to-Apples in Cross-Validation Studies"): the mean of the
            folds' own stands beside it.
        folds: By fold.
        spread: "accuracy", "auc", "balanced_accuracy", "kappa", "sensitivity", ... -> over the folds that have it.
    """

    pooled: Judgement
    folds: Mapping[int, Judgement]
    spread: Mapping[str, Spread]


_SPREAD = (
    "accuracy",
    "auc",
    "balanced_accuracy",
    "average_precision",
    "kappa",
    "mae",
    "sensitivity",
    "specificity",
    "ece",
)


def pool_folds(
    given: OutOfFold,
    classes: Sequence[str],
    *,
    judge: Callable[..., Judgement],
    points: Mapping[int, OperatingPoint | None] | None = None,
) -> FoldScores:
    """Judge out-of-fold answers, pooled and fold by fold.

    Args:
        given: One row an image.
        classes: Names of the C classes.
        judge: The task's.
        points: The operating point of each fold, chosen on its own validation images, for two classes. Pooled, every
            image is called at its own fold's threshold.

    Raises:
        PocketError: Numbers of rows differ, an image or a group stands in several folds.
    """
    _check(given)
    points = points or {}

    def judged(rows: np.ndarray, point: OperatingPoint | None) -> Judgement:
        groups = None if given.groups is None else np.unique(given.groups, return_inverse=True)[1][rows]
        return judge(given.probabilities[rows], given.targets[rows], classes, groups=groups, point=point)

    folds = {}
    for number in np.unique(given.fold).tolist():
        folds[number] = judged(given.fold == number, points.get(number))
    pooled = judged(np.ones(len(given.fold), bool), None)
    at = _pooled_errors(given, points)
    if at is not None:
        pooled = replace(pooled, screening=replace(pooled.screening, at=at))
    fields = [judgement.fields() for judgement in folds.values()]
    spread = {}
    for name in _SPREAD:
        values = [value for field in fields if (value := field.get(name)) is not None]
        if values:
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            spread[name] = Spread(float(np.mean(values)), deviation, min(values), max(values), len(values))
    return FoldScores(pooled, folds, spread)


def write_predictions(
    path: Path | str, given: OutOfFold, classes: Sequence[str], named: Callable[[Any, Sequence[str]], str], answers: Any
) -> Path:
    """Write ``predictions.csv``: name, group (where there are any), fold, truth, answer, one probability a class.

    Args:
        path: Of the file.
        given: One row per image.
        classes: Names of the C classes.
        named: From a target to its words, "" where unknown (the task's).
        answers: One per image, in the form of a target.

    Raises:
        PocketError: Numbers of rows differ, or the file cannot be written.
    """
    _check(given)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    group = [] if given.groups is None else ["group"]
    writer.writerow(["name", *group, "fold", "truth", "answer", *(f"probability: {name}" for name in classes)])
    for row, name in enumerate(given.names):
        p_C = given.probabilities[row]
        words = [named(labels, classes) for labels in (given.targets[row], answers[row])]
        own = [] if given.groups is None else [given.groups[row]]
        writer.writerow([name, *own, int(given.fold[row]), *words, *(f"{value:.6f}" for value in p_C)])
    write_text(path, text.getvalue())
    return Path(path)


def _pooled_errors(given: OutOfFold, points: Mapping[int, OperatingPoint | None]) -> AtPoint | None:
    known = {number: point for number, point in points.items() if point is not None}
    rows = np.isin(given.fold, list(known)) & (given.targets >= 0 if given.targets.ndim == 1 else False)
    if not known or not rows.any():
        return None
    first = next(iter(known.values()))
    thresholds = np.array([known[number].threshold for number in given.fold[rows].tolist()])
    called = given.probabilities[rows, first.positive] >= thresholds
    chosen = f"{first.chosen.split(' on ')[0]} on each fold's own validation images"
    point = OperatingPoint(first.positive, float(np.mean([point.threshold for point in known.values()])), chosen)
    groups = None if given.groups is None else np.asarray(given.groups)[rows]
    return errors_at(point, called, given.targets[rows] == first.positive, groups)


def _check(given: OutOfFold) -> None:
    counts = {len(given.names), len(given.fold), len(given.targets), len(given.probabilities)}
    if given.groups is not None:
        counts.add(len(given.groups))
    if len(counts) != 1 or 0 in counts:
        raise PocketError(f"out-of-fold predictions need one row an image, not {sorted(counts)} rows.")
    for what, values in (("image", np.asarray(given.names)), ("group", given.groups)):
        if values is None:
            continue
        _, index = np.unique(values, return_inverse=True)
        pairs = np.unique(np.stack([index, given.fold]), axis=1)[0]
        twice = np.flatnonzero(np.bincount(pairs) > 1)
        if len(twice):
            name = np.unique(values)[twice[0]]
            raise PocketError(
                f"the {what} {name} was held out in several folds: its predictions would not be independent."
            )
