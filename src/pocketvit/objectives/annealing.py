"""Annealing: what is asked of a student changes on the way."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def cosine(first: float, last: float, progress: float) -> float:
    """Go from ``first`` to ``last`` along half a cosine; ``progress`` is the share of the training that is done."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def cskd(student_BCN: Tensor, teacher_BCN: Tensor, teacher_BC: Tensor, progress: float, temperature: float) -> Tensor:
    """KL of every patch to the teacher's answer there: Zhao et al., Cumulative Spatial KD for ViTs, ICCV 2023.

    ``T^2 KL(softmax(z / T) || softmax(s / T))`` averaged over images and places, with
    ``z = a z_place + (1 - a) z_whole`` and ``a = 1 - progress``: a convolution's local answers help early
    and hold a transformer back late.

    Args:
        student_BCN: what the class head says of each place.
        teacher_BCN: what the teacher's head says of each place of its last map.
        teacher_BC: the teacher's logits of the whole image.
        progress: share of the training that is done, 0 to 1.
        temperature: T.
    """
    local = 1.0 - progress
    target = ((local * teacher_BCN + (1 - local) * teacher_BC[:, :, None]) / temperature).log_softmax(1)
    answer = (student_BCN / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(answer, target, reduction="none", log_target=True).sum(1).mean()
