"""What a file of weights does not say and was assumed, the input size and the normalization, tried on labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from ..models.inputs import NORMS
from ..sources.subset import Subset
from ..sources.targets import labelled
from ..teachers import Teacher
from .answering import answers, teacher_answers
from .class_order import some_of_each
from .images import Road, known

_IN_ALL, _MOST = 96, 400  # labelled training images that are asked about: a few of each class, and so many at most
_RIGHT = 0.95  # of them, from which nothing is tried: large teachers take seconds for each
_OTHER = 1.3  # times larger or smaller: nearer sizes answer alike
_GAIN = 0.05  # of the images that must be right more
_CHANCE = 1e-4  # of so many answers for the better


def may_be_otherwise(teacher: Teacher, side: int) -> list[str]:
    """Return which of "size" and "norm" were assumed of a teacher, for views of ``side`` pixels, and can be tried."""
    told = " ".join(teacher.notes)
    if teacher.kind != "softmax" or "takes grey pictures" in told:
        return []
    size = "--teacher-size" in told and max(side, teacher.input_size) > _OTHER * min(side, teacher.input_size)
    return [*["size"] * size, *["norm"] * ("--teacher-norm" in told)]


def as_labels_say(teacher: Teacher, road: Road) -> Teacher:
    """Return a teacher with the input size and the normalization with which it is right on labelled training images.

    What was assumed stays, unless the size of the views, or another usual normalization, is better beyond doubt: a
    network that was trained at 48 pixels and looks at 224 may confuse whole classes, and be sure of it.

    Args:
        teacher: With as many outputs as there are classes; these may be in another order.
        road: Images and views.
    """
    asked = may_be_otherwise(teacher, road.view.view_size)
    if not asked or not known(road.dataset.train):
        return teacher
    source, classes = road.dataset.train, len(road.dataset.classes)
    targets = np.asarray(source.targets)
    rows = some_of_each(np.where(labelled(targets), targets, -1), classes, _IN_ALL)
    rows = rows[:: -(-len(rows) // _MOST)]
    some, truth = Subset(source, rows), targets[rows]

    def right(one: Teacher) -> np.ndarray:
        found = answers({"": teacher_answers(one, road.task)}, some, road.view, road.task)[""].argmax(1)
        return _right(found, truth, classes, ordered=one.class_names != ())

    first = right(teacher)
    if first.mean() > _RIGHT:
        return teacher
    best, seen = teacher, first
    others: list[dict[str, Any]] = []
    if "size" in asked:
        others.append({"input_size": road.view.view_size})
    if "norm" in asked:
        others += [{"norm": norm} for norm in NORMS.values() if norm != (teacher.mean, teacher.std)]
    for other in others:
        try:
            changed = best.seeing(**other)
            now = right(changed)
        except (RuntimeError, AssertionError, ValueError):  # it takes no other size
            continue
        better, worse = int((now & ~seen).sum()), int((seen & ~now).sum())
        sure = better and binomtest(better, better + worse, alternative="greater").pvalue < _CHANCE
        if sure and now.mean() > seen.mean() + _GAIN:
            best, seen = changed, now
    if best is teacher:
        return teacher
    said = f"at {best.input_size} px, mean {_plain(best.mean)} and std {_plain(best.std)}"
    return best.with_columns(
        best.columns,
        f"{teacher.name}: as assumed it is right on {first.mean():.0%} of {len(rows)} labelled images, {said} on "
        f"{seen.mean():.0%}: that is taken (--teacher-size, --teacher-norm: what you say).",
    )


def _right(answered: np.ndarray, targets: np.ndarray, classes: int, *, ordered: bool) -> np.ndarray:
    """Return bool [N], which answers are right, in the best order of outputs where nobody knows theirs."""
    if ordered:
        return answered == targets
    seen = np.eye(classes) / 2
    np.add.at(seen, (targets, answered), 1.0)
    return answered == linear_sum_assignment(seen, maximize=True)[1][targets]


def _plain(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3g}" for value in values)
