"""A second round against a student: pictures that the teacher answers as wanted, and the student otherwise.

What a student has not learned from one bank is what the next is to show it: adaptive DeepInversion (Yin et al. 2020,
section 3.3) takes the Jensen-Shannon divergence of both answers away from the loss. For detectors, which answer places
and no classes, it is how well the student sees the very layout that the teacher is to see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import PocketError
from ..teachers import Teacher
from .layouts import Layout, unlike
from .moving import Move
from .seen import best_of

_TINY = 1e-6  # of a probability, whose logarithm would be infinite


class Rival:
    """A student whose agreement with the teacher is a loss; it is not changed.

    Args:
        student: Answers in the teacher's classes.
        teacher: Whom it is to disagree with.

    Raises:
        PocketError: It answers another kind of question, or in other classes.
    """

    def __init__(self, student: Teacher, teacher: Teacher) -> None:
        mine, theirs = (f"{one.kind}, {one.num_outputs} outputs" for one in (student, teacher))
        if mine != theirs:
            raise PocketError(
                f"the rival {student.name} answers otherwise ({mine}) than {teacher.name} ({theirs}): name a student "
                "that learned from this teacher."
            )
        self.student = student.to(teacher.device)

    @property
    def record(self) -> dict[str, Any]:
        """What a bank says of it."""
        return {"rival": {"name": self.student.name, **self.student.fingerprint}}

    def agreement(self, pictures: Tensor, answered: Tensor) -> Tensor:
        """Return how alike both answer pictures, a scalar from 0 to 1.

        Args:
            pictures: float [B, 3, S, S] in 0..1.
            answered: float [B, C], the teacher's logits.
        """
        own = best_of(self.student.kind, self.student.differentiable(pictures))
        return 1 - divergence(self.student.kind, answered, own).mean() / math.log(2)

    def sees(self, pictures: Tensor, layouts: Sequence[Layout], move: Move, side: int) -> Tensor:
        """Return how well it sees layouts in moved pictures, a scalar from 0 to 1: exp(-loss) of `layouts.unlike`."""
        return (-unlike(self.student.differentiable(pictures), layouts, move, side)).exp()


def divergence(kind: str, one: Tensor, other: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence [B] of answers [B, C]: of classes, or of each label by itself, averaged."""
    if kind == "sigmoid":
        first, second = (torch.stack([x.sigmoid(), (-x).sigmoid()], -1) for x in (one, other))
        return _jensen_shannon(first, second).mean(1)
    return _jensen_shannon(one.softmax(1), other.softmax(1))


def _jensen_shannon(one: Tensor, other: Tensor) -> Tensor:
    """Of distributions along the last dimension; between 0 and log 2."""
    middle = ((one + other) / 2).clamp_min(_TINY).log()
    parts = [(share * (share.clamp_min(_TINY).log() - middle)).sum(-1) for share in (one, other)]
    return (parts[0] + parts[1]) / 2
