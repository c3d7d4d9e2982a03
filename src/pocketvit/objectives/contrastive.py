"""Contrastive distillation: a student's embedding is to tell the same image's teacher embedding from the others'."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CRD_WIDTH = 128  # of the embeddings, the paper's
CRD_TEMPERATURE = 0.07


def crd(student_BE: Tensor, teacher_BE: Tensor) -> Tensor:
    """Noise-contrastive loss: Tian et al., Contrastive Representation Distillation, ICLR 2020, without its memory bank.

    ``-mean_i [log h_ii + sum_j log(1 - h_ij)]`` over the other images j of the batch, with ``h = r / (r + B - 1)`` and
    ``r_ij = exp(s_i . t_j / 0.07)`` over its mean in the batch (eqs. 18 and 19). The B - 1 negatives are the batch's;
    the authors draw 16,384 from a bank of all images' embeddings, a state as large as the data set that every
    checkpoint would carry. Their two losses, of either side's bank, are one here: the same pairs.

    Args:
        student_BE: embeddings of length 1, [B, E].
        teacher_BE: likewise, of the same images.
    """
    others = len(student_BE) - 1
    ratio_BB = (student_BE @ teacher_BE.T / CRD_TEMPERATURE).exp()
    ratio_BB = ratio_BB / ratio_BB.mean().detach()
    right_B = -(ratio_BB.diagonal() / (ratio_BB.diagonal() + others)).log()
    wrong_BB = (1 + ratio_BB / max(others, 1)).log()  # - log(others / (ratio + others))
    return (right_B.sum() + (wrong_BB.sum() - wrong_BB.diagonal().sum())) / len(student_BE)


class Embedding(nn.Module):
    """A linear map to vectors of length 1: float [B, C] -> [B, E]."""

    def __init__(self, channels: int, wanted: int = CRD_WIDTH) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, wanted)

    def forward(self, features_BC: Tensor) -> Tensor:
        with torch.autocast(features_BC.device.type, enabled=False):
            return F.normalize(self.linear(features_BC.float()), dim=1)
