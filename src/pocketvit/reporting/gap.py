"""Two rows of the table compared: by the figure that counts, by size, and by time.

A difference between two files is that of their figures on the same images, with an interval made of theirs (Newcombe
1998, method 10, which takes them for independent and so errs on the careful side).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..tasks import Task
from .results import Row

LIKE = 1.05  # factor within which sizes and times are called alike


@dataclass(frozen=True)
class Gap:
    """A figure of one row minus that of another.

    Attributes:
        value: The difference.
        interval: 95 %; None where either has none.
        words: "0.8 points more, 95 % interval -1.2 to +2.8".
    """

    value: float
    interval: tuple[float, float] | None
    words: str

    @property
    def seen(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def figure(row: Row, task: Task) -> tuple[float | None, tuple[float, float] | None]:
    """Return the figure by which a task's files are compared, and its interval."""
    interval = "interval" if task.figure == "accuracy" else f"{task.figure}_interval"
    return getattr(row, task.figure), getattr(row, interval)


def gap(ours: Row, theirs: Row, task: Task) -> Gap | None:
    """Return one row's figure minus another's; None where either was not measured."""
    (a, own), (b, other) = figure(ours, task), figure(theirs, task)
    if a is None or b is None:
        return None
    interval = None
    if own is not None and other is not None:
        low = a - b - math.hypot(a - own[0], other[1] - b)
        interval = (low, a - b + math.hypot(own[1] - a, b - other[0]))
    points = task.figure == "accuracy"
    scale, digits = (100, 1) if points else (1, 3)
    unit = " points" if points else ""
    size = f"{scale * abs(a - b):.{digits}f}"
    words = "exactly as much" if float(size) == 0 else f"{size}{unit} {'more' if a > b else 'less'}"
    if interval is not None:
        ends = " to ".join(f"{scale * bound:+.{digits}f}" for bound in interval)
        words += f", 95 % interval {ends}"
    return Gap(a - b, interval, words)


def said(row: Row, task: Task) -> str:
    """Return a row's figure in words: "93.1 %", "AUC 0.913"."""
    value, _ = figure(row, task)
    if value is None:
        return "unknown"
    return f"{100 * value:.1f} %" if task.figure == "accuracy" else f"{_name(task)} {value:.3f}"


def against(ours: Row, theirs: Row, name: str, task: Task) -> str | None:
    """Say in one sentence how a file compares with another one; None where there is nothing to compare."""
    costs = [one.words for one in compared(ours, theirs)]
    difference = gap(ours, theirs, task)
    told = [*costs, *([] if difference is None else [f"{_name(task)} {difference.words}"])]
    return f"against {name}: {', '.join(told)}" if told else None


class Cost(NamedTuple):
    """What two rows cost.

    Attributes:
        cost: The field: "bytes", or "latency_p50" in milliseconds.
        ours, theirs: Of each row.
        words: "2.1× smaller".
    """

    cost: str
    ours: float
    theirs: float
    words: str


def compared(ours: Row, theirs: Row) -> list[Cost]:
    """Return what both rows have of size and time, and how the first compares with the second."""
    costs = []
    for cost, more, less, alike in (
        ("bytes", "larger", "smaller", "about as large"),
        ("latency_p50", "slower", "faster", "about as fast"),
    ):
        a, b = getattr(ours, cost), getattr(theirs, cost)
        if a and b and not (cost == "latency_p50" and (is_live(ours) or is_live(theirs))):
            times = max(a, b) / min(a, b)
            words = f"{times:.{1 if times < 10 else 0}f}× {more if a > b else less}"
            costs.append(Cost(cost, a, b, alike if times <= LIKE else words))
    return costs


def _name(task: Task) -> str:
    return {"auc": "AUC", "map": "mAP"}.get(task.figure, task.figure)


def is_live(row: Row) -> bool:
    """Whether a row was timed in PyTorch, for want of a file: another runtime, and perhaps another device."""
    return "in PyTorch: " in row.note
