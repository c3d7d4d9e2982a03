"""From trained networks to ``results.json``: every row of the honest table, and the evidence behind it."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import nn

from ..config import ViewConfig
from ..deployment.export import export_onnx
from ..deployment.flops import count_flops, count_parameters
from ..deployment.latency import measure as measure_latency
from ..deployment.latency import peak_memory
from ..deployment.run import OnnxModel
from ..errors import PocketError
from ..files import atomic, write_json
from ..rundir import machine
from ..sources.base import Source
from ..sources.subset import Subset
from ..sources.tiles import whole
from ..tasks.classification import ECE_BINS, reliability
from ..tasks.judging import judge
from ..tasks.screening import choose_point, positive_class
from ..tasks.tokens import following
from ..teachers import Teacher
from ..training.predict import plain_pixels, predict_logits
from ..training.step import Input
from .stages import Road

log = logging.getLogger("pocketvit")

_SAMPLES = 32  # images of each kind that the report shows
_BIN_IMAGES = 30  # at least in a bin of a reliability curve: fewer draw noise


@dataclass
class Entry:
    """One row of the table before it is measured.

    Attributes:
        key: Short and unique; names the row's files and arrays.
        name: As the table shows it.
        role: teacher, student, baseline, ceiling, int8 or other.
        model: A live network on the processor.
        side: Of its input in pixels.
        file: An exported file, whose size, latency and memory are measured.
        probabilities: float32 [N, C], its answers on the scored split; None without images.
        calibrated: Whether a temperature was fitted.
        metrics: A ``metrics.jsonl`` for the learning curves.
        note: What else must be known of it.
        licence: Of the weights it comes from.
        extra: Further fields of the row.
        validation: float32 [M, C], its answers on `point_source`, to choose an operating point from; None without one.
    """

    key: str
    name: str
    role: str
    side: int
    model: nn.Module | None = None
    file: Path | None = None
    probabilities: np.ndarray | None = None
    calibrated: bool = True
    metrics: Path | None = None
    note: str = ""
    licence: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    validation: np.ndarray | None = None


def not_run(key: str, name: str, role: str, note: str) -> dict[str, Any]:
    """A row that was left out to save time or because its weights cannot be had."""
    return {"key": key, "name": name, "role": role, "status": "not run", "note": note}


def point_source(road: Road) -> Source | None:
    """Return the validation split where an operating point is chosen on it, else None.

    That is for two classes, and where other images are scored: a threshold fitted to the scored images would flatter.
    """
    source = road.dataset.val
    if source is None or source is road.scored or len(road.dataset.classes) != 2 or source.targets.ndim != 1:
        return None
    return source if (source.targets >= 0).any() else None


def measure_rows(
    source: Source | None, entries: Sequence[Entry], *, task: str = "classification", validation: Source | None = None
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Measure every entry; return the table's rows and the arrays of ``predictions.npz``.

    Latencies are taken in turns, batch 1, one thread: of the ONNX file, where there is one or the network exports, else
    of PyTorch (said in the note). Agreement is with the mean of the teachers' probabilities.

    Args:
        source: The scored split.
        entries: In the order of the table.
        task: As in `judge`.
        validation: What the entries' ``validation`` are answers on.
    """
    scored = whole(source) if source is not None else None
    judged = whole(validation) if validation is not None else None
    probabilities = {
        entry.key: scored.per_image(entry.probabilities)
        for entry in entries
        if scored is not None and entry.probabilities is not None
    }
    teachers = [probabilities[entry.key] for entry in entries if entry.role == "teacher" and entry.key in probabilities]
    reference = np.mean(teachers, axis=0) if teachers else None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {entry.key: _onnx_file(entry, Path(folder)) for entry in entries}
        timed = _latencies(entries, files)
        for entry in entries:
            file = files[entry.key]
            row: dict[str, Any] = {"key": entry.key, "name": entry.name, "role": entry.role, "status": "measured"}
            if scored is not None and entry.key in probabilities:
                other = reference if entry.role != "teacher" else None
                point = None
                if judged is not None and entry.validation is not None:
                    checked = judged.per_image(entry.validation)
                    point = choose_point(checked, judged.targets, positive_class(scored.classes))
                row |= judge(
                    probabilities[entry.key], scored.targets, scored.classes,
                    task=task, teacher=other, groups=scored.groups, point=point,
                ).fields()  # fmt: skip
            row |= {"calibrated": entry.calibrated, "note": entry.note, "licence": entry.licence, **entry.extra}
            if entry.model is not None:
                row["parameters"] = count_parameters(entry.model)
                row["flops"] = _quietly(lambda e=entry: count_flops(e.model, e.side))
            if file is not None:
                row["bytes"] = file.stat().st_size
                memory = _quietly(lambda f=file, e=entry: peak_memory(f, e.side))
                row["memory_mb"] = memory.peak if memory else None
            elif entry.model is not None:
                row["bytes"] = sum(value.nbytes for value in entry.model.state_dict().values())
                row["note"] = f"{entry.note}; in PyTorch: it does not export to ONNX".strip("; ")
            if entry.key in timed:
                row["latency_ms"] = {"p50": timed[entry.key].p50, "p90": timed[entry.key].p90}
            rows.append(row)
    arrays = {key: value.astype(np.float16) for key, value in probabilities.items()}
    if scored is not None:
        arrays |= {"targets": scored.targets, "names": np.array(scored.names)}
    return rows, arrays


def write_results(
    folder: Path,
    road: Road,
    rows: list[dict[str, Any]],
    arrays: Mapping[str, np.ndarray],
    *,
    title: str,
    curves: Mapping[str, Path],
    notes: Sequence[str] = (),
    teachers: Sequence[Mapping[str, Any]] = (),
    differences: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    pictures: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write ``results.json``, ``predictions.npz`` and ``samples.npz`` (with further ``pictures``) into a run folder."""
    dataset, source = road.dataset, road.scored
    if arrays:
        save_arrays(folder / "predictions.npz", arrays)
    save_arrays(folder / "samples.npz", _samples(road, source) | dict(pictures or {}))
    write_json(
        folder / "results.json",
        {
            "title": title,
            "command": command_line(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "machine": machine() | {"threads": 1},  # that latencies are taken with
            "dataset": {
                "name": dataset.name,
                "classes": list(dataset.classes),
                "counts": {split: len(images) for split, images in dataset.splits.items()},
                "scored_on": source.split if source is not None else None,
                "notes": [*dataset.checks.lines(), *dataset.notes],
                "task": dataset.task,
                "research": dataset.research,
                "group": dataset.group,
            },
            "rows": rows,
            "curves": {key: str(path.relative_to(folder)) for key, path in curves.items() if path.is_file()},
            "predictions": "predictions.npz" if arrays else None,
            "samples": "samples.npz",
            "teachers": list(teachers),
            "notes": list(notes),
            "differences": list(differences),
            **(extra or {}),
        },
    )


def command_line() -> str:
    """The command (or the Python program) that made the figures."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    if program in ("pocketvit", "__main__.py", "cli.py"):
        return " ".join(["pocketvit", *sys.argv[1:]])
    return "pocketvit, called from Python" + (f" ({program})" if program.endswith(".py") else "")


def reliability_report(
    before: np.ndarray | None, after: np.ndarray | None, source: Source | None
) -> dict[str, Any] | None:
    """Return the student's reliability curves for ``results.json``, with and without its temperature.

    Args:
        before: floating [N, C], its answers on the scored split as it was trained.
        after: The same once a temperature was fitted; None where none was.
        source: The scored split.
    """
    if source is None or before is None or source.targets.ndim != 1:
        return None
    scored = whole(source)
    known = scored.targets >= 0
    if not known.any():
        return None
    curves = {}
    for name, shown in (("before", before), ("after", after)):
        if shown is None:
            continue
        given = scored.per_image(shown)
        bins = min(ECE_BINS, max(3, int(known.sum()) // _BIN_IMAGES))
        curve = reliability(given.max(1)[known], (given.argmax(1) == scored.targets)[known], bins)
        curves[name] = {key: getattr(curve, key).tolist() for key in ("confidence", "accuracy", "counts")}
    return curves


def answers(model: nn.Module, source: Source | None, view: ViewConfig, input: Input) -> np.ndarray | None:
    """Return the probabilities float32 [N, C] of a network over a split, its heads averaged; None without images.

    Heads are averaged as probabilities. Of several labels an image, the one token that there may be is averaged as
    logits, as timm and the exported file do.
    """
    if source is None:
        return None
    heads = predict_logits(model, source, view, input)
    if source.targets.ndim == 2:
        return torch.stack(heads).mean(0).sigmoid().numpy()
    return torch.stack([head.softmax(1) for head in heads]).mean(0).numpy()


def token_report(
    model: nn.Module, teachers: Sequence[Entry], source: Source, view: ViewConfig, input: Input
) -> dict[str, Any]:
    """Return which teacher each head of a student with a token a teacher follows, for ``results.json``.

    Args:
        model: The student.
        teachers: In the order of the tokens, with their answers.
        source: The scored split; its labels are not looked at.
        view: Its geometry is used.
        input: What the student is fed.
    """
    heads = [head.softmax(1).numpy() for head in predict_logits(model, source, view, input)]
    given = [entry.probabilities for entry in teachers if entry.probabilities is not None]
    return following(heads, given).data([entry.name.removeprefix("teacher: ") for entry in teachers])


def file_answers(path: Path, source: Source | None) -> np.ndarray | None:
    """Return the probabilities float32 [N, C] of an exported file over a split, with its own preprocessing."""
    if source is None:
        return None
    exported = OnnxModel(path)
    pixels = plain_pixels(source, exported.signature.view)
    return expit(exported.logits(pixels)) if source.targets.ndim == 2 else exported.predict(pixels)


def teacher_entry(
    teacher: Teacher, probabilities: np.ndarray | None, number: int, validation: np.ndarray | None = None
) -> Entry:
    """The row of a teacher; its network is the user's module with the class map left out."""
    return Entry(
        key=f"teacher-{number}",
        name=f"teacher: {teacher.name}",
        role="teacher",
        side=teacher.input_size,
        model=teacher.module,
        probabilities=probabilities,
        calibrated=False,
        note=" ".join(teacher.notes),
        validation=validation,
    )


def _onnx_file(entry: Entry, folder: Path) -> Path | None:
    """The entry's own file, or a temporary export for a fair latency; None where it does not export."""
    if entry.file is not None or entry.model is None:
        return entry.file
    if count_parameters(entry.model) > 100e6:  # minutes and gigabytes for a figure beside the point
        return None
    outputs = _quietly(lambda: _outputs(entry))
    if outputs is None:
        return None
    path = folder / f"{entry.key}.onnx"
    try:
        return export_onnx(entry.model, path, image_size=entry.side, classes=[str(i) for i in range(outputs)])
    except PocketError:
        return None


def _outputs(entry: Entry) -> int:
    assert entry.model is not None
    device = next(entry.model.parameters()).device
    with torch.no_grad():
        return entry.model.eval()(torch.zeros(1, 3, entry.side, entry.side, device=device)).shape[1]


def _latencies(entries: Sequence[Entry], files: Mapping[str, Path | None]) -> dict[str, Any]:
    """Time the entries in turns; those with the same input size share a call, which is what `measure` takes."""
    result: dict[str, Any] = {}
    for side in sorted({entry.side for entry in entries}):
        group = {entry.key: files[entry.key] or entry.model for entry in entries if entry.side == side}
        candidates = {key: what for key, what in group.items() if what is not None}
        result |= measure_latency(candidates, image_size=side, seconds=1.0 * len(candidates))
    return result


def _samples(road: Road, source: Source | None) -> dict[str, np.ndarray]:
    """Views as the student sees them, and thumbnails of the scored images, for the report."""
    train = road.dataset.train
    some = np.linspace(0, len(train) - 1, num=min(_SAMPLES, len(train))).astype(np.int64)
    views = road.views.render(some, 0).pixels.permute(0, 2, 3, 1).numpy()
    arrays = {"views": views, "labels": np.asarray(train.targets)[some]}
    if source is not None and source.parents is None:  # a tile is not the image that figures are counted on
        chosen = np.arange(min(len(source), 2000 if road.view.view_size <= 64 else 300))
        pixels = plain_pixels(Subset(source, chosen), road.view)
        arrays |= {"test_images": pixels.permute(0, 2, 3, 1).numpy(), "test_positions": chosen}
    return arrays


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as one compressed ``.npz``, whole or not at all."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _quietly(action: Any) -> Any:
    """Return what ``action`` returns, or None where a network cannot be counted or run on its own."""
    try:
        return action()
    except Exception as error:  # any user module may fail here in any way; the figure is then missing, and said so
        log.debug("not measured: %s", error)
        return None
