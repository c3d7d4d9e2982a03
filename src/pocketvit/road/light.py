"""Teachers trained here on the user's labels: light ones where none is named, and any that a recipe asks for."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import torch
from torch import nn

from ..config import LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig, changed
from ..files import sha256_of
from ..models import LADDER
from ..models.norms import ENOUGH_IMAGES
from ..sources import Dataset
from ..sources.targets import labelled, targets_digest
from ..tasks import Task, task_named
from ..teachers import Teacher, load_teacher
from ..training.step import Input
from ..views import Views
from .decide import class_weights
from .images import Road
from .smaller import SMALLER_FIRST
from .train import train_network

log = logging.getLogger("pocketvit")

LIGHT = task_named("classification").light
MANY_LABELS = 5_000  # with that many, what light teachers add was not seen: recipes/light_teachers.md
TEACHER_SEED = 1  # of the views that teachers learn from: others than those that they label


def learned_from(dataset: Dataset) -> dict[str, Any]:
    """What a network that learns from a dataset depends on: the images and labels of both splits that it sees."""
    seen = {split: source for split, source in dataset.splits.items() if split != "test"}
    parts: dict[str, Any] = {"classes": list(dataset.classes), "task": dataset.task}
    for split, source in seen.items():
        parts[split] = [source.fingerprint, targets_digest(source.targets)]
    return parts


def told_of_light(road: Road) -> str:
    """Say what teaches where no teacher is named; and where that adds little, what else would do."""
    told = f"none named: {' and '.join(road.task.light)} trained on your labels"
    labels = int(labelled(road.dataset.train.targets).sum())
    if road.task.kind != "softmax" or labels < max(MANY_LABELS, len(road.dataset.train)):
        return told
    alone = f"from {labels:,} labels a student alone has learned as much, in less time, where we measured it"
    return f"{told} ({alone}: `pocketvit train`)"


def train_light_teachers(road: Road, config: RunConfig) -> list[Teacher]:
    """Train the task's light networks on the user's labels, to teach the student."""
    names = road.task.light
    log.info("teacher  %s", told_of_light(road))
    side = light_side(road.task, road.view.view_size)
    return [train_teacher(road, name, light_training(road, config), input_size=side) for name in names]


def light_side(task: Task, side: int) -> int:
    """Side in pixels of what light teachers see, of views of ``side``."""
    return side if task.light_side is None else min(task.light_side, side)


def light_training(road: Road, config: RunConfig) -> TrainConfig:
    """How light teachers are trained: for fewer epochs than a ViT, which learns more slowly."""
    if all(name in LADDER for name in road.task.light):  # no BatchNorm, and they learn as the student does
        return config.train
    # Their BatchNorm wants so many images per process, whatever suits the student; they are small enough for it.
    batch = max(config.train.batch_size, ENOUGH_IMAGES * road.processes.world)
    more = SMALLER_FIRST if config.train.progressive else 1.0  # which light ones do not see
    epochs = max(5, int(config.train.epochs / more) // 2)
    return dataclasses.replace(config.train, epochs=epochs, batch_size=batch, schedule="cosine", seconds=0.0)


def train_teacher(
    road: Road,
    name: str,
    train: TrainConfig,
    *,
    input_size: int,
    view: ViewConfig | None = None,
) -> Teacher:
    """Train (or reuse) a teacher from scratch on the dataset's labels; its weights are shared between runs.

    By Muon, whatever the config says: 800 photographs at 32 px, 15 epochs, a convolution network 66.7 % as `train`
    makes it, and 63.3 with AdamW, an involution network 56.7 and 50.0 (recipes/light_teachers.md).
    """
    every, road = road.dataset, road.labelled_alone()
    dataset = road.dataset
    train = dataclasses.replace(train, ema=0.0, drop_path=0.0, progressive=0.0)
    if name not in LADDER:
        train = dataclasses.replace(train, optimizer="muon", learning_rate=5e-3 * math.sqrt(train.batch_size / 64))
    views = Views(dataset.train, view or road.view, seed=TEACHER_SEED)
    _, mean, std = road.input
    side = (input_size, mean, std)
    loss = LossConfig(label_smoothing=road.task.smoothing, class_weights=class_weights(dataset.train, train.balance))
    config = RunConfig(network=NetworkConfig(name), view=views.config, loss=loss, train=train)
    # Of all images, too: those without labels say how often each of the others is seen.
    key = sha256_of([name, learned_from(every), views.fingerprint, changed(train), input_size])[:10]
    folder = road.shared / "teachers" / f"{name}-{key}"
    done = (folder / "checkpoints" / "last.safetensors").is_file()
    log.info("         %s at %d px%s", name, input_size, ", from an earlier run" if done else "")
    torch.manual_seed(train.seed)
    model = road.task.light_network(name, classes=len(dataset.classes), side=input_size)
    train_network(road, config, folder, model=model, input=side, views=views)
    return as_teacher(model, road, side, name, "trained on your labels")


def as_teacher(model: nn.Module, road: Road, input: Input, name: str, note: str) -> Teacher:
    """Return a network that learned a road's classes as a teacher of them.

    Args:
        model: On the road's device.
        road: Gives classes and task.
        input: What it is fed.
        name: Of the teacher.
        note: What else must be known of it.
    """
    side, mean, std = input
    teacher = load_teacher(
        model, input_size=side, norm=(mean, std), classes=road.dataset.classes, device=str(road.device)
    )
    teacher.name, teacher.notes = name, (note,)
    return teacher if teacher.kind == road.task.kind else teacher.with_kind(road.task.kind)
