"""Losses where an image has several labels, each there or not: one yes-or-no question per label.

Both losses are means over the labels, so that the ground truth and the teachers keep the shares that they are given,
and so that neither terms on features nor the clipping of gradients weigh otherwise for fourteen labels than for two.
(The authors of MLD sum over labels and give the sum a weight of 10: the direction is the same.)
Shape legend: B samples, C labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..labels import SoftLabels
from .batch import Batch
from .combine import shares
from .logits import all_logits


def mld(student_BC: torch.Tensor, teacher: SoftLabels, *, temperature: float) -> torch.Tensor:
    """``T^2 mean_c KL(sigmoid(t_c / T) || sigmoid(s_c / T))``, each KL over (there, not there); float32 [B].

    The one-versus-all logits loss MLD of Yang et al., Multi-Label Knowledge Distillation, ICCV 2023 (arXiv 2308.06453),
    whose T is 1. Its gradient by s_c is ``T (sigmoid(s_c / T) - sigmoid(t_c / T)) / C``, which tends to
    ``(s_c - t_c) / (4 C)`` for large T: the factor T^2 keeps its size, as in Hinton et al. 2015. Unlike a softmax, it
    depends on the logits' absolute values, and no label takes probability from another.

    Raises:
        PocketError: The labels hold only the largest logits.
    """
    logits_BC = all_logits(teacher, "the objective mld")
    target_BC, answer_BC = logits_BC / temperature, student_BC.float() / temperature
    there_BC = target_BC.sigmoid() * (F.logsigmoid(target_BC) - F.logsigmoid(answer_BC))
    absent_BC = (-target_BC).sigmoid() * (F.logsigmoid(-target_BC) - F.logsigmoid(-answer_BC))
    return temperature**2 * (there_BC + absent_BC).mean(1)


def binary_cross_entropy(logits_BC: torch.Tensor, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
    """Mean over labels of the cross-entropy with what is known of the mixed ground truth, [B]; 0 where nothing is.

    The target is ``ratio`` of the own label and the rest of the partner's, drawn towards 1/2 by ``smoothing``.
    """

    def expected(targets_BC: torch.Tensor) -> torch.Tensor:
        target_BC = (1 - smoothing) * targets_BC + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits_BC, target_BC, reduction="none").mean(1)

    own, partners = _shares(batch)
    return own * expected(batch.targets) + partners * expected(batch.partner_targets)


def known(batch: Batch) -> torch.Tensor:
    """The share of each view whose labels are known, [B]: 1 or 0, between them where one of two mixed images' are."""
    own, partners = _shares(batch)
    return own + partners


def _shares(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return shares(batch, (batch.targets >= 0).all(1), (batch.partner_targets >= 0).all(1))
