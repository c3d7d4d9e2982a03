"""Self-distillation: the teacher is the average of the student's own weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..labels import FullLabels
from .logits import kl


def mean_teacher(heads: Sequence[Tensor], average: Sequence[Tensor], temperature: float, progress: float) -> Tensor:
    """``min(1, 5 progress) T^2 KL(average || student)`` of every head: Tarvainen & Valpola, NeurIPS 2017.

    Both see the same view; the weight ramps up over the first fifth of the training, while the average knows nothing.

    Args:
        heads: the student's logits, [B, C] a head.
        average: those of its weight average, detached.
        temperature: T.
        progress: share of the training that is done, 0 to 1.
    """
    losses = [
        kl(head, FullLabels(target.detach().float()), temperature=temperature).mean()
        for head, target in zip(heads, average, strict=True)
    ]
    return min(1.0, 5 * progress) * torch.stack(losses).mean()
