"""What a walk down the road will cost, from a few seconds of measuring; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..config import RunConfig
from ..files import human_bytes, human_time
from ..labels import LabelPlan, plan_labels
from ..models import create_model, create_student
from ..rundir import Outcome
from ..sources import Dataset
from ..sources.pack import pack_bytes
from ..teachers import Teacher, align, load_teacher
from ..training.finetune import PATIENCE
from ..views import Views
from . import folds
from .stages import VIEW_SEED, describe
from .teach import LIGHT, LIGHT_SIDE, light_epochs, load_teachers


def plan_text(dataset: Dataset, config: RunConfig, specs: Sequence[Any], notes: Sequence[str]) -> Outcome:
    """Return the plan of `distill`: images, split, hours, bytes."""
    count, device = len(dataset.train), "cuda" if torch.cuda.is_available() else "cpu"
    views = Views(dataset.train, config.view, VIEW_SEED)
    shown = count * config.train.epochs
    lines, data = [*dataset.checks.lines(), *dataset.notes, *notes], {}
    if specs:
        loaded = load_teachers(config.teachers, specs, device)
        lines += [line for teacher in loaded for line in _told(teacher, dataset)]
        teacher_seconds = sum(_adapting(teacher, dataset, views, config) for teacher in loaded)
    else:
        loaded = [_light(name, dataset, config, device) for name in LIGHT]
        rates = [_step_rate(teacher.module, views, config, teacher.input_size) for teacher in loaded]
        teacher_seconds = sum(light_epochs(config.train.epochs) * count / rate for rate in rates)
        lines.append(f"no teacher named: {' and '.join(LIGHT)} are trained on your labels")
    labels = _labels(dataset, views, loaded, config)
    student = create_student(
        config.student,
        num_classes=max(2, len(dataset.classes)),
        image_size=config.view.view_size,
        patch_size=config.patch_size,
        tokens=config.tokens,
        stem=config.stem,
        attention=config.attention,
    )
    rate = _step_rate(student.to(device), views, config, config.view.view_size)
    students = 2 if config.baseline and dataset.classes else 1
    student_seconds = students * shown / rate
    sizes = sum(pack_bytes(source) for source in dataset.splits.values())
    weights = sum(value.nbytes for value in student.state_dict().values())
    total_bytes = sizes + labels.bytes + students * 7 * weights
    seconds = {"teachers": teacher_seconds, "labels": labels.seconds or 0.0, "student": student_seconds}
    if config.folds is not None and config.folds > 1:
        seconds["folds"] = config.folds * sum(seconds.values())
        total_bytes += config.folds * (sizes + labels.bytes + students * 4 * weights)
    total = sum(seconds.values())
    folds_told = f"folds {human_time(seconds['folds'])}, in all " if "folds" in seconds else ""
    if config.folds is None and 0 < folds.labelled_images(dataset) < folds.FEW:
        most = human_time(folds.PATIENCE)
        more = f"{folds.USUAL} students more if they take at most {most}"
        lines.append(f"folds    {more}, unless the images have their own split")
    lines += [
        f"views    {config.view.view_size} px, {config.views} stored an image",
        f"student  {describe(config)}",
        f"time     teachers {human_time(seconds['teachers'])}, labels {human_time(seconds['labels'])}, "
        f"{'student and baseline' if students == 2 else 'student'} {human_time(seconds['student'])}: "
        f"{folds_told}about {human_time(total)} ({total / 3600:.2g} hours) on this machine",
        f"disk     pack {human_bytes(sizes)}, labels {human_bytes(labels.bytes)}, "
        f"in all about {human_bytes(total_bytes)}",
        "nothing was written",
    ]
    data = {
        "counts": {split: len(source) for split, source in dataset.splits.items()},
        "broken": [list(item) for item in dataset.checks.broken],
        "duplicates": [list(item) for item in dataset.checks.duplicates],
        "seconds": seconds,
        "hours": total / 3600,
        "bytes": total_bytes,
    }
    return Outcome("\n".join(lines), data)


def plan_store(dataset: Dataset, config: RunConfig, specs: Sequence[Any], device: str) -> LabelPlan:
    """Return the plan of `label`."""
    loaded = load_teachers(config.teachers, specs, device)
    return _labels(dataset, Views(dataset.train, config.view, VIEW_SEED), loaded, config)


def _told(teacher: Teacher, dataset: Dataset) -> list[str]:
    """Say what the teacher is taken for, and whether it has to learn the classes first."""
    lines = [f"teacher  {teacher.name}: input {teacher.input_size} px", *teacher.notes]
    aligned = align(teacher, dataset.classes) if dataset.classes else teacher
    if aligned is None:
        has = f"{teacher.num_outputs} outputs" if teacher.num_outputs else "features and no classes"
        return [*lines, f"it has {has}, the images have {len(dataset.classes)} classes: it will learn them first"]
    lines += aligned.notes[len(teacher.notes) :]
    return lines


def _light(name: str, dataset: Dataset, config: RunConfig, device: str) -> Teacher:
    side = min(LIGHT_SIDE, config.view.view_size)
    model = create_model(name, num_classes=max(2, len(dataset.classes)), image_size=side)
    teacher = load_teacher(model, input_size=side, norm="imagenet", device=device)
    teacher.name = name
    return teacher


def _labels(dataset: Dataset, views: Views, teachers: Sequence[Teacher], config: RunConfig) -> LabelPlan:
    """The plan of labelling as it will be once the teachers answer in the dataset's classes."""
    classes = len(dataset.classes)
    answering = []
    for teacher in teachers:
        aligned = align(teacher, dataset.classes) if classes else teacher
        if aligned is None:  # any columns do: only their number and the network's speed count here
            teacher.raw_outputs = max(1, teacher.raw_outputs)
            aligned = teacher.with_columns(np.zeros(classes, np.int64))
        answering.append(aligned)
    return plan_labels(len(dataset.train), answering, views, config.views, k=config.top_k)


def _adapting(teacher: Teacher, dataset: Dataset, views: Views, config: RunConfig) -> float:
    """Seconds of a probe and, where it would be done, of fine-tuning."""
    if not dataset.classes or align(teacher, dataset.classes) is not None:
        return 0.0
    size = min(8, len(dataset.train))
    pixels = views.render(np.arange(size), 0).pixels
    teacher.raw_outputs = max(1, teacher.raw_outputs)
    teacher.logits(pixels)
    start = time.perf_counter()
    teacher.logits(pixels)
    forward = (time.perf_counter() - start) / size
    seen = [source for split, source in dataset.splits.items() if split != "test"]
    probe = forward * sum(map(len, seen))
    tuning = 3.5 * 5 * forward * len(dataset.train)
    wanted = config.fine_tune if config.fine_tune is not None else tuning <= PATIENCE
    return probe + (tuning if wanted else 0.0)


def _step_rate(model: torch.nn.Module, views: Views, config: RunConfig, side: int) -> float:
    """Images a second of a training step, from one timed step after a small one."""
    device = next(model.parameters()).device
    batch = min(config.train.batch_size, 32, len(views.order(0)))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model.train().requires_grad_(True)
    seconds = 0.0
    for _ in range(3):
        start = time.perf_counter()
        views.render(np.arange(batch), 0)
        loss = model(torch.zeros(batch, 3, side, side, device=device)).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return batch / seconds
