"""From a config to a finished run folder. Every stretch reads what the one before wrote, so a run can be resumed."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import RunConfig
from ..errors import PocketError
from ..files import human_bytes
from ..reporting.card import write_card
from ..reporting.page import write_report
from ..reporting.saliency import heat_maps
from ..rundir import Run
from ..tasks.classification import evaluate, paired_difference
from ..teachers import Teacher
from .companions import against, train_alone
from .folds import CrossValidation, affordable, cross_validate, fold_datasets
from .measure import (
    Entry,
    answers,
    file_answers,
    measure_rows,
    not_run,
    point_source,
    reliability_report,
    teacher_entry,
    token_report,
    write_results,
)
from .stages import (
    Road,
    calibrate,
    check_served,
    describe,
    label_road,
    label_scores,
    open_road,
    probabilities_of,
    train_student,
    with_few_labels,
    write_student,
)
from .teach import ready_teachers, with_classes

log = logging.getLogger("pocketvit")


def walk(
    run: Run,
    config: RunConfig,
    specs: Sequence[Any],
    *,
    images: Any,
    given: Any = None,
    notes: Sequence[str] = (),
    no_images: bool = False,
    device: str | None = None,
) -> Run:
    """Walk the whole road into ``run``; go on where an earlier walk of the same run stopped.

    Args:
        images: What to open, or the opened dataset.
        given: What an opened dataset was opened from: folds divide it anew.
    """
    if run.finished:
        log.info("%s is finished already", run.folder)
        return run
    with run.logging():
        log.info("run      %s", run.folder)
        for note in notes:
            log.info("         %s", note)
        road = open_road(config, run.folder.parent / "shared", images=images, device=device)
        parts = fold_datasets(config, given if given is not None else images, road.dataset)
        start = time.monotonic()
        teachers = ready_teachers(road, config, specs)
        road = with_classes(road, teachers)
        teacher_entries = _judge(teachers, road)
        store = label_road(road, teachers, config)
        check_served(store, teachers, config)
        log.info("student  %s", describe(config))
        pupils = with_few_labels(road, config.few_labels) if config.few_labels else road
        student = train_student(pupils, config, run.folder, teachers=teachers, store=store, resume=True)
        alone = train_alone(pupils, config, run.folder / "alone")
        ceiling = None
        if config.few_labels:
            log.info("ceiling  the same student with all labels")
            ceiling = train_student(road, config, run.folder / "ceiling", resume=True)
        folds = CrossValidation()
        if parts and affordable(run.folder, config, time.monotonic() - start, road.processes):
            folds = cross_validate(run.folder, parts, config, specs, road.shared, road.processes)
        if road.processes.rank > 0:
            return run
        raw = answers(student, road.scored, road.view, road.input)
        calibrated = calibrate(student, road)
        write_student(student, road, run.folder)
        fp32, int8 = run.folder / "model.onnx", run.folder / "model-int8.onnx"
        side, judged = road.view.view_size, point_source(road)
        answered = answers(student, road.scored, road.view, road.input)
        entries = [
            *teacher_entries,
            Entry(
                "student", "student, distilled", "student", side, student, fp32, answered, calibrated,
                validation=answers(student, judged, road.view, road.input),
            ),
            Entry(
                "int8", "student, int8 file", "int8", side, None, int8, file_answers(int8, road.scored), calibrated,
                validation=file_answers(int8, judged),
            ),
        ]  # fmt: skip
        missing = []
        if alone is not None:
            calibrated_too = calibrate(alone, road)
            name = f"student, {config.few_labels} labels alone" if config.few_labels else "student without a teacher"
            own, checked = (answers(alone, source, road.view, road.input) for source in (road.scored, judged))
            entries.append(Entry("alone", name, "baseline", side, alone, None, own, calibrated_too, validation=checked))
        else:
            why = "needs labels, and there are none" if config.baseline else "left out with --no-baseline"
            missing.append(not_run("alone", "student without a teacher", "baseline", why))
        if ceiling is not None:
            calibrate(ceiling, road)
            own, checked = (answers(ceiling, source, road.view, road.input) for source in (road.scored, judged))
            entries.append(
                Entry("ceiling", "student, all labels", "ceiling", side, ceiling, None, own, validation=checked)
            )
        if config.against:
            try:
                entries.append(against(road, config, run.folder))
            except PocketError as error:  # a comparison that fails, for want of a network say, must not cost the run
                log.warning("warning  %s", error)
                missing.append(not_run("against", f"{config.against}, pretrained", "baseline", str(error)))
        else:
            note = "what one might ship otherwise; asked for with --against NAME"
            missing.append(not_run("against", "MobileNetV3-Small, pretrained", "baseline", note))
        log.info("measure  %d models, one thread, in turns", len(entries))
        rows, arrays = measure_rows(road.scored, entries, task=road.dataset.task, validation=judged)
        for row in rows:
            if row["key"] == "int8":  # the same network, stored with fewer bits
                row |= {key: _row(rows, "student").get(key) for key in ("parameters", "flops")}
        extra: dict[str, Any] = {"reliability": reliability_report(raw, answered if calibrated else None, road.scored)}
        if config.tokens >= 2 and road.scored is not None:
            extra["tokens"] = token_report(student, teacher_entries, road.scored, road.view, road.input)
            log.info("tokens   %s", extra["tokens"]["words"])
        write_results(
            run.folder,
            road,
            rows + folds.rows + missing,
            arrays,
            title=f"{road.dataset.name}: {config.student} distilled from {' and '.join(t.name for t in teachers)}",
            curves={"student": run.folder / "metrics.jsonl", "alone": run.folder / "alone" / "metrics.jsonl"},
            notes=[*notes, *folds.notes, *_notes(config, road, run.folder)],
            teachers=[{"name": teacher.name, "licence": _licence(teacher)} for teacher in teachers],
            differences=_differences(rows),
            extra=extra,
            pictures=heat_maps(student, road.scored, road.view, road.input, answered),
        )
        write_card(run.folder)
        write_report(run.folder, images=not no_images)
        for note in notes:
            log.info("fit      %s", note)
        log.info("report   %s", run.report)
    return run


def _judge(teachers: Sequence[Teacher], road: Road) -> list[Entry]:
    """Score the teachers before anything is learned from them; warn of one that hardly beats guessing."""
    entries = []
    judged = point_source(road)
    for number, teacher in enumerate(teachers, 1):
        given = probabilities_of(teacher, road.scored, road.view) if road.scored is not None else None
        checked = probabilities_of(teacher, judged, road.view) if judged is not None else None
        several = road.scored is not None and road.scored.multilabel and bool((road.scored.targets >= 0).any())
        if several and given is not None and road.scored is not None:
            figures = label_scores(torch.from_numpy(given), torch.from_numpy(np.asarray(road.scored.targets)))
            auc = f", AUC {figures['val_auc']:.3f}" if "val_auc" in figures else ""
            said = f"{100 * figures['val_accuracy']:.1f} % of the labels right{auc}"
            log.info("         %s: %s on %s", teacher.name, said, road.scored.split)
        one_label = road.scored is not None and road.scored.targets.ndim == 1
        if given is not None and road.scored is not None and one_label and (road.scored.targets >= 0).any():
            scores = evaluate(given, road.scored.targets)
            log.info("         %s: %.1f %% on %s", teacher.name, 100 * (scores.accuracy or 0), road.scored.split)
            chance = float(np.bincount(road.scored.targets[road.scored.targets >= 0]).max() / scores.n)
            if scores.interval is not None and scores.interval[0] <= chance:
                log.warning(
                    "warning  %s is no better than always answering the commonest class. Are its normalization "
                    "(--norm), its input size (--input) and the order of its classes right?",
                    teacher.name,
                )
        entries.append(teacher_entry(teacher, given, number, checked))
    return entries


def _row(rows: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    return next((row for row in rows if row["key"] == key), {})


def _differences(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What one seed allows to be said of distilled against alone."""
    distilled, alone = _row(rows, "student").get("accuracy"), _row(rows, "alone").get("accuracy")
    if distilled is None or alone is None:
        return []
    return [f"distilled minus alone: {paired_difference([distilled], [alone]).words()}"]


def _notes(config: RunConfig, road: Road, folder: Path) -> list[str]:
    uses = config.train.epochs / config.views
    views = f"{config.views} augmented views an image were labelled once and stored"
    views += f"; each was shown {uses:.3g} times" if uses > 1 else ", one an epoch"
    notes = [views]
    if config.approximate_tail:
        notes.append("logits that were not stored were approximated (--approximate-tail)")
    if config.fit:
        size = (folder / "model-int8.onnx").stat().st_size
        notes.append(f"chosen to fit {config.fit}: the int8 file has {size:,} bytes ({human_bytes(size)})")
    notes.append(f"seed {config.train.seed}; the last checkpoint counts, not the best on the test set")
    if config.views >= config.train.epochs:
        notes.append(
            "with as many views as epochs the first student costs what live teachers cost; the next are cheaper"
        )
    return notes


def _licence(teacher: Teacher) -> str:
    cfg = getattr(teacher.module, "pretrained_cfg", None) or {}
    return str(cfg.get("license") or "unknown")
