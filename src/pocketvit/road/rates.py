"""How fast a network trains here, from one timed step: for plans and time budgets."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ..config import TrainConfig
from ..models.innermost import channels_innermost, planes_for_group_norm
from ..objectives.terms import term_needs
from ..teachers import Teacher
from ..teachers.given import GivenTeacher
from ..training.optim import build_optimizer
from ..training.precision import pass_seconds
from ..training.progressive import relative_cost
from ..training.step import FromPixels
from ..views import Views
from .base import Walk
from .students import input_of, make_network

_IMAGES = 32  # of the measured step at most


def step_rate(model: nn.Module, views: Views, train: TrainConfig, side: int) -> float:
    """Images per second of a training step on the model's device, views rendered with it: the fastest of three.

    In the arithmetic and the layout that it would have, with its optimizer; the model stays as it is.
    """
    device = next(model.parameters()).device
    batch = min(train.batch_size, _IMAGES, len(views.order(0)))
    trial = channels_innermost(copy.deepcopy(model), side)
    if not any(weight.requires_grad for weight in trial.parameters()):  # a teacher's; a student keeps frozen layers so
        trial.requires_grad_(True)
    if device.type == "cpu":
        planes_for_group_norm(trial)
    names = ("fp32", "bf16") if train.precision == "auto" else (train.precision,)
    forward = FromPixels(trial, (side, (0.5,) * 3, (0.25,) * 3))
    seconds = pass_seconds(forward, batch, side, device, names)
    fastest = min(seconds, key=seconds.__getitem__)
    optimizer = build_optimizer(trial, dataclasses.replace(train, precision=fastest))  # type: ignore[arg-type]

    def update() -> None:
        for weight in trial.parameters():
            weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
        optimizer.step()

    positions = np.arange(batch)
    rendering = _fastest(lambda: views.render(positions, 0), device)
    return 1 / ((seconds[fastest] + rendering) / batch + _fastest(update, device) / train.batch_size)


def _fastest(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of three calls, after one to warm up: a busy machine disturbs it least."""
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def forward_seconds(teacher: Teacher, views: Views) -> float:
    """Seconds that a teacher takes for an image, from a batch of at most 8 after one to warm up.

    Stored answers take none, and could not answer a picture of this kind.
    """
    if isinstance(teacher, GivenTeacher):
        return 0.0
    size = min(8, len(views.order(0)))
    pixels = views.render(np.arange(size), 0).pixels
    outputs, teacher.raw_outputs = teacher.raw_outputs, max(1, teacher.raw_outputs)  # none yet, before it is adapted
    try:
        for _ in range(2):
            start = time.perf_counter()
            teacher.logits(pixels)
            seconds = time.perf_counter() - start
    finally:
        teacher.raw_outputs = outputs
    return seconds / size


def training_seconds(walk: Walk) -> tuple[float, int]:
    """Return the seconds that the student's training takes, and the bytes of its weights.

    Teachers whose features are matched, and not stored, answer every batch.
    """
    road, config = walk.road, walk.config
    model = make_network(config.network, road, taught=True)
    weights = sum(value.nbytes for value in model.state_dict().values())
    shown = len(road.dataset.train) * config.train.epochs
    side = input_of(config.network, model, road)[0]
    seconds = shown / step_rate(model, road.views, config.train, side)
    seconds *= relative_cost(model, side, config.train.progressive)
    if "features" in term_needs(config.loss) and not config.labels.store_features:
        seconds += shown * sum(forward_seconds(teacher, road.views) for teacher in walk.teachers)
    return seconds, weights
