"""In which arithmetic teachers answer where there is much to label: bfloat16 where it is faster and answers alike."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from ..config import RunConfig
from ..files import human_time
from ..labels import teacher_key
from ..teachers import Teacher
from ..teachers.given import GivenTeacher
from ..training.distributed import from_rank_zero
from .images import Road
from .rates import forward_seconds

_LONG = 60.0  # seconds of labelling from which a faster arithmetic is looked for: below, it is not worth a digit
_GAIN = 1.5  # times as fast as float32 it must be: a busy machine may seem to be a little faster
_OFF = 0.03  # of the spread of its logits, by which they may be off on average
_TRIED = 32  # views

log = logging.getLogger("pocketvit")


def in_fast_arithmetic(teachers: Sequence[Teacher], road: Road, config: RunConfig) -> list[Teacher]:
    """Return the teachers as they are to label, each in float32 or in bfloat16.

    A store that some of their answers are in already decides, so that nothing is labelled twice; else a measurement
    does, where labelling would take a minute or more.

    Args:
        teachers: In float32, answering in the classes of the images.
        road: Images and views.
        config: How many views there are; ``train.precision`` "fp32" leaves all as they are.
    """
    return [_faster(teacher, road, config) for teacher in teachers]


def _faster(teacher: Teacher, road: Road, config: RunConfig) -> Teacher:
    if config.train.precision == "fp32" or teacher.kind == "boxes" or isinstance(teacher, GivenTeacher):
        return teacher
    if teacher.precision != "fp32" or teacher.device.type != "cpu":
        return teacher
    half = teacher.in_precision("bf16")
    folder = road.store_folder(config.labels)
    for one in (teacher, half):
        if next((folder / teacher_key(one)).glob("view-*/*.safetensors"), None):
            return one
    chosen = ""
    if road.processes.rank == 0:
        chosen = _measured(teacher, half, road, config.labels.views)
        if chosen:
            log.info("         %s: its labels are in bf16, %s (--precision fp32: without)", teacher.name, chosen)
    return half if from_rank_zero(chosen, road.processes.world) else teacher


def _measured(teacher: Teacher, half: Teacher, road: Road, views: int) -> str:
    """Say how much faster bfloat16 is and how far off; nothing where it is not worth it."""
    exact = forward_seconds(teacher, road.views)
    whole = exact * views * len(road.dataset.train)
    if whole < _LONG:
        return ""
    times = exact / forward_seconds(half, road.views)
    if times < _GAIN:
        return ""
    pixels = road.views.render(np.arange(min(_TRIED, len(road.views.order(0)))), 0).pixels
    right = teacher.logits(pixels)
    spread = right.std(0, correction=0).mean()
    off = float((half.logits(pixels) - right).abs().mean() / spread.clamp_min(torch.finfo(torch.float32).tiny))
    if off > _OFF:
        return ""
    took = human_time(whole)
    return f"{times:.1f} times as fast as in fp32 ({took}) and off by {off:.1%} of what its logits vary by"
