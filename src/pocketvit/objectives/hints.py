"""Features: a student's maps are to become a teacher's, through a learned projection.

Functions take maps [B, C, h, w] of equal shape (see `alignment.shrink`) and return a scalar, near 1 for a projection
that knows nothing, whatever the scale of the teacher's features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

VITKD_MASKED = 0.5  # share of the tokens that are hidden before the teacher's are generated (the paper's lambda)
_SMALL = 1e-6


def fitnets(student_BChw: Tensor, teacher_BChw: Tensor) -> Tensor:
    """``|p(s) - t|^2 / |t|^2``: Romero et al., FitNets, ICLR 2015; relative, so that its weight needs no tuning."""
    return (student_BChw - teacher_BChw).square().mean() / teacher_BChw.square().mean().clamp_min(_SMALL)


def locality(student_BChw: Tensor, teacher_BChw: Tensor) -> Tensor:
    """``|norm(p(s)) - norm(t)|^2 / 2``, channels of each place normalized: Li et al., Locality Guidance, ECCV 2022.

    A light convolution network's maps, of several stages, guide the patch tokens of as many blocks, place by place; by
    half, 1 is what vectors at right angles give.
    """
    return (F.normalize(student_BChw, dim=1) - F.normalize(teacher_BChw, dim=1)).square().sum(1).mean() / 2


def vkd(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """Smooth L1 to the standardized teacher: Miles et al., VkD, CVPR 2024. The projection before it is `Orthogonal`.

    ``t' = (t - mean over the batch) / std over the batch``, which keeps the comparison from living in a few channels.

    Args:
        student_BC: pooled and projected, [B, C].
        teacher_BC: pooled, [B, C].
    """
    return F.smooth_l1_loss(student_BC, _standardized(teacher_BC))


def _standardized(features_BC: Tensor) -> Tensor:
    centred = features_BC - features_BC.mean(0)
    return centred / centred.square().mean(0).add(_SMALL).sqrt()


class Orthogonal(nn.Module):
    """Projection [B, C] -> [B, D] whose rows (or columns, when D > C) are orthonormal: VkD, CVPR 2024.

    It can neither stretch nor fold the student's features, so that all of the matching is left to the student.
    """

    def __init__(self, channels: int, wanted: int) -> None:
        super().__init__()
        self.linear = parametrizations.orthogonal(nn.Linear(channels, wanted, bias=False))

    def forward(self, features_BC: Tensor) -> Tensor:
        # The matrix exponential has no half-precision kernel.
        with torch.autocast(features_BC.device.type, enabled=False):
            return self.linear(features_BC.float())


class Generation(nn.Module):
    """ViTKD's way for deep layers: hide half of the student's places, generate the teacher's from the rest.

    Yang et al., ViTKD: Feature-based Knowledge Distillation for Vision Transformers, CVPRW 2024: a learned mask token
    in place of the hidden ones, then two 3x3 convolutions; the loss counts hidden places only.

    Args:
        channels: of the student.
        wanted: of the teacher.
    """

    def __init__(self, channels: int, wanted: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, wanted, 1)
        self.mask_token = nn.Parameter(torch.zeros(1, wanted, 1, 1))
        nn.init.normal_(self.mask_token, std=0.02)
        self.generate = nn.Sequential(
            nn.Conv2d(wanted, wanted, 3, padding=1), nn.ReLU(), nn.Conv2d(wanted, wanted, 3, padding=1)
        )

    def forward(self, student_BChw: Tensor) -> tuple[Tensor, Tensor]:
        """Return (generated maps [B, wanted, h, w], mask [B, 1, h, w]: 1 where hidden)."""
        x = self.project(student_BChw)
        hidden = (torch.rand(x.shape[0], 1, *x.shape[2:], device=x.device) < VITKD_MASKED).to(x.dtype)
        return self.generate(x * (1 - hidden) + self.mask_token.to(x.dtype) * hidden), hidden


def vitkd_generation(generated_BChw: Tensor, hidden_B1hw: Tensor, teacher_BChw: Tensor) -> Tensor:
    """``|g - t|^2 / |t|^2`` over hidden places only."""
    error = ((generated_BChw - teacher_BChw).square() * hidden_B1hw).sum()
    return error / (teacher_BChw.square() * hidden_B1hw).sum().clamp_min(_SMALL)
