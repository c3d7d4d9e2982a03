"""Alarms of a generator that makes less and less: of few classes, of one class, or the same picture again and again.

A generator that has collapsed has low losses (DAFL's students of 1 % on CIFAR-100 had perfect-looking ones), so that
only its pictures tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .bank import near_duplicates, thumbnails

_EVEN, _ALIKE, _LEANING = 0.8, 0.1, 0.25


@dataclass(frozen=True)
class Health:
    """What new pictures say of the generator.

    Attributes:
        evenness: Entropy of the teacher's mean answer, of that of the classes that were asked for.
        alike: Share of near duplicates among the pictures of a class.
        leaning: By how much the share of a class in the answers exceeds the share that was asked for, at most.
        commonest: That class.
    """

    evenness: float
    alike: float
    leaning: float
    commonest: int

    @property
    def alarms(self) -> list[str]:
        """What is wrong, in words; empty where nothing is."""
        found = []
        if self.evenness < _EVEN:
            found.append(f"the teacher's answers are spread over the classes to {self.evenness:.0%} only")
        if self.alike > _ALIKE:
            found.append(f"{self.alike:.0%} of new pictures are near duplicates")
        if self.leaning > _LEANING:
            found.append(f"class {self.commonest} takes {self.leaning:.0%} more of them than it was asked for")
        return found


def health(images: np.ndarray, probabilities: np.ndarray, targets: np.ndarray) -> Health:
    """Look at the pictures of a round, before any is left out.

    Args:
        images: uint8 [n, 3, S, S].
        probabilities: float [n, C], the teacher's; of several labels or boxes too.
        targets: int64 [n], the classes that were asked for.
    """
    classes = probabilities.shape[1]
    asked = np.bincount(targets, minlength=classes) / len(targets)
    answers = np.bincount(probabilities.argmax(1), minlength=classes) / len(targets)
    mean = probabilities.mean(0) / max(float(probabilities.mean(0).sum()), 1e-9)
    most = _entropy(asked)
    over = answers - asked
    return Health(
        evenness=_entropy(mean) / most if most else 1.0,
        alike=float(near_duplicates(thumbnails(images), targets).mean()),
        leaning=float(over.max()),
        commonest=int(over.argmax()),
    )


def _entropy(shares: np.ndarray) -> float:
    return -sum(share * math.log(share) for share in shares[shares > 0].tolist())
