"""What a bank will cost, before anything is written: hours, bytes on disk, bytes of memory."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..files import human_bytes, human_time
from ..teachers import Teacher
from .drawn import DrawnConfig
from .generator import GeneratorConfig
from .inversion import InversionConfig
from .procedural import Procedural

_PROBE = 32  # images of a measurement, fewer where they are large
_KEPT = 1 / 8  # of drawn pictures are kept where classes are unlike: what the scan is estimated with


@dataclass(frozen=True)
class BankPlan:
    """Of one bank.

    Attributes:
        images: asked for.
        seconds: on this machine, from a measurement of a few images.
        bytes: on disk, while it is made.
        memory: bytes, about, besides the networks.
        free: bytes on that disk.
    """

    images: int
    seconds: float
    bytes: int
    memory: int
    free: int

    @property
    def text(self) -> str:
        short = "" if self.free > self.bytes else f": MORE than the {human_bytes(self.free)} that are free"
        return (
            f"synthesize: {self.images:,} images, about {human_time(self.seconds)}; {human_bytes(self.bytes)} on disk"
            f"{short}, {human_bytes(self.memory)} of memory"
        )


def plan_bank(
    folder: Path | str, teacher: Teacher, config: DrawnConfig | InversionConfig | GeneratorConfig
) -> BankPlan:
    """Plan a bank after timing the teacher, and the drawing, on a few images; nothing is written."""
    side, outputs = teacher.input_size, teacher.num_outputs
    drawing, asking, optimizing = _measure(teacher)
    one = 3 * side * side
    if isinstance(config, DrawnConfig):
        count = config.images
        seen = min(config.candidates, round(count / _KEPT)) if config.chosen else count
        seconds = seen * (drawing + asking) + count * config.pushed * 4 * optimizing
        memory = seen * outputs * 6 + (64 << 20)
    elif isinstance(config, InversionConfig):
        count = config.images
        seconds = count * (config.steps * optimizing + drawing + asking)
        memory = 256 * one * 64
    else:
        count = config.memory
        made = config.rounds * config.batch * config.inner
        taught = config.rounds * config.student_steps * config.train.batch_size
        # A student's step costs about a teacher's forward pass three times; the generator about one.
        seconds = made * 2 * optimizing + taught * (asking + 2 * optimizing)
        memory = 2 * count * one + config.batch * one * 64
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return BankPlan(count, seconds, 2 * count * (one + 2 * outputs), memory, shutil.disk_usage(place).free)


def _measure(teacher: Teacher) -> tuple[float, float, float]:
    """Return seconds an image: drawing one, asking the teacher, and a gradient through it."""
    count = max(4, min(_PROBE, _PROBE * 64**2 // teacher.input_size**2))
    row = Procedural(0, teacher.input_size)
    start = time.perf_counter()
    images = row.take(np.arange(count))
    drawing = time.perf_counter() - start
    pixels = torch.from_numpy(images)
    x = (pixels.to(teacher.device).float() / 255).requires_grad_()
    teacher.logits(pixels)  # to warm up
    start = time.perf_counter()
    teacher.logits(pixels).cpu()
    asking = time.perf_counter() - start
    start = time.perf_counter()
    logits = teacher.differentiable(x)
    if logits.requires_grad:
        torch.autograd.grad(logits.sum(), x)[0].cpu()
    optimizing = time.perf_counter() - start
    return drawing / count, asking / count, optimizing / count
