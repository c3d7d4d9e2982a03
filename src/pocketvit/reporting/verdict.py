"""Smaller, faster, as good? One answer over the rows of a run, with numbers, and what to ship by them.

Sizes and times are compared at equal precision: the student's int8 file with its teacher's own int8 file where that was
measured, else both in fp32.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from ..files import human_bytes
from ..tasks import Task, task_named
from .gap import LIKE, compared, figure, gap, is_live, said
from .results import Row

_MUCH = 0.05  # of a share or an AUC: a loss that few savings are worth
_MARGIN = 0.02  # of a share or an AUC: how much worse a student may be, at most, that is called as good
_LEVEL = 0.05  # of the test against chance
_NOTHING = 0.01  # mAP below which a detector finds nothing to speak of


@dataclass(frozen=True)
class Reply:
    """A question, answered.

    Attributes:
        question: "Smaller", "Faster", "As good"; "Real images worth it" of a student that had some.
        yes: None where it was not measured, or where the images cannot tell.
        words: With the figures.
    """

    question: str
    yes: bool | None
    words: str

    def __str__(self) -> str:
        head = {True: "yes", False: "no", None: "not known"}[self.yes]
        return f"{self.question}? {head[:1].upper()}{head[1:]}: {self.words}."


@dataclass(frozen=True)
class Verdict:
    """What a run comes to.

    Attributes:
        replies: To what is asked of a student beside its teacher, and beside itself without real images; () where
            neither is there.
        advice: What to ship, in one sentence, and why.
        ship: Key of that row; None where nothing is worth shipping, or nobody knows.
    """

    replies: tuple[Reply, ...]
    advice: str
    ship: str | None

    @property
    def lines(self) -> tuple[str, ...]:
        """The advice and the replies, a line each."""
        return (self.advice, *map(str, self.replies))


def verdict(
    rows: Iterable[Row | Mapping[str, Any]], task: Task | None = None, chance: float | None = None
) -> Verdict | None:
    """Say what a run comes to.

    Args:
        rows: Of the honest table.
        task: Says which figure counts; one class per image by default.
        chance: Share that is right when the commonest answer is always given, where that says anything.

    Returns:
        None without a student, and where no teacher taught it and it does not guess.
    """
    task = task or task_named("classification")
    given = [row for row in map(Row.read, rows) if row.measured]
    student = _first(given, "student") or _first(given, "model")
    if student is None:
        return None
    ships = _first(given, "int8") or student
    teacher = _best(given, "teacher", task)
    guessing = _guessing(_pooled(given).get(student.key, ships), task, chance)
    replies: tuple[Reply, ...] = ()
    if teacher is not None:
        ours, theirs = at_equal_precision(given, student, teacher, task)
        level = theirs if figure(theirs, task)[0] is not None else teacher
        replies = (
            _cheaper("Smaller", ours, theirs, "bytes"),
            _cheaper("Faster", ours, theirs, "latency_p50"),
            _as_good(*_pooled_pair(given, student, teacher, (ships, level)), task),
        )
        if guessing is not None and replies[-1].yes:
            replies = (*replies[:-1], dataclasses.replace(replies[-1], yes=None))
    told = (*replies, *_worth(given, student, task))
    model = student.role == "model"  # nothing was distilled: what could be said of it stands in its row
    if model and guessing is None:
        return None
    better = None if model else _better(given, student, ships, teacher, task)
    if guessing is not None and (better is None or _guesses(better[1], given, task, chance)):
        return Verdict(told, guessing, None)
    if better is not None:
        advice, key = better
        file = next((row.file for row in given if row.key == key), "")
        return Verdict(told, f"{advice} Its file, from the run's folder: {file}." if file else advice, key)
    beware = _never_right(_pooled(given).get(student.key, ships))
    return Verdict(told, _praise(ships, replies, task) + beware, ships.key)


def _pooled(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the rows of pooled folds, which answered all images, by the key of whom they stand for."""
    return {row.key.removesuffix("-folds"): row for row in rows if row.key.endswith("-folds")}


def _pooled_pair(rows: Sequence[Row], one: Row, other: Row, single: tuple[Row, Row]) -> tuple[Row, Row]:
    """Return the rows of pooled folds of two networks where both have them, else the pair given."""
    pooled = _pooled(rows)
    return (pooled[one.key], pooled[other.key]) if one.key in pooled and other.key in pooled else single


def at_equal_precision(rows: Sequence[Row], student: Row, teacher: Row, task: Task) -> tuple[Row, Row]:
    """Return the student's and the teacher's row of the same precision: int8 where both are to be had, else fp32.

    A teacher's int8 file that has lost much of what the teacher knows is nothing to ship, and no measure.
    """
    ours = _first(rows, "int8")
    theirs = next((row for row in rows if row.role == "teacher-int8" and row.key == f"{teacher.key}-int8"), None)
    lost = None if theirs is None else gap(theirs, teacher, task)
    if ours is None or theirs is None or (lost is not None and lost.value < -_MUCH):
        return student, teacher
    return ours, theirs


def above_chance(accuracy: float, n: int, chance: float) -> float:
    """Return how likely so many right answers are by chance alone: the p-value of a one-sided binomial test.

    Args:
        accuracy: Share of right answers.
        n: Images, or groups of them where they are not independent.
        chance: Share that the commonest answer gets right.
    """
    return float(binomtest(round(accuracy * n), n, min(chance, 1.0), alternative="greater").pvalue)


@dataclass(frozen=True)
class _Rival:
    """What one might ship in the student's place: both at one precision, and the rows that have their figures."""

    ours: Row
    theirs: Row
    judged: Row
    level: Row

    @classmethod
    def of(cls, ours: Row, theirs: Row, judged: Row, stand_in: Row, task: Task) -> _Rival:
        return cls(ours, theirs, judged, theirs if figure(theirs, task)[0] is not None else stand_in)

    def figures(self, task: Task) -> str:
        if figure(self.level, task)[0] is None:
            return "it taught the student"
        return f"{said(self.level, task)} against {said(self.judged, task)} of the student"


def _better(rows: Sequence[Row], student: Row, ships: Row, teacher: Row | None, task: Task) -> tuple[str, str] | None:
    """Return (advice, key) where something else is the better thing to ship; else None."""
    own = student if figure(student, task)[0] is not None else ships
    pair = None
    if teacher is not None:
        pair = _Rival.of(*at_equal_precision(rows, student, teacher, task), ships, teacher, task)
    against = _first(rows, "against")
    other = None if against is None else _Rival.of(student, against, own, against, task)
    alone = _first(rows, "baseline")
    for rival in filter(None, (pair, other)):
        cheaper = _no_dearer(rival, task)
        ahead = None if alone is None else gap(alone, rival.level, task)
        if cheaper and not (ahead is not None and ahead.seen and ahead.value > 0):
            return (
                f"Ship {_own_file(rival.theirs)} instead: {rival.figures(task)}, which is {cheaper}.",
                rival.theirs.key,
            )
    before = next((row for row in reversed(rows) if row.key.startswith("before-") and row.file), None)
    lost = None if before is None else gap(ships, before, task)
    if before is not None and lost is not None and lost.seen and lost.value < -_MUCH:
        size = f" ({human_bytes(before.bytes)})" if before.bytes else ""
        told = f"{said(before, task)} against {said(ships, task)}"
        return f"Ship {before.name}{size} if the device takes it: {told} once it was made smaller.", before.key
    without = "" if alone is None else _did_not_help(*_pooled_pair(rows, alone, student, (alone, own)), task)
    loss = None if pair is None else gap(pair.judged, pair.level, task)
    if pair is not None and loss is not None and loss.seen and loss.value < -_MUCH:
        costs = [human_bytes(pair.theirs.bytes)] if pair.theirs.bytes else []
        costs += [_ms(pair.theirs.latency_p50)] if pair.theirs.latency_p50 else []
        size = f" ({', '.join(costs)})" if costs else ""
        more = f" And {without}." if without else ""
        advice = f"Ship {_own_file(pair.theirs)}{size} if the device takes it: {pair.figures(task)}.{more}"
        return advice, pair.theirs.key
    if without and alone is not None:
        return f"Ship the student without a teacher instead: {without}.", alone.key
    return None


def _guesses(key: str, rows: Sequence[Row], task: Task, chance: float | None) -> bool:
    """Whether what might be shipped in the student's place is no better than none either, as far as it was scored."""
    row = _pooled(rows).get(key) or next(row for row in rows if row.key == key)
    if figure(row, task)[0] is None:  # as the network whose file it is
        row = next((other for other in rows if other.key == key.removesuffix("-int8")), row)
    return figure(row, task)[0] is None or _guessing(row, task, chance) is not None


def _guessing(ships: Row, task: Task, chance: float | None) -> str | None:
    """Return what to do where a figure is no better than none; None where it is."""
    value, interval = figure(ships, task)
    if task.figure == "map" and value is not None and value < _NOTHING:
        return f"Ship nothing yet: {said(ships, task)} is next to nothing found. Use more images, or train longer."
    if task.figure == "auc" and interval is not None and interval[0] <= 0.5:
        ends = " to ".join(f"{end:.3f}" for end in interval)
        return (
            f"Ship nothing yet: {said(ships, task)} (95 % interval {ends}) cannot be told from chance, which has 0.5. "
            "Use more images, or train longer."
        )
    chance = chance if ships.chance is None else ships.chance
    if chance is None or ships.accuracy is None or not ships.n:
        return None
    n = ships.groups or ships.n
    p = above_chance(ships.accuracy, n, chance)
    if p <= _LEVEL:
        return None
    return (
        f"Ship nothing yet: {said(ships, task)} cannot be told from always giving the commonest answer "
        f"({100 * chance:.1f} %; p = {p:.2g}, binomial test over {n:,}). Use more images, or train longer."
    )


def _no_dearer(rival: _Rival, task: Task) -> str:
    """Return how the student's costs compare where it saves nothing and is not seen to be better; else "".

    Where no image has a label nothing is seen of either, and a teacher is at least what its student learned from.
    """
    difference, costs = gap(rival.judged, rival.level, task), compared(rival.ours, rival.theirs)
    if difference is None and (rival.level.role not in ("teacher", "teacher-int8") or figure(rival.judged, task)[0]):
        return ""
    if difference is not None and difference.value > 0 and difference.seen:
        return ""
    if any(one.theirs > one.ours * LIKE for one in costs):
        return ""
    return " and ".join(one.words for one in costs)


def _did_not_help(alone: Row, own: Row, task: Task) -> str:
    """Say that the same student is as good or better without a teacher, where it is; else ""."""
    difference = gap(alone, own, task)
    if difference is None or difference.value <= 0:
        return ""
    unseen = "" if difference.seen else f"; {_unseen(own)}"
    return (
        f"the teacher's labels did not help: {alone.name} has {said(alone, task)} against {said(own, task)} "
        f"({difference.words}{unseen})"
    )


def _never_right(row: Row) -> str:
    """Name a class of which not one image is right."""
    if row.min_class is None or row.min_class[1] > 0:
        return ""
    return f" But it is never right on {row.min_class[0]}: look at that class first."


def _praise(ships: Row, replies: Sequence[Reply], task: Task) -> str:
    short = [reply.question.lower() for reply in replies if reply.yes is False]
    name = f"Ship {ships.name}" + (f" ({human_bytes(ships.bytes)})" if ships.bytes else "")
    if figure(ships, task)[0] is None:
        return f"{name} only after measuring it on images with labels: nobody knows yet how good it is."
    if not replies:
        return f"{name}: no teacher was measured beside it."
    if short:
        return f"{name} if what it saves is worth what it loses: it is not {' and not '.join(short)}."
    return f"{name}."


def _cheaper(question: str, ours: Row, theirs: Row, cost: str) -> Reply:
    found = [one for one in compared(ours, theirs) if one.cost == cost]
    if not found:
        why = "not measured for both at one precision"
        if cost == "latency_p50" and is_live(theirs):
            why = "its teacher ran in PyTorch, and not as a file"
        elif cost == "latency_p50" and theirs.latency_p50 is None:  # as where a run was compressed without it
            why = "its teacher was not timed beside it"
        return Reply(question, None, why)
    (one,) = found
    show = human_bytes if cost == "bytes" else _ms
    what = "weights" if is_live(theirs) else f"{_kind(theirs)} file"
    words = f"{show(one.ours)} against {show(one.theirs)} of its teacher's {what}, {one.words}"
    return Reply(question, one.theirs > one.ours * LIKE, words)


def _as_good(ours: Row, theirs: Row, task: Task) -> Reply:
    difference = gap(ours, theirs, task)
    if difference is None:
        return Reply("As good", None, "there are no labelled images to count on")
    words = f"{said(ours, task)} against {said(theirs, task)} of {theirs.name} ({difference.words}"
    if difference.seen or difference.interval is None:
        return Reply("As good", difference.value >= 0, f"{words})")
    enough = difference.value >= 0 and difference.interval[0] > -_MARGIN
    return Reply("As good", True if enough else None, f"{words}; {_unseen(ours)})")


def _worth(rows: Sequence[Row], student: Row, task: Task) -> tuple[Reply, ...]:
    """Say what real images gave a student of pictures that were made with them; () where none is without them."""
    bare = next((row for row in rows if row.key == "without"), None)
    difference = None if bare is None else gap(student, bare, task)
    if bare is None or difference is None:
        return ()
    unseen = "" if difference.seen else f"; {_unseen(student)}"
    words = f"{said(student, task)} against {said(bare, task)} of {bare.name} ({difference.words}{unseen})"
    return (Reply("Real images worth it", difference.value > 0 if difference.seen else None, words),)


def _unseen(row: Row) -> str:
    images = f"{row.groups:,} groups" if row.groups else f"{row.n:,} images" if row.n else "these images"
    return f"no difference seen on {images}"


def _own_file(row: Row) -> str:
    """Name a rival as something to ship: "the teacher's own int8 file (teacher: conv, int8)"."""
    if is_live(row):
        return f"{row.name} itself, in PyTorch"
    whose = "the teacher's own" if row.role in ("teacher", "teacher-int8") else "the"
    return f"{whose} {_kind(row)} file ({row.name})"


def _kind(row: Row) -> str:
    return "int8" if row.role in ("int8", "teacher-int8") else "fp32"


def _ms(value: float) -> str:
    return f"{value:.3g} ms"


def _first(rows: Sequence[Row], role: str) -> Row | None:
    return next((row for row in rows if row.role == role), None)


def _best(rows: Sequence[Row], role: str, task: Task) -> Row | None:
    """Return the row of a role with the best figure: of several teachers the one that is hardest to match."""

    def rank(row: Row) -> float:
        value = figure(row, task)[0]
        return -math.inf if value is None else value

    return max((row for row in rows if row.role == role), key=rank, default=None)
