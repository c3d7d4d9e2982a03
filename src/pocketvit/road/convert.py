"""A trained network's BatchNorm converted on the user's images, before it is fine-tuned on them."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import nn

from ..models.norms import Norm
from ..models.renorm import convert_norm
from ..sources.subset import Subset, balanced
from ..teachers import Teacher, align, load_teacher
from ..training.predict import plain_pixels, predict_logits
from ..training.step import Input
from ..views.resize import to_input
from .images import Road, known

log = logging.getLogger("pocketvit")

_PIXELS = 1 << 22  # of the images that it is calibrated on, which pass through the network at once
_SCORED = 2000  # images at most


def converted(teacher: Teacher, kind: Norm, road: Road) -> Teacher:
    """Return the teacher with another normalization, recalibrated on training images, and say what that cost.

    The cost is measured on validation images: in accuracy where the network knows their classes, else in how many it
    answers as it did with BatchNorm.
    """
    side: Input = (teacher.input_size, teacher.mean, teacher.std)
    count = min(256, max(16, _PIXELS // teacher.input_size**2))
    some = Subset(road.dataset.train, balanced(road.dataset.train, count))
    inputs = to_input(plain_pixels(some, road.view).to(road.device), *side)
    val = road.dataset.val
    if val is None or not len(val) or not teacher.num_outputs:
        model, report = convert_norm(teacher.module, kind, inputs)
        words = report.text()
    else:
        source = Subset(val, balanced(val, _SCORED))
        pixels, task = plain_pixels(source, road.view), road.task
        aligned = align(teacher, road.dataset.classes) if known(source) else None
        if aligned is not None and aligned.kind != task.kind:
            aligned = None
        columns = aligned.columns if aligned is not None else None

        def answer(module: nn.Module) -> torch.Tensor:
            logits = predict_logits(module, pixels, road.view, side)[0]
            return task.probabilities(logits if columns is None else logits[:, torch.from_numpy(columns)])

        before = answer(teacher.module).numpy()
        targets = torch.from_numpy(np.asarray(source.targets))

        def score(module: nn.Module) -> float:
            now = answer(module)
            return (
                task.agreement(now.numpy(), before) if aligned is None else task.validate(now, targets)["val_accuracy"]
            )

        model, report = convert_norm(teacher.module, kind, inputs, score=score)
        words = report.text("answers as before on validation" if aligned is None else "accuracy on validation")
    log.info("         %s", words)
    norm = (teacher.mean, teacher.std)
    result = load_teacher(
        model, input_size=teacher.input_size, norm=norm, classes=teacher.classes, device=str(road.device)
    )
    result.name, result.notes = teacher.name, (*teacher.notes, words)
    return result
