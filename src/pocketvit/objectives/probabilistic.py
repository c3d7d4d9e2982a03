"""Probabilistic knowledge transfer: which images a network would take for each other's neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PKT = 500.0  # about the usual weight: 30,000 times the mean over a table of 64 x 64 (the CRD authors' benchmark)
_SMALL = 1e-7


def pkt(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """``500 mean_i KL(p_i of the teacher || p_i of the student)``: Passalis & Tefas, Learning Deep Representations with
    Probabilistic Knowledge Transfer, ECCV 2018.

    ``p_i(j) = k_ij / sum of k_il over l other than i`` is the chance that image i picks j for its neighbour, with the
    cosine kernel ``k = (cos + 1) / 2``, which has no width to be tuned (eqs. 6, 7 and 9). Widths may differ.

    Args:
        student_BC: pooled, [B, C].
        teacher_BC: pooled, [B, D].
    """
    if len(student_BC) < 3:  # of two images each has one neighbour: nothing to choose
        return student_BC.new_zeros(()) * student_BC.sum()
    chosen = [_neighbours(features).clamp_min(_SMALL).log() for features in (student_BC, teacher_BC)]
    return PKT * F.kl_div(chosen[0], chosen[1], reduction="none", log_target=True).sum(1).mean()


def _neighbours(features_BC: Tensor) -> Tensor:
    """Probabilities [B, B - 1] of each other image."""
    unit = F.normalize(features_BC, dim=1)
    count = len(unit)
    kernel = ((unit @ unit.T + 1) / 2)[~torch.eye(count, dtype=torch.bool, device=unit.device)].view(count, count - 1)
    return kernel / kernel.sum(1, keepdim=True).clamp_min(_SMALL)
