"""Getting teachers ready: loaded, their classes matched to the user's, adapted where they do not match."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..config import LossConfig, RunConfig, TeacherConfig, TrainConfig, ViewConfig, changed
from ..errors import PocketError
from ..files import human_time, sha256_of
from ..models import create_model
from ..models.norms import ENOUGH_IMAGES
from ..objectives import student_loss
from ..teachers import Teacher, align, load_teacher
from ..training.distributed import lead_first
from ..training.feed import Feed
from ..training.finetune import adapt
from ..training.loop import fit
from ..views import Views
from .defaults import class_weights
from .stages import Road, validation

log = logging.getLogger("pocketvit")

# Light teachers of different inductive bias (convolution, involution), trained when none is named.
LIGHT = ("cifar_resnet20", "cifar_rednet11")
LIGHT_SIDE = 32  # they look at small pictures; 64 tokens of a student see about as much


def teacher_config(
    teacher: Any, arch: str | None, weights: str | None, input_size: int | None, norm: str | None
) -> tuple[tuple[TeacherConfig, ...], list[Any]]:
    """Return the teachers' configs and, in the same order, what `load_teacher` is given for each."""
    specs = [] if teacher is None else [teacher] if isinstance(teacher, str | nn.Module | Teacher) else list(teacher)
    configs = []
    for spec in specs:
        name = str(spec) if isinstance(spec, str) or hasattr(spec, "__fspath__") else f"({type(spec).__name__})"
        configs.append(TeacherConfig(name, arch, weights, input_size, norm))
    return tuple(configs), specs


def ready_teachers(road: Road, config: RunConfig, specs: Sequence[Any]) -> list[Teacher]:
    """Load the teachers, say what is assumed of them, and make each answer in the user's classes."""
    if not specs:
        return train_light_teachers(road, config)
    teachers: list[Teacher] = []
    for teacher in load_teachers(config.teachers, specs, str(road.device)):
        log.info("teacher  %s: input %d px", teacher.name, teacher.input_size)
        for note in teacher.notes:
            log.info("         %s", note)
        teachers.append(answering(teacher, road, config.fine_tune))
    return teachers


def load_teachers(configs: Sequence[TeacherConfig], specs: Sequence[Any], device: str) -> list[Teacher]:
    """Load every teacher as its config says; one that was loaded before is only moved to ``device``."""
    teachers: list[Teacher] = []
    for options, spec in zip(configs, specs, strict=True):
        if isinstance(spec, str) and spec.startswith("("):  # as `teacher_config` writes a module down
            raise PocketError(
                f"the teacher of this run was a {spec[1:-1]} given in Python. Give it again: "
                "pocketvit.distill(resume=FOLDER, teacher=MODULE)."
            )
        teacher = load_teacher(
            spec,
            arch=options.arch,
            weights=options.weights,
            input_size=options.input_size,
            norm=options.norm,
            device=device,
        ).to(device)
        if any(teacher.fingerprint == other.fingerprint for other in teachers):
            raise PocketError(f"the teacher {teacher.name} is named twice. Name different ones, or the same one once.")
        names = {other.name for other in teachers}
        if teacher.name in names:  # two networks of one class, or of one folder's name
            free = next(number for number in itertools.count(2) if f"{teacher.name}-{number}" not in names)
            teacher = teacher.with_columns(teacher.columns)  # a copy: the caller's keeps its name
            teacher.name += f"-{free}"
        teachers.append(teacher)
    return teachers


def answering(teacher: Teacher, road: Road, fine_tune: bool | None) -> Teacher:
    """Return a teacher whose outputs are the dataset's classes: mapped by name, taken in order, or adapted.

    Where images have several labels its outputs are read as independent ones, whatever it was trained with; a teacher
    of several labels has to learn single classes first.
    """
    classes = road.dataset.classes
    kind = "sigmoid" if road.dataset.train.multilabel else "softmax"
    aligned = align(teacher, classes) if classes else (teacher if teacher.num_outputs else None)
    if aligned is not None and kind == "sigmoid" and aligned.kind != kind:
        aligned = aligned.with_kind(kind, f"{teacher.name}: each output is read as a label of its own (a sigmoid).")
    if aligned is not None and aligned.kind != kind and not classes:
        raise PocketError(
            f"the teacher {teacher.name} answers several labels an image, and these images have none, which would say "
            "that there may be several. Give some with --labels FILE.csv, a column of 0 and 1 a label."
        )
    if aligned is not None and aligned.kind == kind:
        for note in aligned.notes[len(teacher.notes) :]:
            log.info("         %s", note)
        return aligned
    if not classes:
        raise PocketError(
            f"the teacher {teacher.name} has no classes for these images, and they have no labels. Sort them into one "
            "folder a class (or give --labels FILE.csv), or name a teacher that was trained on your classes."
        )
    known = f"{len(teacher.classes)} classes of its own" if teacher.classes else f"{teacher.num_outputs} outputs"
    if teacher.num_outputs == 0:
        known, fine_tune = "features and no classes", bool(fine_tune)
    what = "a linear probe learns them from its features" if fine_tune is False else "it is fine-tuned on your images"
    log.info("         it has %s, the images have %d: %s", known, len(classes), what)
    source = {**teacher.fingerprint, "data": road.dataset.train.fingerprint, "classes": list(classes)}
    if kind != "softmax":
        source["learns"] = kind
    key = sha256_of([source, road.view.view_size, fine_tune])[:10]
    folder = road.shared / "teachers" / f"{_plain(teacher.name)}-{key}"
    with lead_first(road.processes):
        adapted = adapt(teacher, road.dataset.train, road.dataset.val, road.view, folder, fine_tune=fine_tune)
    score = f", {adapted.score} on validation" if adapted.accuracy is not None else ""
    verb = "reused from an earlier run, saved" if adapted.reused else "done in"
    log.info("         %s%s (%s %s)", adapted.method, score, verb, human_time(adapted.seconds))
    result = load_teacher(
        adapted.module,
        input_size=teacher.input_size,
        norm=(teacher.mean, teacher.std),
        classes=classes,
        device=str(road.device),
    )
    result.name, result.notes = teacher.name, (f"{adapted.method} on your classes",)
    return result if result.kind == kind else result.with_kind(kind)


def with_classes(road: Road, teachers: list[Teacher]) -> Road:
    """Return the road with a teacher's classes where the images have no labels, and so no classes.

    They are those of the first teacher that knows their names, else numbers. Other teachers are matched to them, by
    name where they know theirs, in place.
    """
    if road.dataset.classes:
        return road
    numbers = tuple(f"class {number}" for number in range(teachers[0].num_outputs))
    classes = next((teacher.classes for teacher in teachers if teacher.classes), numbers)
    for number, teacher in enumerate(teachers):
        aligned = teacher if teacher.classes == classes else align(teacher, classes)
        if aligned is None:
            raise PocketError(
                f"the teachers {teachers[0].name} and {teacher.name} have different classes, and the images have no "
                "labels to learn common ones from. Name teachers of the same classes, or label the images."
            )
        if classes is numbers:
            note = f"{teacher.name}: its classes have no names; they are called {numbers[0]} to {numbers[-1]}."
            aligned.notes = (*teacher.notes, note)
        for note in aligned.notes[len(teacher.notes) :]:
            log.info("         %s", note)
        teachers[number] = aligned
    return dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, classes=classes))


def train_light_teachers(road: Road, config: RunConfig) -> list[Teacher]:
    """Train a small convolution and a small involution network on the user's labels, to teach the student."""
    dataset = road.dataset
    if not dataset.classes:
        raise PocketError(
            "the images have no labels and no teacher is named: there is nothing to learn from. Name one with "
            "--teacher, or sort the images into one folder a class."
        )
    log.info("teacher  none named: two light ones are trained on your labels (%s)", ", ".join(LIGHT))
    side = min(LIGHT_SIDE, road.view.view_size)
    # Their BatchNorm wants so many images a process, whatever suits the student; they are small enough for it.
    batch = max(config.train.batch_size, ENOUGH_IMAGES * road.processes.world)
    train = dataclasses.replace(config.train, epochs=light_epochs(config.train.epochs), batch_size=batch)
    return [train_teacher(road, name, train, input_size=side) for name in LIGHT]


def light_epochs(epochs: int) -> int:
    """Epochs of a light teacher for a student's: it learns faster than a ViT, and is to stay cheap."""
    return max(5, epochs // 2)


def train_teacher(
    road: Road, name: str, train: TrainConfig, *, input_size: int, view: ViewConfig | None = None
) -> Teacher:
    """Train (or reuse) a teacher from scratch on the dataset's labels; its weights are shared between runs."""
    dataset = road.dataset
    rate = 2e-3 * math.sqrt(train.batch_size / 128)
    optimization = dataclasses.replace(train, learning_rate=rate, ema=0.0, drop_path=0.0)
    views = Views(dataset.train, view or road.view, seed=1)
    labels = np.asarray(dataset.train.targets).tolist()
    key = sha256_of(
        [name, dataset.train.fingerprint, labels, views.fingerprint, changed(optimization), input_size]
    )[:10]  # fmt: skip
    folder = road.shared / "teachers" / f"{name}-{key}"
    torch.manual_seed(optimization.seed)  # of the initial weights
    model = create_model(name, num_classes=len(dataset.classes), image_size=input_size)
    model.to(road.device)
    _, mean, std = road.input
    side = (input_size, mean, std)
    feed = Feed(
        views,
        optimization.batch_size,
        balance=train.balance == "sampling",
        seed=optimization.seed,
        rank=road.processes.rank,
        world=road.processes.world,
        device=road.device,
    )
    several = dataset.train.multilabel
    # Of several labels most are absent on most images: smoothing would hide how rare each is.
    smoothing = 0.0 if several else 0.1
    loss = LossConfig(label_smoothing=smoothing, class_weights=class_weights(dataset.train, train.balance))
    last: dict[str, Any] = {}
    check = validation(road, input=side)
    done = (folder / "checkpoints" / "last.safetensors").is_file()
    log.info("         %s at %d px%s", name, input_size, ", from an earlier run" if done else "")
    fit(
        model, feed, student_loss(loss), optimization, folder,
        evaluate=check, input=side, resume=True, on_epoch=last.update,
    )  # fmt: skip
    teacher = load_teacher(
        model, input_size=input_size, norm=(mean, std), classes=dataset.classes, device=str(road.device)
    )
    teacher.name, teacher.notes = name, ("trained on your labels",)
    return teacher.with_kind("sigmoid") if several else teacher


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[-60:]
