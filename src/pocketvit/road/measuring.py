"""A row of the honest table, measured: the figures of the very network or file that it names, and what it costs."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..compression import merge_branches
from ..deployment.export import export_onnx
from ..deployment.latency import measure as measure_latency
from ..deployment.latency import peak_memory
from ..deployment.opening import size_of
from ..models.flops import count_bytes, count_flops, count_parameters
from ..sources.base import Source
from ..sources.tiles import whole
from ..tasks import Task
from ..teachers import Teacher
from ..teachers.given import GivenTeacher
from ..views.preprocessing import Preprocessing
from .answering import Answers, road_answers, teacher_answers
from .images import Road, known

log = logging.getLogger("pocketvit")

EXPORTED = 100e6  # parameters of a network beyond which an export costs minutes and gigabytes


@dataclass
class Entry:
    """One row of the table before it is measured.

    Attributes:
        key: Short and unique; names the row's files and arrays.
        name: As the table shows it.
        role: teacher, student, baseline, ceiling, against, int8, teacher-int8 or other.
        side: Of its input in pixels.
        answer: Who answers; None where only costs are measured.
        model: A live network, whose parameters and multiply-adds are counted.
        file: An exported file, whose size, latency and memory are measured; None to export the model for that.
        calibrated: Whether a temperature was fitted.
        note: What else must be known of it.
        probabilities: float32 [N, C], its answers on the scored split, once they were taken.
        validation: float32 [M, C], likewise on validation, where an operating point is chosen there.
        extra: Further fields of the row.
        unknown: Of a teacher: the classes that it does not know.
        task: Its own, where that is not the table's: by which it is exported for being measured.
        like: Key of an earlier entry, the same network with other weights, whose size and times are this one's too.
    """

    key: str
    name: str
    role: str
    side: int
    answer: Answers | None = None
    model: nn.Module | None = None
    file: Path | None = None
    calibrated: bool = True
    note: str = ""
    probabilities: np.ndarray | None = None
    validation: np.ndarray | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    unknown: tuple[int, ...] = ()
    task: Task | None = None
    like: str = ""


def not_run(key: str, name: str, role: str, note: str) -> dict[str, Any]:
    """A row that was left out to save time or because its weights cannot be had."""
    return {"key": key, "name": name, "role": role, "status": "not run", "note": note}


def point_source(road: Road) -> Source | None:
    """Return the validation split where an operating point is chosen on it, else None.

    Not where it is the scored one: a threshold fitted to the scored images would flatter.
    """
    source = road.dataset.val
    if source is None or source is road.scored or not road.task.screens(road.dataset.classes):
        return None
    return source if known(source) else None


def take_answers(entries: Sequence[Entry], road: Road) -> None:
    """Let entries that have not answered yet answer the scored split, and validation where a point is chosen on it."""
    for source, place in ((road.scored, "probabilities"), (point_source(road), "validation")):
        open_ = [entry for entry in entries if entry.answer is not None and getattr(entry, place) is None]
        if source is None or not open_:
            continue
        given = road_answers({entry.key: entry.answer for entry in open_ if entry.answer}, road, source)
        for entry in open_:
            setattr(entry, place, given[entry.key])


def teacher_entry(teacher: Teacher, road: Road, number: int) -> Entry:
    """The row of a teacher, with its answers; its network is the user's module with the class map left out."""
    entry = Entry(
        key=f"teacher-{number}",
        name=f"teacher: {teacher.name}",
        role="teacher",
        side=teacher.input_size,
        answer=teacher_answers(teacher, road.task),
        model=teacher.module,
        calibrated=False,
        note=" ".join(teacher.notes),
        unknown=getattr(teacher, "unknown", ()),
    )
    if isinstance(teacher, GivenTeacher):  # it cannot be asked, and costs nothing
        entry.answer, entry.model, entry.note = None, None, "stored answers, and no network"
        entry.probabilities = None if road.scored is None else teacher.given(road.scored)
    take_answers([entry], road)
    return entry


def measure_rows(
    entries: Sequence[Entry], task: Task, *, source: Source | None, validation: Source | None = None
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Measure every entry; return the table's rows and the arrays of ``predictions.npz``.

    Latencies are taken in turns, batch 1, one thread: of the ONNX file, where there is one or the network exports, else
    of PyTorch (said in the note). Agreement is with the teachers as one; of a teacher's own file with that teacher.

    Args:
        entries: In the order of the table, answered.
        task: Judges.
        source: The scored split.
        validation: What the entries' ``validation`` are answers on.
    """
    scored = whole(source) if source is not None else None
    judged = whole(validation) if validation is not None else None
    given = {
        entry.key: scored.per_image(entry.probabilities)
        for entry in entries
        if scored is not None and entry.probabilities is not None
    }
    teachers = [entry for entry in entries if entry.role == "teacher" and entry.key in given]
    theirs, silent = [given[entry.key] for entry in teachers], [entry.unknown for entry in teachers]
    reference = task.merged(theirs, silent) if teachers else None
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = {entry.key: _onnx_file(entry, Path(folder), task) for entry in entries}
        timed = _latencies(entries, files)
        for entry in entries:
            row: dict[str, Any] = {"key": entry.key, "name": entry.name, "role": entry.role, "status": "measured"}
            if scored is not None and entry.key in given:
                point = None
                if judged is not None and entry.validation is not None:
                    point = task.point(judged.per_image(entry.validation), judged.targets, scored.classes)
                row |= task.judge(
                    given[entry.key], scored.targets, scored.classes,
                    teacher=_like_whom(entry, given, reference), groups=scored.groups, point=point,
                ).fields()  # fmt: skip
            row |= {"calibrated": entry.calibrated, "note": entry.note, **entry.extra}
            row |= _same_costs(find(rows, entry.like)) if entry.like else _costs(entry, files[entry.key])
            if entry.key in timed:
                row["latency_ms"] = {"p50": timed[entry.key].p50, "p90": timed[entry.key].p90}
            rows.append(row)
    arrays = dict(given)
    if scored is not None:
        arrays |= {**task.arrays(scored.targets), "names": np.array(scored.names)}
    return rows, arrays


def _like_whom(entry: Entry, given: Mapping[str, np.ndarray], teachers: np.ndarray | None) -> np.ndarray | None:
    """Return the answers that an entry should give, [N, ...]; None for a teacher, and where there is none."""
    if entry.role == "teacher":
        return None
    return given.get(entry.key.removesuffix("-int8"), teachers) if entry.role == "teacher-int8" else teachers


def _same_costs(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("parameters", "flops", "bytes", "memory_mb", "latency_ms")
    return {name: row[name] for name in names if name in row}


def _costs(entry: Entry, file: Path | None) -> dict[str, Any]:
    costs: dict[str, Any] = {}
    if entry.model is not None:
        counted = entry.model if file is None else merge_branches(entry.model, entry.side)  # what the file holds
        costs["parameters"] = count_parameters(counted)
        costs["flops"] = _quietly(lambda: count_flops(counted, entry.side))
    if file is not None:
        costs["bytes"] = size_of(file)
        costs["memory_mb"] = _quietly(lambda: peak_memory(file, entry.side))
    elif entry.model is not None:
        costs["bytes"] = count_bytes(entry.model)
        why = "it does not export to ONNX" if costs["parameters"] <= EXPORTED else "too large to export for this table"
        costs["note"] = f"{entry.note.rstrip('.')}; in PyTorch: {why}".strip("; ")
    return costs


def _onnx_file(entry: Entry, folder: Path, task: Task) -> Path | None:
    """The entry's own file, or a temporary export for a fair latency; None where it does not export."""
    if entry.like or entry.file is not None or entry.model is None or count_parameters(entry.model) > EXPORTED:
        return entry.file
    return export_quietly(entry.model, folder / f"{entry.key}.onnx", entry.side, entry.task or task)


def export_quietly(model: nn.Module, path: Path, side: int, task: Task) -> Path | None:
    """Export a network for measuring alone; None where it does not export."""
    device = next(model.parameters()).device
    about = Preprocessing.plain((side, (0.0,) * 3, (1.0,) * 3))
    try:
        with torch.no_grad():
            outputs = task.classes_in(model.eval()(torch.zeros(1, 3, side, side, device=device)))
        names = [str(index) for index in range(outputs or 0)]
        return export_onnx(model, path, classes=names, preprocessing=about, task=task)
    except Exception as error:  # any user module may fail here in any way; the figure is then missing, and said so
        log.debug("not exported: %s", error)
        return None


def _latencies(entries: Sequence[Entry], files: Mapping[str, Path | None]) -> dict[str, Any]:
    """Time all entries in turns, whatever their input sizes."""
    own = [entry for entry in entries if not entry.like]
    candidates = {entry.key: what for entry in own if (what := files[entry.key] or entry.model) is not None}
    sides = {entry.key: entry.side for entry in entries}
    return measure_latency(candidates, image_size=sides, seconds=1.0 * len(candidates))


def find(rows: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """Return the row of a key, an empty one where there is none."""
    return next((row for row in rows if row["key"] == key), {})


def _quietly(action: Any) -> Any:
    """Return what ``action`` returns, or None where a network cannot be counted or run on its own."""
    try:
        return action()
    except Exception as error:  # as in `export_quietly`
        log.debug("not measured: %s", error)
        return None
