"""Losses between a student's logits and a teacher's: KL, hard, z-score, DKD, DIST.

Each takes logits [B, C], the teacher's `SoftLabels` of the same rows, and a temperature, and returns float32 [B], one
loss a sample: logits in half precision, as autocast leaves them, are compared in float32 too. Factors of T^2 keep the
size of the gradients independent of the temperature (Hinton et al. 2015).
Shape legend: B samples, C classes, k stored classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F

from ..errors import PocketError
from ..labels import FullLabels, SoftLabels, TopLabels

DKD_ALPHA = 1.0  # weights of the target and of the other classes; the paper's for CIFAR-100
DKD_BETA = 8.0
DIST_BETA = 1.0  # weights of the relations within a sample and within a class; the paper's for ImageNet
DIST_GAMMA = 1.0


Needs = Literal["full", "topk"]


class Function(Protocol):
    """From the student's logits [B, C] and a teacher's labels to a loss [B]."""

    def __call__(self, student_BC: torch.Tensor, teacher: SoftLabels, *, temperature: float) -> torch.Tensor: ...


@dataclass(frozen=True)
class Objective:
    """A distillation loss and what it needs of a teacher.

    Attributes:
        name: As in ``LossConfig.objective``.
        function: From logits [B, C] and `SoftLabels` to a loss [B].
        needs: "full" (all logits) or "topk", at any temperature.
        topk_at_one: Whether top-k labels serve it at temperature 1.
    """

    name: str
    function: Function
    needs: Needs
    topk_at_one: bool = False

    def needs_at(self, temperature: float) -> Needs:
        """What it needs at a temperature."""
        return "topk" if self.topk_at_one and temperature == 1 else self.needs


def kl(student_BC: torch.Tensor, teacher: SoftLabels, *, temperature: float) -> torch.Tensor:
    """``T^2 KL(softmax(t / T) || softmax(s / T))``: Hinton et al., Distilling the Knowledge in a Neural Network, 2015.

    Top-k labels serve T = 1: the classes that are not stored count as one class on both sides.
    """
    student_BC = student_BC.float()
    if isinstance(teacher, TopLabels) and temperature == 1:
        return _kl_rest_as_one(student_BC, teacher)
    return _kl(all_logits(teacher, f"KL at temperature {temperature:g}"), student_BC, temperature)


def hard(student_BC: torch.Tensor, teacher: SoftLabels, *, temperature: float) -> torch.Tensor:
    """Cross-entropy with the teacher's class: Touvron et al., DeiT, ICML 2021. The temperature plays no part."""
    return F.cross_entropy(student_BC.float(), teacher.top1, reduction="none")


def zscore(student_BC: torch.Tensor, teacher: SoftLabels, *, temperature: float) -> torch.Tensor:
    """KL between standardized logits: Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024.

    Both sides become ``z = (x - mean(x)) / std(x)`` over the classes (std with C - 1, as in the authors' code), then
    `kl` with the base temperature T follows. The student need not match the teacher's scale, only its shape.

    Raises:
        PocketError: Two classes, where a z-score keeps nothing but the sign; or labels without all logits.
    """
    if teacher.num_classes == 2:
        raise PocketError(
            "the objective zscore cannot learn from two classes: standardized, a pair of logits is always "
            "(+0.71, -0.71). Use --objective kl."
        )
    teacher_BC = all_logits(teacher, "the objective zscore")
    return _kl(_standardized(teacher_BC), _standardized(student_BC.float()), temperature)


def dkd(student_BC: torch.Tensor, teacher: SoftLabels, *, temperature: float) -> torch.Tensor:
    """``T^2 (alpha TCKD + beta NCKD)``: Zhao et al., Decoupled Knowledge Distillation, CVPR 2022.

    TCKD is the KL between (target, all others) as two classes, NCKD the KL among the others. The target is the
    teacher's class: it is the dominant one of mixed pixels as the teacher saw them, and needs no ground truth (the
    paper, without mixing, takes the ground-truth class). Alpha and beta are 1 and 8, the paper's for CIFAR-100; its
    warm-up, the first 20 of 240 epochs, is left out.
    """
    teacher_BC = all_logits(teacher, "the objective dkd") / temperature
    target_B1 = teacher.top1[:, None]
    student_BC = student_BC.float() / temperature
    # [B, 2]: log-probability of the target and of the others together
    pairs = [_target_and_rest(logits, target_B1) for logits in (teacher_BC, student_BC)]
    tckd_B = F.kl_div(pairs[1], pairs[0], reduction="none", log_target=True).sum(1)
    others = [_without(logits, target_B1).log_softmax(1) for logits in (teacher_BC, student_BC)]
    nckd_B = F.kl_div(others[1], others[0], reduction="none", log_target=True).sum(1)
    return temperature**2 * (DKD_ALPHA * tckd_B + DKD_BETA * nckd_B)


def dist(student_BC: torch.Tensor, teacher: SoftLabels, *, temperature: float) -> torch.Tensor:
    """``T^2 (beta inter + gamma intra)``: Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022.

    Both are 1 - Pearson correlation of probabilities: inter between the two rows of a sample, intra between the two
    columns of a class over the batch (averaged over classes; the same number is added to each sample, so that the mean
    over the batch is the paper's loss). Intra therefore depends on the batch, and on how ranks share it.
    """
    teacher_BC = (all_logits(teacher, "the objective dist") / temperature).softmax(1)
    student_BC = (student_BC.float() / temperature).softmax(1)
    inter_B = 1 - _pearson(student_BC, teacher_BC)
    intra = 1 - _pearson(student_BC.T, teacher_BC.T).mean()
    return temperature**2 * (DIST_BETA * inter_B + DIST_GAMMA * intra)


def _kl(teacher_BC: torch.Tensor, student_BC: torch.Tensor, temperature: float) -> torch.Tensor:
    target = (teacher_BC / temperature).log_softmax(1)
    prediction = (student_BC / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(prediction, target, reduction="none", log_target=True).sum(1)


def _kl_rest_as_one(student_BC: torch.Tensor, teacher: TopLabels) -> torch.Tensor:
    ids_Bk = teacher.ids
    target = torch.cat([teacher.values, teacher.lse_rest[:, None]], 1).log_softmax(1)
    stored = student_BC.gather(1, ids_Bk)
    others = student_BC.scatter(1, ids_Bk, -math.inf).logsumexp(1, keepdim=True)
    prediction = torch.cat([stored, others], 1).log_softmax(1)
    return F.kl_div(prediction, target, reduction="none", log_target=True).sum(1)


def _standardized(logits_BC: torch.Tensor) -> torch.Tensor:
    centred = logits_BC - logits_BC.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / (logits_BC.shape[1] - 1)
    # The constant changes nothing at usual scales and keeps the gradient finite for a head that starts at zero.
    return centred / (variance + 1e-6).sqrt()


def _without(logits_BC: torch.Tensor, target_B1: torch.Tensor) -> torch.Tensor:
    """Logits [B, C - 1] of the classes that are not the target."""
    batch, classes = logits_BC.shape
    columns = torch.arange(classes - 1, device=logits_BC.device).expand(batch, -1)
    return logits_BC.gather(1, columns + (columns >= target_B1))


def _target_and_rest(logits_BC: torch.Tensor, target_B1: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [B, 2] of the target and of all other classes together."""
    rest = _without(logits_BC, target_B1).logsumexp(1, keepdim=True)
    return torch.cat([logits_BC.gather(1, target_B1), rest], 1).log_softmax(1)


def _pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Correlation of the rows of two matrices."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1, eps=1e-8)


def all_logits(teacher: SoftLabels, what: str) -> torch.Tensor:
    """Return a teacher's logits float32 [B, C].

    Raises:
        PocketError: Only the largest are here; ``what`` (an objective) needs all.
    """
    if isinstance(teacher, FullLabels):
        return teacher.logits
    assert isinstance(teacher, TopLabels)
    raise PocketError(
        f"{what} needs the logits of all {teacher.num_classes} classes, but these labels hold the top {teacher.k}. "
        "Label again with --top-k 0, use an objective that the top k serves (hard, or kl at temperature 1), or accept "
        "an approximation with --approximate-tail."
    )
