"""Which of many pictures to keep: as many of each class, as the teacher sees them."""

from __future__ import annotations

import numpy as np


def quotas(count: int, classes: int) -> np.ndarray:
    """Share ``count`` pictures among classes as evenly as can be: int64 [C]."""
    return np.full(classes, count // classes, np.int64) + (np.arange(classes) < count % classes)


def sees(probabilities: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Return the likeliest class of each picture, int64 [n]; -1 where it is less likely than ``least``."""
    return np.where(probabilities.max(1) >= least, probabilities.argmax(1), -1)


def shows(probabilities: np.ndarray, targets: np.ndarray, least: float) -> np.ndarray:
    """Return bool [n]: whether the wanted class is a picture's likeliest, and not less likely than ``least``."""
    return sees(probabilities, least) == targets


def choose(probabilities: np.ndarray, quota: np.ndarray, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Choose as many candidates for every class as its quota says, and at most all of them.

    A class first gets the candidates that are given to it, the first and not the surest ones: candidates come in random
    order, and the surest of a class look alike. What is missing then are the candidates in which the teacher sees most
    of it, though it sees more of something else: students learn from soft answers, and a mean answer that is even over
    the classes matters more than sure ones (arXiv 2411.12817). The rarest class chooses first.

    Args:
        probabilities: float [n, C], the teacher's.
        quota: int64 [C].
        least: Probability from which a candidate is given to its likeliest class.

    Returns:
        int64 [m], the chosen candidates, and int64 [m], the class that each was chosen for.
    """
    answers = sees(probabilities, least)
    taken = np.zeros(len(probabilities), bool)
    rows, classes = [], []

    def take(label: int, own: np.ndarray) -> None:
        taken[own] = True
        rows.append(own)
        classes.append(np.full(len(own), label, np.int64))

    found = np.bincount(answers[answers >= 0], minlength=len(quota))
    order = np.argsort(found, kind="stable")
    for label in order:
        take(label, np.flatnonzero(answers == label)[: quota[label]])
    for label in order:
        missing = max(0, quota[label] - found[label])
        if missing:
            score = np.where(taken, -1, probabilities[:, label])
            best = np.argsort(-score, kind="stable")[:missing]
            take(label, best[~taken[best]])
    return np.concatenate(rows), np.concatenate(classes)
