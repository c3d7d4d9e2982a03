"""In which arithmetic teachers answer where there is much to ask: bfloat16 where it is faster and answers alike."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..config import RunConfig
from ..files import human_time
from ..labels import teacher_key
from ..teachers import Teacher
from ..teachers.given import GivenTeacher
from ..training.distributed import Processes, from_rank_zero
from .images import Road

_LONG = 60.0  # seconds of answers from which a faster arithmetic is looked for: below, it is not worth a digit
_GAIN = 1.5  # times as fast as float32 it must be: a busy machine may seem to be a little faster
_OFF = 0.05  # of the spread of its logits, by which they may be off on average
_TRIED, _FEWEST, _SECONDS = 32, 8, 4.0  # pictures that are tried: at most, at least, and in about so many seconds

log = logging.getLogger("pocketvit")


def in_fast_arithmetic(
    teachers: Sequence[Teacher], road: Road, config: RunConfig, *, tell: bool = True
) -> list[Teacher]:
    """Return the teachers as they are to label, each in float32 or in bfloat16.

    A store that some of their answers are in already decides, so that nothing is labelled twice; else a measurement
    does, where labelling would take a minute or more.

    Args:
        teachers: In float32, answering in the classes of the images.
        road: Images and views.
        config: How many views there are; ``train.precision`` "fp32" leaves all as they are.
        tell: Say what was chosen, which plans do not.
    """
    if config.train.precision == "fp32":
        return list(teachers)
    return [_to_label(teacher, road, config, tell) for teacher in teachers]


def _to_label(teacher: Teacher, road: Road, config: RunConfig, tell: bool) -> Teacher:
    folder = road.store_folder(config.labels)

    def begun(one: Teacher) -> bool:
        return next((folder / teacher_key(one)).glob("view-*/*.safetensors"), None) is not None

    def asked() -> tuple[Tensor, float]:
        pixels = road.views.render(np.arange(min(_TRIED, len(road.views.order(0)))), 0).pixels
        return pixels, config.labels.views * len(road.dataset.train)

    return faster(teacher, begun, asked, road.processes, "its labels are" if tell else "")


def faster(
    teacher: Teacher, begun: Callable[[Teacher], bool], asked: Callable[[], tuple[Tensor, float]], who: Processes,
    what: str,
) -> Teacher:  # fmt: skip
    """Return a teacher in the arithmetic in which it answers many pictures.

    Args:
        teacher: As it was loaded.
        begun: Whether some of the answers are there, by a teacher in either arithmetic: then it goes on in that.
        asked: Gives some of the pictures, uint8 [B, 3, S, S], and says how many there are.
        who: The first of these processes measures.
        what: Of the line that says so; without one nothing is said.
    """
    if teacher.kind == "boxes" or isinstance(teacher, GivenTeacher):
        return teacher
    if teacher.precision != "fp32" or teacher.device.type != "cpu":
        return teacher
    half = teacher.in_precision("bf16")
    for one in (teacher, half):
        if begun(one):
            return one
    chosen = _measured(teacher, half, *asked()) if who.rank == 0 else ""
    if chosen and what:
        log.info("         %s: %s in bf16, %s (--precision fp32: without)", teacher.name, what, chosen)
    return half if from_rank_zero(chosen, who.world) else teacher


def _measured(teacher: Teacher, half: Teacher, pixels: Tensor, images: float) -> str:
    """Say how much faster bfloat16 is and how far off; nothing where it is not worth it."""
    few = pixels[:2]
    _timed(teacher, few)  # to warm up
    exact = _timed(teacher, few)[1]
    whole = exact * images
    if whole < _LONG or _timed(half, few)[1] > 2 * exact:  # it is emulated here, many times slower
        return ""
    some = pixels[: max(_FEWEST, int(_SECONDS / exact))]
    (right, exact), (rough, quick) = _timed(teacher, some), _timed(half, some)
    spread = right.std(0, correction=0).mean().clamp_min(torch.finfo(torch.float32).tiny)
    off = float((rough - right).abs().mean() / spread)
    if exact < _GAIN * quick or off > _OFF:
        return ""
    took = human_time(whole)
    return f"{exact / quick:.1f} times as fast as in fp32 ({took}) and off by {off:.1%} of what its logits vary by"


def _timed(teacher: Teacher, pixels: Tensor) -> tuple[Tensor, float]:
    """Return answers, and the seconds that one took."""
    start = time.perf_counter()
    logits = teacher.logits(pixels)
    return logits, (time.perf_counter() - start) / len(pixels)
