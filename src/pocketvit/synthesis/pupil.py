"""The student that a generator is set against: small, made for this alone, and thrown away with it."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ..labels import FullLabels
from ..models import create_model
from ..objectives import kl, mld

_SIDE = 64  # pixels that it sees of larger pictures
_TEMPERATURE = 4.0  # of what it learns; the generator is judged at 1


class Pupil(nn.Module):
    """A residual network of eight layers with GroupNorm, which knows no modes and keeps no moments of its batches.

    Args:
        kind: Of the teacher's answers: "softmax", or else each class by itself.
        classes: C.
    """

    def __init__(self, kind: str, classes: int) -> None:
        super().__init__()
        self.network = create_model("cifar_resnet8", num_classes=classes, norm="group")
        self.objective = kl if kind == "softmax" else mld
        self.most = math.log(classes if kind == "softmax" else 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, C] of pictures float [B, 3, S, S] in 0..1."""
        small = F.interpolate(images, (_SIDE, _SIDE), mode="area") if images.shape[-1] > _SIDE else images
        return self.network((small - 0.5) / 0.25)

    def learned(self, images: Tensor, answers: Tensor) -> Tensor:
        """How far it is from the teacher's answers [B, C]: a scalar loss, to be made small."""
        return self.objective(self(images), FullLabels(answers), temperature=_TEMPERATURE).mean()

    def surprised(self, images: Tensor, answers: Tensor, targets: Tensor) -> Tensor:
        """How far it is from them where both see the wanted class: a scalar, for the generator to make large.

        Elsewhere what the two disagree on is noise. It is cut off where the student knows as little as one that has
        learned nothing: further there is nothing to be gained.

        Args:
            images: float [B, 3, S, S] in 0..1, with the generator's graph.
            answers: float [B, C], the teacher's, with its graph.
            targets: int64 [B], the wanted classes.
        """
        own = self(images)
        agreed = (answers.argmax(1) == targets) & (own.argmax(1) == targets)
        far = self.objective(own, FullLabels(answers), temperature=1.0).clamp_max(self.most)
        return (far * agreed).sum() / len(targets)
