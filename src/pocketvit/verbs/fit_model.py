"""What `train` does once its choices are made: fit, export, measure, report."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from ..config import RunConfig
from ..models import LADDER, create_model, create_student
from ..models.inputs import input_stats
from ..objectives import student_loss
from ..reporting.card import write_card
from ..reporting.page import write_report
from ..reporting.saliency import heat_maps
from ..rundir import Run
from ..teachers import load_teacher
from ..training.feed import Feed
from ..training.finetune import adapt
from ..training.loop import fit
from ..training.step import Input
from ..views import Views
from .converting import converted
from .measure import Entry, answers, file_answers, measure_rows, point_source, reliability_report, write_results
from .stages import Road, calibrate, open_road, renormed, validation, write_student

log = logging.getLogger("pocketvit")


def fit_model(run: Run, config: RunConfig, *, images: Any, no_images: bool = False, device: str | None = None) -> Run:
    """Train the config's network into ``run``; go on where an earlier call stopped."""
    if run.finished:
        log.info("%s is finished already", run.folder)
        return run
    with run.logging():
        log.info("run      %s", run.folder)
        road = open_road(config, run.folder.parent / "shared", images=images, device=device)
        model, side, method = _adapted(run, config, road) if config.teachers else _from_scratch(run, config, road)
        if road.processes.rank > 0:
            return run
        raw = answers(model, road.scored, road.view, side)
        calibrated = calibrate(model, road, side)
        write_student(model, road, run.folder, side)
        int8 = run.folder / "model-int8.onnx"
        judged = point_source(road)
        given, checked = (answers(model, source, road.view, side) for source in (road.scored, judged))
        entries = [
            Entry(
                "student", config.student, "student", side[0], model, run.folder / "model.onnx", given, calibrated,
                validation=checked,
            ),
            Entry(
                "int8", "int8 file", "int8", side[0], None, int8, file_answers(int8, road.scored), calibrated,
                validation=file_answers(int8, judged),
            ),
        ]  # fmt: skip
        rows, arrays = measure_rows(road.scored, entries, task=road.dataset.task, validation=judged)
        rows[1] |= {key: rows[0].get(key) for key in ("parameters", "flops")}
        write_results(
            run.folder,
            road,
            rows,
            arrays,
            title=f"{road.dataset.name}: {config.student}, {method}",
            curves={"student": run.folder / "metrics.jsonl"},
            notes=[f"seed {config.train.seed}; the last checkpoint counts, not the best on the test set"],
            extra={"reliability": reliability_report(raw, given if calibrated else None, road.scored)},
            pictures=heat_maps(model, road.scored, road.view, side, given),
        )
        write_card(run.folder)
        write_report(run.folder, images=not no_images)
    return run


def _from_scratch(run: Run, config: RunConfig, road: Road) -> tuple[nn.Module, Input, str]:
    classes, size = len(road.dataset.classes), road.view.view_size
    torch.manual_seed(config.train.seed)
    options: dict[str, Any] = {"num_classes": classes, "image_size": size}
    if config.student in LADDER:
        model = create_student(config.student, drop_path=config.train.drop_path, **options)
    else:  # not every network knows drop-path
        extra: dict[str, Any] = {"drop_path_rate": config.train.drop_path} if config.train.drop_path else {}
        model = create_model(config.student, **options, **extra)
    if config.replace_norm is not None:
        model = renormed(model, config.replace_norm)
    stats = input_stats(model)
    side: Input = (size, stats.mean, stats.std)
    feed = Feed(
        Views(road.dataset.train, road.view, seed=config.train.seed),
        config.train.batch_size,
        balance=config.train.balance == "sampling",
        seed=config.train.seed,
        rank=road.processes.rank,
        world=road.processes.world,
        device=road.device,
    )
    loss = student_loss(config.loss)
    check = validation(road, input=side)
    model.to(road.device)
    fit(model, feed, loss, config.train, run.folder, evaluate=check, input=side, resume=True)
    return model, side, "trained from scratch"


def _adapted(run: Run, config: RunConfig, road: Road) -> tuple[nn.Module, Input, str]:
    options = config.teachers[0]
    teacher = load_teacher(
        options.name, weights=options.weights, input_size=options.input_size, device=str(road.device)
    )
    if config.replace_norm is not None:
        teacher = converted(teacher, config.replace_norm, road)  # type: ignore[arg-type]
    result = adapt(
        teacher,
        road.dataset.train,
        road.dataset.val,
        road.view,
        run.folder / "adapted",
        fine_tune=config.fine_tune,
        train_config=config.train,
    )
    return result.module, (teacher.input_size, teacher.mean, teacher.std), result.method
