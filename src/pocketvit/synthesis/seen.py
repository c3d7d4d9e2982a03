"""What a teacher sees in whole pictures, in one form whatever it answers: a number per class, and how likely that is.

A classifier's logits are that already. Of a detector it is the surest box of each class.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit, softmax
from torch import Tensor

from ..teachers import Teacher

# Probability from which a picture counts as one of its likeliest class. Classifiers always name one; others may see
# nothing at all, and detectors are seldom as sure as they are right.
LEAST = {"softmax": 0.0, "sigmoid": 0.5, "boxes": 0.3}
_TINY = 1e-4  # of a score, whose logit would be infinite


def seen(teacher: Teacher, pixels: Tensor) -> Tensor:
    """Return logits float32 [n, C] of uint8 pictures [n, 3, S, S]; of boxes, the logit of each class's best score."""
    return best_of(teacher.kind, teacher.logits(pixels))


def answers(teacher: Teacher, images: np.ndarray, batch: int) -> np.ndarray:
    """Return the same of uint8 pictures [n, 3, S, S] as it is stored, float16 [n, C], asked for ``batch`` at once."""
    parts = [seen(teacher, part).cpu() for part in torch.from_numpy(images).split(batch)]
    return torch.cat(parts).clamp(-6e4, 6e4).numpy().astype(np.float16)  # what float16 holds


def seen_through(teacher: Teacher, images: Tensor) -> Tensor:
    """Return the same of float pictures [n, 3, S, S] in 0..1, such that gradients flow back to their pixels."""
    return best_of(teacher.kind, teacher.differentiable(images))


def best_of(kind: str, out: Tensor) -> Tensor:
    """Return the same of what a teacher of a kind answered."""
    return torch.logit(out[..., 4:].amax(1).clamp(_TINY, 1 - _TINY)) if kind == "boxes" else out


def likely(kind: str, logits: np.ndarray) -> np.ndarray:
    """Return probabilities float32 [n, C] of `seen`: of one class of all, or of each class by itself."""
    logits = np.asarray(logits, np.float32)
    return softmax(logits, axis=1) if kind == "softmax" else expit(logits)


def surprise(kind: str, logits: Tensor, targets: Tensor, soften: float = 0.0) -> Tensor:
    """Return [n], minus the logarithm of the wanted class's probability.

    Args:
        kind: Of the teacher.
        logits: float [n, C] of `seen_through`.
        targets: int64 [n], the wanted classes.
        soften: Share of the wanted answer that is spread over all classes, or taken from the class itself.
    """
    if kind == "softmax":
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=soften)
    own = logits.gather(1, targets[:, None])[:, 0]
    return F.binary_cross_entropy_with_logits(own, torch.full_like(own, 1 - soften / 2), reduction="none")
