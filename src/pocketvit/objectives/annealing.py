"""Annealing: place by place in the beginning, the whole image in the end."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cskd(student_BCN: Tensor, teacher_BCN: Tensor, teacher_BC: Tensor, progress: float, temperature: float) -> Tensor:
    """KL of every patch to the teacher's answer there: Zhao et al., Cumulative Spatial KD for ViTs, ICCV 2023.

    ``T^2 KL(softmax(z / T) || softmax(s / T))`` averaged over images and places, with
    ``z = a z_place + (1 - a) z_whole`` and ``a = 1 - progress``: a convolution's local answers help early
    and hold a transformer back late.

    Args:
        student_BCN: the class head applied to each place.
        teacher_BCN: the teacher's classifier applied to each place of its last map.
        teacher_BC: the teacher's logits of the whole image.
        progress: share of the training that is done, 0 to 1.
        temperature: T.
    """
    local = 1.0 - progress
    target = ((local * teacher_BCN + (1 - local) * teacher_BC[:, :, None]) / temperature).log_softmax(1)
    answer = (student_BCN / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(answer, target, reduction="none", log_target=True).sum(1).mean()
