"""What a run folder says about itself: ``results.json``, read into frozen rows that every output here is made of.

A figure that is missing, or that none of its kind can be, is ``None`` and later reads "–", "unknown" or "not run"; it
is never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import PocketError
from ..files import read_json
from ..tasks import Task, task_named

Role = Literal["teacher", "teacher-int8", "student", "model", "int8", "baseline", "against", "ceiling", "other"]
"""What a row is to the student that a run is about.

teacher: one of its teachers; teacher-int8: that teacher's own int8 file, under the key "KEY-int8". student: itself, in
fp32; model: a network that was trained without a teacher; int8: the int8 file of either, which ships. baseline: the
same student without a teacher. against: another network that one might ship otherwise. ceiling: the same student with
all labels.
"""
Interval = tuple[float, float]

_FIGURES = (
    "map", "map_50", "map_75", "recall", "auc", "balanced_accuracy", "average_precision", "kappa", "mae", "sensitivity",
    "specificity", "threshold",
)  # fmt: skip
_INTERVALS = (
    "map_interval", "auc_interval", "balanced_interval", "kappa_interval", "sensitivity_interval",
    "specificity_interval",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the honest table: a model, what it gets right and what it costs.

    Shares (accuracy, agreement, interval) lie in [0, 1]; FLOPs are those of one image; latency is that of batch 1;
    memory is what a fresh process takes above its libraries. Intervals are of 95 %, over ``groups`` (patients, say)
    where there are any. What one figure means stands in `metrics.screening`.
    """

    key: str
    name: str
    role: Role = "other"
    measured: bool = True  # False: the row was left out and reads "not run"
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None  # images the accuracy was counted on
    agreement: float | None = None  # with the teachers
    ece: float | None = None
    calibrated: bool = True
    min_class: tuple[str, float] | None = None  # the class with the lowest accuracy, and that accuracy
    parameters: int | None = None
    flops: int | None = None
    bytes: int | None = None
    latency_p50: float | None = None  # milliseconds
    latency_p90: float | None = None
    memory_mb: float | None = None
    seeds: int = 1
    note: str = ""
    licence: str = ""
    file: str = ""  # kept of it, relative to the run, where the verdict would ship it in the student's place
    groups: int | None = None  # that the images come from, where they are not independent
    chance: float | None = None  # share that the commonest answer gets right, where ``n`` are not the table's images
    auc: float | None = None
    auc_interval: Interval | None = None
    balanced_accuracy: float | None = None
    balanced_interval: Interval | None = None
    class_auc: tuple[float | None, ...] = ()  # of each class or label
    average_precision: float | None = None
    kappa: float | None = None  # quadratic weighted, of ordinal grades
    kappa_interval: Interval | None = None
    mae: float | None = None  # grades
    sensitivity: float | None = None  # of the class ``positive``, called from a probability of ``threshold`` on
    sensitivity_interval: Interval | None = None
    specificity: float | None = None
    specificity_interval: Interval | None = None
    threshold: float | None = None
    positive: str = ""
    chosen: str = ""  # how and on what the threshold was chosen
    map: float | None = None  # of boxes: COCO's mean average precision
    map_interval: Interval | None = None
    map_50: float | None = None  # at an overlap of .5
    map_75: float | None = None
    recall: float | None = None
    boxes: int | None = None  # true ones
    by_class: tuple[tuple[str, float | None], ...] = ()  # average precision
    by_size: tuple[tuple[str, float | None], ...] = ()
    curve: tuple[float, ...] = ()  # precision at recalls 0, .01 to 1 and an overlap of .5, mean over classes

    @classmethod
    def read(cls, value: Row | Mapping[str, Any]) -> Row:
        """Make a row of an entry of ``results.json``; keys that this version does not know are ignored."""
        if isinstance(value, Row):
            return value
        if not isinstance(value, Mapping):
            raise PocketError(f"a row of results is not a set of named values but {value!r}")
        name = str(value.get("name") or value.get("key") or "model")
        role = value.get("role", "other")
        if role == "baseline" and value.get("key") == "against":  # as versions before 0.2 wrote it
            role = "against"
        lowest = _pair(value.get("min_class"))
        lowest_accuracy = _share(lowest[1]) if lowest else None
        aucs = value.get("class_auc")
        latency = value.get("latency_ms")
        latency = latency if isinstance(latency, Mapping) else {}
        return cls(
            key=str(value.get("key") or name),
            name=name,
            role=role if role in get_args(Role) else "other",
            measured=value.get("status", "measured") == "measured",
            accuracy=_share(value.get("accuracy")),
            interval=_interval(value.get("interval")),
            n=_count(value.get("n")),
            agreement=_share(value.get("agreement")),
            ece=_share(value.get("ece")),
            calibrated=value.get("calibrated") is not False,
            min_class=(str(lowest[0]), lowest_accuracy) if lowest_accuracy is not None else None,
            parameters=_count(value.get("parameters")),
            flops=_count(value.get("flops")),
            bytes=_count(value.get("bytes")),
            latency_p50=_number(latency.get("p50")),
            latency_p90=_number(latency.get("p90")),
            memory_mb=_number(value.get("memory_mb")),
            seeds=_count(value.get("seeds")) or 1,
            note=str(value.get("note") or ""),
            licence=str(value.get("licence") or value.get("license") or ""),
            file=str(value.get("file") or ""),
            groups=_count(value.get("groups")),
            chance=_share(value.get("chance")),
            **{key: _number(value.get(key)) for key in _FIGURES},  # type: ignore[arg-type]
            **{key: _interval(value.get(key)) for key in _INTERVALS},  # type: ignore[arg-type]
            class_auc=tuple(map(_number, aucs)) if isinstance(aucs, list) else (),
            positive=str(value.get("positive") or ""),
            chosen=str(value.get("chosen") or ""),
            boxes=_count(value.get("boxes")),
            by_class=tuple((str(name), _number(one)) for name, one in _mapping(value.get("by_class")).items()),
            by_size=tuple((str(name), _number(one)) for name, one in _mapping(value.get("by_size")).items()),
            curve=tuple(one for one in map(_number, _list(value.get("curve"))) if one is not None),
        )


@dataclass(frozen=True)
class Tokens:
    """How far each head of a student with a token a teacher says what each teacher says, over ``n`` images."""

    n: int
    teachers: tuple[str, ...]
    heads: tuple[str, ...]  # the class head, then the token of each teacher
    agreement: tuple[tuple[float, ...], ...]  # a row a head, a column a teacher: share of the images
    kl: tuple[tuple[float, ...], ...]  # likewise: mean KL(teacher || head), nats
    words: str

    @classmethod
    def read(cls, value: Any) -> Tokens | None:
        """Make it of what ``results.json`` holds; None where anything is missing or of the wrong kind."""
        value = _mapping(value)
        n, words = _count(value.get("n")), value.get("words")
        teachers, heads = _sentences(value.get("teachers")), _sentences(value.get("heads"))
        tables = [
            tuple(tuple(map(_number, row)) for row in value.get(key) or () if isinstance(row, list))
            for key in ("agreement", "kl")
        ]
        whole = all([len(row) for row in table] == [len(teachers)] * len(heads) for table in tables)
        if not n or not heads or not whole or any(None in row for table in tables for row in table):
            return None
        return cls(n, teachers, heads, tables[0], tables[1], str(words or ""))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Curve:
    """A reliability curve: how often answers of about one confidence are right, in bins of about as many images."""

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def read(cls, value: Any) -> Curve | None:
        """Make it of what ``results.json`` holds; None where anything is missing or of the wrong kind."""
        value = _mapping(value)
        columns = [value.get(key) for key in ("confidence", "accuracy", "counts")]
        if not all(isinstance(column, list) and column for column in columns):
            return None
        points = [tuple(map(_number, point)) for point in zip(*columns, strict=False)]
        if len({len(column) for column in columns}) != 1 or any(None in point for point in points):
            return None
        confidence, accuracy, counts = zip(*points, strict=True)
        return cls(confidence, accuracy, tuple(map(round, counts)))


@dataclass(frozen=True)
class Results:
    """All that ``results.json`` of one run holds, and the folder it was read from."""

    folder: Path | None
    rows: tuple[Row, ...]
    title: str = ""
    command: str = ""
    created: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    curves: Mapping[str, str] = field(default_factory=dict)  # row key -> metrics.jsonl, relative to the folder
    samples: str = "samples.npz"
    predictions: str = "predictions.npz"
    lead: str = ""  # the sentence that the run was made for, where it is another than the verdict's
    notes: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    teachers: tuple[Mapping[str, Any], ...] = ()  # {"name", "licence", "source"}, for the model card
    tokens: Tokens | None = None  # of a student with a token a teacher
    reliability: Mapping[str, Curve] = field(default_factory=dict)  # "before" and "after" a temperature was fitted
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tried: Mapping[str, Any] = field(default_factory=dict)  # by `compress --fit`: {"on", "recovered", "before", "ways"}
    comparison: tuple[Mapping[str, Any], ...] = ()  # the arms of an experiment, for `comparison.difference_plot`

    @property
    def student(self) -> Row | None:
        """The network that the run is about, in fp32: the distilled student, or what was trained without a teacher."""
        return self._first("student") or self._first("model")

    @property
    def shipped(self) -> Row | None:
        """The row of the file that ships: int8 where it was measured, else the student."""
        return self._first("int8") or self.student

    @property
    def teacher_rows(self) -> tuple[Row, ...]:
        """The teachers that were measured, in the order of the table."""
        return tuple(row for row in self.rows if row.role == "teacher" and row.measured)

    @property
    def baseline(self) -> Row | None:
        """The same student without a teacher, measured or not."""
        return next((row for row in self.rows if row.role == "baseline"), None)

    @property
    def task(self) -> Task:
        """What the images are answered with, and so what an accuracy counts."""
        return task_named(str(self.dataset.get("task") or "classification"))

    @property
    def chance(self) -> float | None:
        """Share of the scored images that the commonest answer gets right; None where nobody counted, or it is idle."""
        return _share(self.dataset.get("chance"))

    @property
    def research(self) -> bool:
        """Whether the images are medical, or people's."""
        return self.dataset.get("research") is True

    @property
    def scored_on(self) -> str:
        """The split that accuracies were counted on: "test" unless the run says otherwise."""
        return str(self.dataset.get("scored_on") or "test")

    def _first(self, role: str) -> Row | None:
        return next((row for row in self.rows if row.role == role and row.measured), None)


def load_results(folder: Path | str) -> Results:
    """Read ``results.json`` of a run folder.

    Raises:
        PocketError: the folder is not a run folder, or the file is broken.
    """
    folder = Path(folder)
    path = folder / "results.json"
    if not path.is_file():
        raise PocketError(
            f"{folder} is not a finished run: it has no results.json. Name a folder under runs/ whose run came to its "
            "end, or finish it with the same command and --resume."
        )
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("rows", []), list):
        raise PocketError(f"{path} is not the results of a run: it should be an object with a list named 'rows'.")
    curves = _mapping(value.get("curves"))
    if not curves and (folder / "metrics.jsonl").is_file():
        value = {**value, "curves": {"student": "metrics.jsonl"}}
    return parse_results(value, folder)


def parse_results(value: Mapping[str, Any], folder: Path | None = None) -> Results:
    """Make ``Results`` of what ``results.json`` holds; what is missing, or of the wrong kind, is left empty."""
    dataset = _mapping(value.get("dataset"))
    dataset["name"] = " ".join(str(dataset.get("name") or "").split())
    dataset["counts"] = _mapping(dataset.get("counts"))
    dataset.setdefault("scored_on", None)
    dataset["notes"] = _sentences(dataset.get("notes"))
    return Results(
        folder=folder,
        rows=with_company(_roles(value)),
        title=" ".join(str(value.get("title") or (folder.resolve().name if folder else "")).split()),
        command=str(value.get("command") or ""),
        created=str(value.get("created") or ""),
        machine=_mapping(value.get("machine")),
        dataset=dataset,
        classes=tuple(str(name) for name in _list(dataset.get("classes"))),
        curves={str(key): str(path) for key, path in _mapping(value.get("curves")).items()},
        samples=str(value.get("samples") or "samples.npz"),
        predictions=str(value.get("predictions") or "predictions.npz"),
        lead=str(value.get("lead") or ""),
        notes=_sentences(value.get("notes")),
        differences=_sentences(value.get("differences")),
        teachers=tuple(t for t in _list(value.get("teachers")) if isinstance(t, dict)),
        tokens=Tokens.read(value.get("tokens")),
        reliability={
            name: curve
            for name, given in _mapping(value.get("reliability")).items()
            if name in ("before", "after") and (curve := Curve.read(given)) is not None
        },
        provenance=_mapping(value.get("provenance")),
        tried=_mapping(value.get("tried")),
        comparison=tuple(arm for arm in _list(value.get("comparison")) if isinstance(arm, dict)),
    )


def _roles(value: Mapping[str, Any]) -> list[Row]:
    """Return the rows of ``results.json``; what was trained without any teacher is no student that lacks one."""
    rows = [Row.read(row) for row in value.get("rows", [])]
    alone = not value.get("teachers") and not any(row.role in ("teacher", "baseline", "ceiling") for row in rows)
    return [replace(row, role="model") if alone and row.role == "student" else row for row in rows]


def with_company(rows: Iterable[Row | Mapping[str, Any]]) -> tuple[Row, ...]:
    """Return ``rows`` with a "not run" row for each companion that a distilled student lacks.

    A compressed student's companion is what it was made of ("before-1", ...): nobody asks for its twin.

    A student is never quoted alone: the same student without a teacher, and the teacher, stand beside it.
    Row keys are made unique, as plots and predictions are looked up by them.
    """
    result: list[Row] = []
    for row in map(Row.read, rows):
        taken = {other.key for other in result}
        number = 2
        key = row.key
        while key in taken:
            key, number = f"{row.key}-{number}", number + 1
        result.append(row if key == row.key else replace(row, key=key))
    roles = {row.role for row in result}
    if "student" in roles:
        compressed = any("-before-" in f"-{row.key}" for row in result)  # an overview puts its run before a key
        if "baseline" not in roles and not compressed:
            result.append(Row("baseline", "student without a teacher", "baseline", measured=False))
        if "teacher" not in roles:
            result.insert(0, Row("teacher", "teacher", "teacher", measured=False))
    return tuple(result)


def _number(value: Any) -> float | None:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def _share(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= 1 else None


def _count(value: Any) -> int | None:
    number = _number(value)
    return round(number) if number is not None and 0 <= number <= 2**53 else None  # what a float counts exactly


def _interval(value: Any) -> Interval | None:
    bounds = [_number(bound) for bound in _pair(value)]
    return (bounds[0], bounds[1]) if bounds and None not in bounds else None  # type: ignore[return-value]


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _pair(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) and len(value) == 2 else []


def _sentences(value: Any) -> tuple[str, ...]:
    """Notes and differences: plain sentences, or objects that carry one under "words"."""
    result = []
    for item in value if isinstance(value, (list, tuple)) else ():
        if isinstance(item, Mapping):
            item = item.get("words") or item.get("text") or ", ".join(f"{key}: {part}" for key, part in item.items())
        result.append(str(item))
    return tuple(result)
