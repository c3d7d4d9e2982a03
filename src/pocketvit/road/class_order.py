"""Which output of a teacher is whose, where only labels can tell: a file of weights has no names of classes."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from ..sources import Source
from ..sources.subset import Subset
from ..sources.targets import labelled
from ..teachers import Teacher
from .answering import answers, teacher_answers
from .images import Road, known

_MOST, _IN_ALL, _LEAST = 64, 2048, 8  # training images that are asked about: of a class, in all, of a class at least
_CHANCE = 1e-3  # of so many answers for the better in the half of them that did not choose the order


def may_be_in_another(teacher: Teacher, source: Source) -> bool:
    """Whether `in_labelled_order` looks at a teacher: its outputs have no names, and images have labels."""
    nameless = teacher.classes is None and teacher.columns is None
    return nameless and teacher.kind == "softmax" and known(source)


def in_labelled_order(teacher: Teacher, road: Road) -> Teacher:
    """Return a teacher whose outputs have no names with the class map that labels of training images ask for.

    Most are in the order of the classes, and stay so; another order has to be better beyond doubt.
    """
    source, classes = road.dataset.train, road.dataset.classes
    if not may_be_in_another(teacher, source):
        return teacher
    targets = np.asarray(source.targets)
    rows = some_of_each(np.where(labelled(targets), targets, -1), len(classes))
    given = {"": teacher_answers(teacher, road.task)}
    answered = answers(given, Subset(source, rows), road.view, road.task)[""].argmax(1)
    columns = best_order(answered, targets[rows], len(classes))
    if columns is None:
        return teacher
    shown = ", ".join(f"{name} = its output {column}" for name, column in zip(classes, columns[:8], strict=False))
    return teacher.with_columns(
        columns,
        f"{teacher.name}: in that order it is wrong on labelled images, and in another one right: {shown}.",
    )


def best_order(answered: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray | None:
    """Return int64 [classes], the output that means each class, if another order than theirs is surely right; or None.

    One half of the images chooses, the other one judges (sign test): chance finds some order that is a little better.

    Args:
        answered: int [N], the largest output.
        targets: int [N].
        classes: Their number, and that of the outputs.
    """
    chooses = np.arange(len(targets)) % 2 == 0
    seen = np.eye(classes) / 2  # where nothing speaks against it, the order stays; one image does
    np.add.at(seen, (targets[chooses], answered[chooses]), 1.0)
    columns = linear_sum_assignment(seen, maximize=True)[1]
    before = answered[~chooses] == targets[~chooses]
    after = answered[~chooses] == columns[targets[~chooses]]
    better, worse = int((after & ~before).sum()), int((before & ~after).sum())
    if not better or binomtest(better, better + worse, alternative="greater").pvalue > _CHANCE:
        return None
    if after.mean() < 0.5:  # mostly wrong either way: no order is plain
        return None
    return columns.astype(np.int64)


def some_of_each(targets: np.ndarray, classes: int, most: int = _IN_ALL) -> np.ndarray:
    """Rows of up to some images of each class, the same every time, those of a class one after the other."""
    each = max(_LEAST, min(_MOST, most // classes))
    found = []
    for number in range(classes):
        rows = np.flatnonzero(targets == number)
        found.append(rows[np.linspace(0, len(rows) - 1, min(each, len(rows))).astype(np.int64)])
    return np.concatenate(found)
