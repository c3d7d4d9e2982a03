"""Which of many pictures to keep: as many of each class, confidently seen by the teacher, no two alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        rows: int64 [n], of the candidates.
        classes: int64 [n], the class that each was chosen for.
        missing: int64 [C], pictures that each class still lacks.
    """

    rows: np.ndarray
    classes: np.ndarray
    missing: np.ndarray


def quotas(count: int, classes: int) -> np.ndarray:
    """Share ``count`` pictures among classes as evenly as can be: int64 [C]."""
    return np.full(classes, count // classes, np.int64) + (np.arange(classes) < count % classes)


def choose(probabilities: np.ndarray, quota: np.ndarray, confidence: float) -> Choice:
    """Choose, for every class, the first candidates that the teacher gives it with enough confidence.

    The first and not the most confident: candidates come in random order, and the most confident ones of a class look
    alike.

    Args:
        probabilities: float [n, C].
        quota: int64 [C].
        confidence: probability that a candidate's likeliest class must have.
    """
    answers, certain = probabilities.argmax(1), probabilities.max(1) >= confidence
    rows, classes = [], []
    missing = quota.copy()
    for label, wanted in enumerate(quota):
        own = np.flatnonzero((answers == label) & certain)[:wanted]
        rows.append(own)
        classes.append(np.full(len(own), label))
        missing[label] -= len(own)
    return Choice(np.concatenate(rows), np.concatenate(classes).astype(np.int64), missing)


def likeliest(probabilities: np.ndarray, label: int, count: int, taken: np.ndarray | None = None) -> np.ndarray:
    """Return the ``count`` candidates in which the teacher sees a class most, best first: int64.

    Args:
        probabilities: float [n, C].
        label: the class.
        count: at most.
        taken: bool [n], candidates to leave out.
    """
    score = probabilities[:, label].astype(np.float32)
    if taken is not None:
        score = np.where(taken, -1, score)
    order = np.argsort(-score, kind="stable")[:count]
    return order[score[order] >= 0]
