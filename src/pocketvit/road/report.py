"""The last stage: ``results.json``, the arrays behind it, the model card and the HTML report."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm

from ..deployment.budget import Budget
from ..files import atomic, counted, human_bytes, write_json
from ..labels.record import choose_k
from ..metrics import paired_difference
from ..objectives.combine import needs
from ..reporting.card import write_card
from ..reporting.evidence import shown_positions
from ..reporting.forecast import told
from ..reporting.gap import against
from ..reporting.page import write_report
from ..reporting.results import Row
from ..reporting.saliency import heat_maps
from ..rundir import machine
from ..settings import listed
from ..sources.subset import Subset
from ..sources.tiles import independent, whole
from ..teachers import Teacher
from ..training.metrics import read_metrics
from ..training.predict import plain_pixels
from .base import Cost, Stage, Walk
from .images import Road
from .measuring import find
from .ship import INT8, shipped

log = logging.getLogger("pocketvit")

_TITLES = {"teacher": "teacher-1", "student": "student", "student without a teacher": "alone"}
_SAMPLES = 32  # training images that the report shows, from first to last: of every class


class Report(Stage):
    """What the walk found, for people."""

    name = "report"
    reads = ("images", "rows")
    writes = ("report",)
    everyone = False

    def cost(self, walk: Walk) -> Cost:
        return Cost(seconds=10.0)  # plots and heat maps

    def run(self, walk: Walk) -> None:
        road, settings, config = walk.road, walk.settings, walk.config
        student = walk.networks["student"]
        beyond = _beyond(walk)
        if beyond and _is_too_large(walk):
            walk.extra["too_large"] = beyond
        before = _against_before(walk)
        if before:
            walk.extra["lead"] = f"{before[:1].upper()}{before[1:]}."
        taught = f" distilled from {' and '.join(teacher.name for teacher in walk.teachers)}" if walk.teachers else ""
        # What weights of a folder are of, they say themselves.
        own = config.network.name
        network = own if walk.teachers else walk.names.get("student", own)
        write_results(
            walk.folder,
            road,
            walk.rows,
            walk.arrays,
            title=f"{road.dataset.name}: {network}{taught}",
            curves={"student": walk.folder / "metrics.jsonl", "alone": walk.folder / "alone" / "metrics.jsonl"},
            notes=[*walk.notes, *_notes(walk, beyond)],
            teachers=_teachers(walk),
            differences=_differences(walk.rows, walk.controls),
            extra=walk.extra | {"seconds": walk.spent()},
            pictures=heat_maps(student, road.scored, road.view, walk.input, walk.answered, road.task) | _compared(walk),
        )
        write_card(walk.folder)
        write_report(walk.folder, images=not settings.no_images)
        log.info("report   %s", walk.folder / "report.html")


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
    save_arrays(folder / "samples.npz", _samples(road, shown_positions(rows, arrays, road.task)) | dict(pictures or {}))
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
                "scored_name": source.name if source is not None else None,
                "notes": [*dataset.checks.lines(), *dataset.notes],
                "task": dataset.task,
                "chance": road.task.chance(whole(source).targets) if source is not None else None,
                "research": dataset.research,
                "group": dataset.group,
                "fingerprint": source.fingerprint if source is not None else None,  # of what figures were taken on
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
        import shlex

        return shlex.join(["pocketvit", *sys.argv[1:]])
    return "pocketvit, called from Python" + (f" ({program})" if program.endswith(".py") else "")


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as one compressed ``.npz``, whole or not at all."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _samples(road: Road, shown: np.ndarray) -> dict[str, np.ndarray]:
    """Views as the student sees them, and the scored images that the report shows."""
    train = road.dataset.train
    some = np.linspace(0, len(train) - 1, num=min(_SAMPLES, len(train))).astype(np.int64)
    views = road.views.render(some, 0).pixels.permute(0, 2, 3, 1).numpy()
    arrays = road.task.samples(views, train.targets[some], train.classes)
    source = road.scored
    if source is not None and source.parents is None and len(shown):  # a tile is not the image that figures count
        pixels = plain_pixels(Subset(source, shown), road.view)
        arrays |= {"test_images": pixels.permute(0, 2, 3, 1).numpy(), "test_positions": shown}
    return arrays


def _compared(walk: Walk) -> dict[str, np.ndarray]:
    """Answers side by side with the truth, where the task shows them so."""
    source = walk.road.scored
    answers = {title: walk.arrays[key] for title, key in _TITLES.items() if key in walk.arrays}
    return {} if source is None or not answers else walk.road.task.compared(source, answers)


def _differences(rows: Sequence[dict[str, Any]], controls: Mapping[str, str]) -> list[str]:
    """What one seed allows to be said of the student against itself alone, and against each control."""
    student, said = find(rows, "student").get("accuracy"), []
    words = {"alone": "distilled minus alone"} | {key: f"against the {name}" for key, name in controls.items()}
    for key, name in words.items():
        other = find(rows, key).get("accuracy")
        if student is not None and other is not None:
            said.append(f"{name}: {paired_difference([student], [other]).words()}")
    return said


def _notes(walk: Walk, beyond: str | None) -> list[str]:
    config, settings, notes = walk.config, walk.settings, []
    if walk.teachers:
        epochs = len(read_metrics(walk.folder / "metrics.jsonl")) if config.train.seconds else config.train.epochs
        uses = epochs / config.labels.views
        views = f"{counted(config.labels.views, 'augmented view')} per image were labelled once and stored"
        notes.append(views + (f"; each was shown {uses:.3g} times" if uses > 1 else ", one per epoch"))
        if uses <= 1:
            notes.append(
                "with as many views as epochs the first student costs what live teachers cost; the next are cheaper"
            )
    val = walk.road.dataset.val
    if config.train.seconds and val is not None and walk.road.task.exclusive:
        lines, shorter = (read_metrics(walk.folder / f"{name}.jsonl") for name in ("metrics", "extended"))
        notes += filter(None, [told(lines, independent(val), shorter)])
    if _approximated(walk):
        notes.append("logits that were not stored were approximated (--approximate-tail)")
    if getattr(settings, "fit", None) and not beyond:
        file = shipped(walk.folder)
        kind, size = "int8" if file.name == INT8 else "fp32", file.stat().st_size
        notes.append(f"chosen to fit {settings.fit}: the {kind} file has {size:,} bytes ({human_bytes(size)})")
    notes += filter(None, [beyond])
    if not walk.extra.get("compressed_from") or (walk.folder / "metrics.jsonl").is_file():
        notes.append(f"seed {config.train.seed}; the last checkpoint counts, not the best on the test set")
    return notes


def _approximated(walk: Walk) -> bool:
    """Whether the objective was given logits that no label holds."""
    labels, loss = walk.config.labels, walk.config.loss
    some = choose_k(len(walk.road.dataset.classes), labels.top_k) > 0
    return (
        labels.approximate_tail
        and some
        and not walk.untaught
        and needs(walk.road.task.objective(loss.objective), loss) == "full"
    )


def _is_too_large(walk: Walk) -> bool:
    """Whether the file that ships has more bytes than were allowed; its time, another run may measure otherwise."""
    return walk.settings.budget.bytes is not None and shipped(walk.folder).stat().st_size > walk.settings.budget.bytes


def _beyond(walk: Walk) -> str | None:
    """Say that the file which ships exceeds what was asked for: layers that stay fp32 make it larger than the plan."""
    allowed = getattr(walk.settings, "budget", None)
    if allowed is None:
        return None
    file = shipped(walk.folder)
    row = find(walk.rows, "int8" if file.name == INT8 else "student")
    ms = (row.get("latency_ms") or {}).get("p50")
    excess = Budget(**vars(allowed)).excess(file.stat().st_size, ms)
    if excess is None:
        return None
    remedy = "give a larger --max-drop, by which fewer layers stay fp32, or a smaller --fit"
    if getattr(walk.settings, "max_drop", None) is None:
        remedy = "give a smaller --fit"
    told = f"{file.name} does not fit {Budget(**vars(allowed))}: it {excess}. For one that does, {remedy}"
    log.warning("warning  %s", told)
    return told


def _against_before(walk: Walk) -> str | None:
    """Compare the file that ships with that of the run which was compressed."""
    befores = [row for row in walk.rows if str(row["key"]).startswith("before-") and row["key"].endswith("-int8")]
    ours = find(walk.rows, "int8")
    if not befores or not ours:
        return None
    return against(Row.read(ours), Row.read(befores[-1]), Path(walk.extra["compressed_from"]).name, walk.road.task)


def _teachers(walk: Walk) -> list[dict[str, str]]:
    """Name, licence, and the place on the hub of those that were named by it (or by timm's NAME.TAG)."""
    named = [*listed(getattr(walk.settings, "teacher", None)), *[None] * len(walk.teachers)]
    return [
        {"name": teacher.name, "licence": _licence(teacher)} | source_of(spec)
        for teacher, spec in zip(walk.teachers, named, strict=False)
    ]


def _licence(teacher: Teacher) -> str:
    cfg = getattr(teacher.module, "pretrained_cfg", None) or {}
    return str(cfg.get("license") or "unknown")


def source_of(spec: Any) -> dict[str, str]:
    """Return ``{"source": "hf-hub:USER/NAME"}`` of what a user called a teacher; {} where that is none of the hub's."""
    if isinstance(spec, str) and spec.startswith("hf-hub:"):
        return {"source": spec}
    tagged = isinstance(spec, str) and spec in timm.list_models(pretrained=True)
    return {"source": f"hf-hub:timm/{spec}"} if tagged else {}
