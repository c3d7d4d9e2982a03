"""Accuracy, calibration and confusion of answers of one class per image.

The formulas are scikit-learn's and scipy's wherever they have one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from ..errors import PocketError
from .calibration import expected_calibration_error
from .intervals import wilson_interval
from .rows import finite_rows


@dataclass(frozen=True)
class Scores:
    """What a classifier is worth on some images. Scores that need labels are None where no image has one.

    Attributes:
        n: Labelled images; the accuracy, its interval, ``ece``, ``nll`` and the classes are over these.
        accuracy: Share of right answers.
        interval: 95 % interval of the accuracy (Wilson 1927).
        ece: Expected calibration error over 15 bins of equal mass.
        nll: Mean negative log-likelihood of the true class.
        min_class: Index and accuracy of the class with the lowest accuracy.
        per_class: float64 [C], accuracy by true class, NaN for a class without images; None without labels.
        confusion: int64 [C, C], rows are true classes; None without labels.
        agreement: Share of all images on which the teacher gives the same class; None without a teacher.
    """

    n: int
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    ece: float | None = None
    nll: float | None = None
    min_class: tuple[int, float] | None = None
    per_class: np.ndarray | None = None
    confusion: np.ndarray | None = None
    agreement: float | None = None


def evaluate(probabilities: Any, targets: Any, teacher_probabilities: Any = None) -> Scores:
    """Score predictions.

    Args:
        probabilities: floating [n, C], rows that sum to 1.
        targets: int [n], -1 where unknown.
        teacher_probabilities: floating [n, C] of the teacher (or the teachers' mean) on the same images, or None.

    Raises:
        PocketError: There are no images, the shapes do not fit, or a probability is not finite.
    """
    p_NC = finite_rows(probabilities, "probabilities")
    y_N = np.asarray(targets).astype(np.int64)
    if len(p_NC) == 0 or len(p_NC) != len(y_N):
        raise PocketError(f"cannot score {len(p_NC)} predictions against {len(y_N)} labels: one of each is needed.")
    classes = p_NC.shape[1]
    if y_N.max() >= classes:
        raise PocketError(f"a label names class {y_N.max()}, but the predictions know only {classes} classes.")
    best_N = p_NC.argmax(1)
    agreement = None
    if teacher_probabilities is not None:
        teacher_NC = finite_rows(teacher_probabilities, "the teacher's probabilities")
        if teacher_NC.shape != p_NC.shape:
            raise PocketError(f"the teacher's predictions are {teacher_NC.shape}, the student's {p_NC.shape}.")
        agreement = float((teacher_NC.argmax(1) == best_N).mean())
    known = y_N >= 0
    n = int(known.sum())
    if n == 0:
        return Scores(n=0, agreement=agreement)
    p_NC, y_N, best_N = p_NC[known], y_N[known], best_N[known]
    right_N = best_N == y_N
    confusion = confusion_matrix(y_N, best_N, labels=range(classes))
    per_class = class_accuracies(confusion)
    worst = int(np.nanargmin(per_class))
    return Scores(
        n=n,
        accuracy=float(right_N.mean()),
        interval=wilson_interval(int(right_N.sum()), n),
        ece=expected_calibration_error(p_NC.max(1), right_N),
        nll=_nll(p_NC, y_N),
        min_class=(worst, float(per_class[worst])),
        per_class=per_class,
        confusion=confusion,
        agreement=agreement,
    )


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """Accuracy by true class (recall), float64 [C]; NaN for a class without images."""
    totals = confusion.sum(1)
    return np.divide(np.diag(confusion), totals, out=np.full(len(totals), np.nan), where=totals > 0)


def _nll(p_NC: np.ndarray, y_N: np.ndarray) -> float:
    right_N = np.maximum(p_NC[np.arange(len(y_N)), y_N], np.finfo(np.float32).tiny)  # fp16's are 0 below 6e-8
    return float(-np.log(right_N / p_NC.sum(1, dtype=np.float64)).mean())
