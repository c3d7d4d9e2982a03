"""How fast a network trains here, from one timed step: for plans and time budgets."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from ..config import TrainConfig
from ..objectives.terms import term_needs
from ..teachers import Teacher
from ..teachers.given import GivenTeacher
from ..training.progressive import relative_cost
from ..views import Views
from .base import Walk
from .students import input_of, make_network

_IMAGES = 32  # of the measured step at most


def step_rate(model: nn.Module, views: Views, train: TrainConfig, side: int) -> float:
    """Images per second of a training step on the model's device, views rendered with it: the fastest of three."""
    device = next(model.parameters()).device
    batch = min(train.batch_size, _IMAGES, len(views.order(0)))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model.train()
    if not any(weight.requires_grad for weight in model.parameters()):  # a teacher's; a student keeps frozen layers so
        model.requires_grad_(True)
    taken = []
    for _ in range(4):  # the first one warms up
        start = time.perf_counter()
        views.render(np.arange(batch), 0)
        model(torch.zeros(batch, 3, side, side, device=device)).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return batch / min(taken[1:])  # a busy machine disturbs it least


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
