"""What a classifier is worth beyond its accuracy: ranking, both kinds of error, grades, several labels an image.

Accuracy depends on how common each class is and on one threshold. The area under the ROC curve (AUC) depends on
neither; balanced accuracy gives every class the same say; sensitivity and specificity belong to a threshold that was
chosen on *validation* images. The figures are scikit-learn's; intervals are resampled (see `intervals`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    mean_absolute_error,
    roc_auc_score,
    roc_curve,
)

from ..errors import PocketError
from .intervals import Interval, affordable, percentile_interval, resampled_auc, resamples, share_interval
from .rows import finite_rows

MOST_CLASSES = 200  # beyond, a mean over classes says little and takes long

_NORMAL = {
    *("normal", "benign", "healthy", "negative", "neg", "none", "no", "control", "controls", "absent", "without"),
    *("good", "ok", "okay", "pass", "passed", "intact", "clean", "clear", "unaffected", "uninfected", "undamaged"),
    "well",
}
_NOT = {"not", "non", "no", "without"}


@dataclass(frozen=True)
class OperatingPoint:
    """From which probability of the positive class on an image is called positive.

    Attributes:
        positive: Index of the positive class.
        threshold: An image is positive where its probability is at least this.
        chosen: In words, how and on what: "Youden's J on 78 validation images".
    """

    positive: int
    threshold: float
    chosen: str


@dataclass(frozen=True)
class AtPoint:
    """Both kinds of error at an operating point.

    Attributes:
        point: Where.
        sensitivity: Share of the positive images that are called positive, None where there are none.
        sensitivity_interval: Its 95 % interval.
        specificity: Share of the other images that are not called positive.
        specificity_interval: Its 95 % interval.
    """

    point: OperatingPoint
    sensitivity: float | None
    sensitivity_interval: Interval | None
    specificity: float | None
    specificity_interval: Interval | None


@dataclass(frozen=True)
class Screening:
    """Figures over labelled images; None where one does not apply, or a class it needs has no image.

    Attributes:
        n: Labelled images.
        groups: Groups (patients) that they come from; None where images count as independent.
        accuracy_interval: 95 % interval of the accuracy: Wilson's, or over groups.
        auc: Mean over classes of the area under the ROC curve of one class against the rest.
        auc_interval: Its 95 % interval; None where no pair is out of order, of which resampling says nothing.
        class_auc: float64 [C], NaN for a class without images; both the same for two classes.
        balanced_accuracy: Mean over classes of the share of their images that is right.
        balanced_interval: Its 95 % interval, likewise.
        average_precision: Of the positive class of two; mean over labels of a multi-label task.
        at: Both kinds of error at an operating point, for two classes.
        kappa: Cohen's kappa with quadratic weights, for ordinal grades.
        kappa_interval: Its 95 % interval.
        mae: Mean distance in grades between answer and truth.
        accuracy: Mean over labels of the share of images whose label is right at 0.5, for a multi-label task alone
            (`evaluate` gives that of others).
    """

    n: int
    groups: int | None = None
    accuracy_interval: Interval | None = None
    auc: float | None = None
    auc_interval: Interval | None = None
    class_auc: np.ndarray | None = None
    balanced_accuracy: float | None = None
    balanced_interval: Interval | None = None
    average_precision: float | None = None
    at: AtPoint | None = None
    kappa: float | None = None
    kappa_interval: Interval | None = None
    mae: float | None = None
    accuracy: float | None = None


def positive_class(classes: Sequence[str]) -> int:
    """Return which of two classes a screening looks for: the second, unless it reads like "normal" and the first not.

    MedMNIST's pneumonia has (normal, pneumonia) and its breast has (malignant, normal or benign); folders in the order
    of the alphabet (melanoma, not melanoma), (infected, uninfected) and (DR, NoDR). Of two that both read like it,
    "normal" is the more so: (benign, normal).
    """
    if len(classes) != 2:
        return 1
    first, second = (_words(name) for name in classes)
    if _negates(second, first) or _negates(first, second):
        plain, negated = (0, 1) if _negates(second, first) else (1, 0)
        return negated if _normal((first, second)[plain]) else plain  # healthy and unhealthy
    if _normal(first) and _normal(second):
        return 0 if "normal" in second and "normal" not in first else 1
    return 0 if _normal(second) else 1


def _words(name: str) -> list[str]:
    """Words of a name in small letters, which spaces, signs or capitals divide: NoCOVID is no covid."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _normal(words: list[str]) -> bool:
    return bool(set(words) & _NORMAL) and not set(words) & {"not", "non"}


def _negates(words: list[str], others: list[str]) -> bool:
    """Whether a name is another one's negation: not melanoma, non_cancer, uninfected."""
    name, other = "".join(words), "".join(others)
    left = [word for word in words if word not in _NOT]
    glued = any(name == f"{no}{other}" for no in ("un", *_NOT))
    return bool(other) and ((len(left) < len(words) and left == others) or glued)


def choose_point(
    probabilities: Any, targets: Any, positive: int, *, sensitivity: float | None = None
) -> OperatingPoint | None:
    """Choose an operating point on validation images, never on those that are scored.

    Youden 1950: the threshold with the largest J = sensitivity + specificity - 1. It is moved halfway to the next lower
    probability, which decides the same on these images and is fairer to new ones.

    Args:
        probabilities: floating [n, 2] on the validation images.
        targets: int [n], -1 where unknown (left out).
        positive: Index of the positive class.
        sensitivity: A wanted one in (0, 1]: the highest threshold that reaches it, instead of Youden's.

    Returns:
        None where a class has no validation image.
    """
    p_NC, y_N, _ = _known(probabilities, targets, None)
    truth_N, score_N = y_N == positive, p_NC[:, positive]
    if len(y_N) == 0 or truth_N.all() or not truth_N.any():
        return None
    false, true, thresholds = roc_curve(truth_N, score_N, drop_intermediate=False)
    if sensitivity is None:
        place, how = int(np.argmax(true - false)), "Youden's J"
    else:
        place, how = int(np.argmax(true >= sensitivity)), f"a sensitivity of {100 * sensitivity:g} %"
    place = max(place, 1)  # the first threshold is infinite: nothing is positive
    lower = score_N[score_N < thresholds[place]]
    threshold = (thresholds[place] + lower.max()) / 2 if len(lower) else 0.0
    return OperatingPoint(positive, float(threshold), f"{how} on {len(y_N):,} validation images")


def screen(
    probabilities: Any,
    targets: Any,
    *,
    groups: Any = None,
    positive: int = 1,
    ordinal: bool = False,
    point: OperatingPoint | None = None,
    seed: int = 0,
) -> Screening:
    """Judge predictions of one class an image.

    Args:
        probabilities: floating [n, C], rows that sum to 1.
        targets: int [n], -1 where unknown (left out).
        groups: int [n], the patient, say, of each image: intervals are then over groups.
        positive: Index of the positive class, for two classes.
        ordinal: Whether the classes are grades in order.
        point: An operating point chosen on other images, for two classes.
        seed: Keys the resampling.

    Raises:
        PocketError: The shapes do not fit, or a probability is not finite.
    """
    p_NC, y_N, group_N = _known(probabilities, targets, groups)
    if len(y_N) == 0:
        return Screening(0)
    classes = p_NC.shape[1]
    answer_N = p_NC.argmax(1)
    right_N = answer_N == y_N
    counts = np.bincount(y_N, minlength=classes)
    present = np.flatnonzero(counts)
    class_auc, ranked = None, np.zeros(0, np.int64)
    if 1 < classes <= MOST_CLASSES and len(present) > 1:
        # Of two classes the curves mirror each other, and one is enough to resample.
        ranked = present if classes > 2 else np.array([positive])
        # Sure answers round to 1, where the rest still tells them apart: the positive class's column is what counts.
        asked = range(classes) if classes > 2 else [positive] * 2
        class_auc = np.array([_auc(y_N == c, p_NC[:, c]) for c in asked])
    recalls_NC = np.zeros((len(y_N), len(present)), np.float32)
    recalls_NC[np.arange(len(y_N)), np.searchsorted(present, y_N)] = 1
    both_N2C = np.concatenate([recalls_NC * right_N[:, None], recalls_NC], 1)
    grades = _Grades(y_N, answer_N, classes) if ordinal else None
    aucs, balanced, kappas = [], [], []
    for drawn in resamples(y_N, affordable(len(y_N), max(len(ranked), 1)), groups=group_N, seed=seed):
        hits_BC, drawn_BC = np.split(drawn @ both_N2C, 2, axis=1)
        balanced.append(_mean(np.divide(hits_BC, drawn_BC, out=np.full_like(hits_BC, np.nan), where=drawn_BC > 0)))
        if len(ranked):
            aucs.append(_mean(np.stack([resampled_auc(p_NC[:, c], y_N == c, drawn) for c in ranked], 1)))
        if grades is not None:
            kappas.append(grades.kappa(drawn))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an answer may be a class that no image of these has
        balanced_accuracy = float(balanced_accuracy_score(y_N, answer_N))
        # All answers and truths of one grade leave nothing to agree on.
        kappa = cohen_kappa_score(y_N, answer_N, labels=range(classes), weights="quadratic") if ordinal else np.nan
    truth_N = y_N == positive
    return Screening(
        n=len(y_N),
        groups=None if group_N is None else len(np.unique(group_N)),
        accuracy_interval=share_interval(right_N, group_N, seed=seed),
        auc=None if class_auc is None else float(np.nanmean(class_auc)),
        auc_interval=percentile_interval(np.concatenate(aucs)) if aucs else None,
        class_auc=class_auc,
        balanced_accuracy=balanced_accuracy,
        balanced_interval=percentile_interval(np.concatenate(balanced)),
        average_precision=float(average_precision_score(truth_N, p_NC[:, positive]))
        if classes == 2 and len(present) == 2
        else None,
        at=errors_at(point, p_NC[:, point.positive] >= point.threshold, y_N == point.positive, group_N, seed=seed)
        if point is not None and classes == 2
        else None,
        kappa=float(kappa) if np.isfinite(kappa) else None,
        kappa_interval=percentile_interval(np.concatenate(kappas)) if kappas else None,
        mae=float(mean_absolute_error(y_N, answer_N)) if ordinal else None,
    )


def screen_labels(probabilities: Any, targets: Any, *, groups: Any = None, seed: int = 0) -> Screening:
    """Judge independent predictions of several labels an image (MedMNIST's multi-label AUC and ACC).

    Args:
        probabilities: floating [n, C], each in [0, 1].
        targets: int [n, C] of 0 and 1; images with a -1 are left out.
        groups: int [n], as in `screen`; without it, images are what is resampled.
        seed: Keys the resampling.

    Raises:
        PocketError: The shapes do not fit, or a probability is not finite.
    """
    p_NC, y_NC, group_N = _known(probabilities, targets, groups)
    if y_NC.shape != p_NC.shape:
        raise PocketError(f"predictions of {p_NC.shape[1]} labels need targets of the same shape, not {y_NC.shape}.")
    if len(y_NC) == 0:
        return Screening(0)
    right_NC = (p_NC >= 0.5) == y_NC
    class_auc = np.array([_auc(y_NC[:, c] == 1, p_NC[:, c]) for c in range(y_NC.shape[1])])
    ranked = np.flatnonzero(np.isfinite(class_auc))
    aucs, accuracies = [], []
    count = affordable(len(y_NC), max(len(ranked), 1))
    for drawn in resamples(np.zeros(len(y_NC), np.int64), count, groups=group_N, seed=seed):
        accuracies.append(drawn @ right_NC.mean(1) / drawn.sum(1))
        if len(ranked):
            aucs.append(_mean(np.stack([resampled_auc(p_NC[:, c], y_NC[:, c] == 1, drawn) for c in ranked], 1)))
    precisions = [average_precision_score(y_NC[:, c], p_NC[:, c]) for c in ranked]
    alone_N = np.arange(len(y_NC)) if group_N is None else group_N  # each image counts as one where all are alike
    return Screening(
        n=len(y_NC),
        groups=None if group_N is None else len(np.unique(group_N)),
        accuracy_interval=percentile_interval(np.concatenate(accuracies))
        or share_interval(right_NC.mean(1), alone_N, seed=seed),
        auc=float(np.nanmean(class_auc)) if len(ranked) else None,
        auc_interval=percentile_interval(np.concatenate(aucs)) if aucs else None,
        class_auc=class_auc,
        average_precision=float(np.mean(precisions)) if precisions else None,
        accuracy=float(right_NC.mean()),
    )


def mean_auc(probabilities: np.ndarray, targets: np.ndarray) -> float | None:
    """Return the mean area under the ROC curve over labels that are there on some images [n, C] and absent on others.

    None where no label is.
    """
    aucs = [_auc(targets[:, c] == 1, probabilities[:, c]) for c in range(targets.shape[1])]
    return float(np.nanmean(aucs)) if np.isfinite(aucs).any() else None


class _Grades:
    """Quadratic weighted kappa of resamples, from how often each pair of truth and answer is drawn."""

    def __init__(self, truth_N: np.ndarray, answer_N: np.ndarray, classes: int) -> None:
        self.pairs_NP = np.zeros((len(truth_N), classes * classes), np.float32)
        self.pairs_NP[np.arange(len(truth_N)), truth_N * classes + answer_N] = 1
        self.classes = classes
        self.cost_CC = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2.0

    def kappa(self, drawn: np.ndarray) -> np.ndarray:
        """float32 [b, N] -> float64 [b]: 1 - observed over expected cost, as ``cohen_kappa_score``."""
        seen_BCC = (drawn @ self.pairs_NP).reshape(-1, self.classes, self.classes).astype(np.float64)
        expected_BCC = seen_BCC.sum(2)[:, :, None] * seen_BCC.sum(1)[:, None, :] / seen_BCC.sum((1, 2), keepdims=True)
        observed, expected = ((part * self.cost_CC).sum((1, 2)) for part in (seen_BCC, expected_BCC))
        return 1 - np.divide(observed, expected, out=np.full(len(drawn), np.nan), where=expected > 0)


def errors_at(point: OperatingPoint, called: Any, truth: Any, groups: Any = None, *, seed: int = 0) -> AtPoint:
    """Count both kinds of error of images that were called positive or not.

    Args:
        point: How they were called.
        called: bool [n], called positive.
        truth: bool [n], positive.
        groups: int [n], as in `screen`.
        seed: Keys the resampling.
    """
    called_N, truth_N = np.asarray(called, bool), np.asarray(truth, bool)
    figures: list[Any] = []
    for right_N, side_N in ((called_N, truth_N), (~called_N, ~truth_N)):
        figures.append(float(right_N[side_N].mean()) if side_N.any() else None)
        figures.append(share_interval(right_N[side_N], None if groups is None else groups[side_N], seed=seed))
    return AtPoint(point, *figures)


def _auc(positive_N: np.ndarray, score_N: np.ndarray) -> float:
    return float(roc_auc_score(positive_N, score_N)) if positive_N.any() and not positive_N.all() else float("nan")


def _mean(values_BC: np.ndarray) -> np.ndarray:
    """Mean over the classes of which a resample has images; NaN where it has none."""
    known = np.isfinite(values_BC)
    sums = np.where(known, values_BC, 0).sum(1, dtype=np.float64)
    return np.divide(sums, known.sum(1), out=np.full(len(sums), np.nan), where=known.any(1))


def _known(probabilities: Any, targets: Any, groups: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return what has labels: probabilities [n, C], targets, groups (or None)."""
    p_NC, y = finite_rows(probabilities, "probabilities"), np.asarray(targets).astype(np.int64)
    group_N = None if groups is None else np.asarray(groups)
    if len(p_NC) != len(y) or (group_N is not None and len(group_N) != len(y)):
        other = "" if group_N is None else f" and {len(group_N)} groups"
        raise PocketError(
            f"cannot judge {len(p_NC)} predictions against {len(y)} labels{other}: one of each is needed."
        )
    if y.size and y.max() >= p_NC.shape[1]:
        raise PocketError(f"a label names class {y.max()}, but the predictions know only {p_NC.shape[1]} classes.")
    known = (y >= 0) if y.ndim == 1 else (y >= 0).all(1)
    return p_NC[known], y[known], None if group_N is None else group_N[known]
