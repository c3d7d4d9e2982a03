"""From losses per sample to what a student minimizes: teachers weighed, heads averaged, ground truth mixed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ..config import LossConfig
from ..errors import PocketError
from ..labels.record import SoftLabels, decode

if TYPE_CHECKING:
    from ..training.feed import Batch

Terms = dict[str, torch.Tensor]


def teacher_weights(
    kind: str, soft: Sequence[SoftLabels], batch: Batch, per_class: torch.Tensor | None = None
) -> torch.Tensor:
    """Return how much each teacher counts for each sample: float32 [B, T], rows sum to 1.

    Args:
        kind: "fixed": equal; "confidence": by the probability of the teacher's own class, which needs no labels (a
            label-free form of CA-MKD, Zhang et al. 2022); "per_class": by the teacher's validation accuracy on the
            sample's class, both classes of a mixed image counting by their share, and on the class that the teacher
            sees where the label is unknown.
        soft: One record a teacher.
        batch: Gives classes and mixing ratios.
        per_class: float [T, C] validation accuracies, for "per_class".
    """
    if kind == "confidence":
        scores = torch.stack([_top_probability(labels) for labels in soft], 1)
    elif kind == "per_class":
        if per_class is None:
            raise PocketError(
                "weights per class need the teachers' validation accuracies, and there is no labelled validation "
                "split. Use --teacher-weights confidence or fixed."
            )
        columns = []
        for accuracy, labels in zip(per_class.to(batch.ratio.device), soft, strict=True):
            seen = labels.top1
            own = accuracy[torch.where(batch.targets >= 0, batch.targets, seen)]
            partner = accuracy[torch.where(batch.partner_targets >= 0, batch.partner_targets, seen)]
            columns.append(batch.ratio * own + (1 - batch.ratio) * partner)
        # Teachers that are all at zero for a class count equally there.
        scores = torch.stack(columns, 1).float() + 1e-6
    else:
        scores = torch.ones(len(batch), len(soft), device=batch.ratio.device)
    return scores / scores.sum(1, keepdim=True)


def _top_probability(labels: SoftLabels) -> torch.Tensor:
    """Probability float32 [B] of the likeliest class at temperature 1."""
    logits = labels.logits
    if logits is not None:
        return logits.softmax(1).amax(1)
    values, rest = labels.values, labels.lse_rest
    assert values is not None
    assert rest is not None
    return torch.exp(-torch.logaddexp(values.logsumexp(1), rest))


def cross_entropy(logits: torch.Tensor, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy [B] with the mixed ground truth; 0 where a class of the mixture is unknown.

    The target is ``ratio`` of the own class and the rest of the partner's, each smoothed by ``smoothing`` towards even.
    """
    log_probabilities = logits.log_softmax(1)
    own = log_probabilities.gather(1, batch.targets.clamp_min(0)[:, None])[:, 0]
    partner = log_probabilities.gather(1, batch.partner_targets.clamp_min(0)[:, None])[:, 0]
    expected = batch.ratio * own + (1 - batch.ratio) * partner
    if smoothing > 0:
        expected = (1 - smoothing) * expected + smoothing * log_probabilities.mean(1)
    return -expected * _known(batch)


def _known(batch: Batch) -> torch.Tensor:
    return ((batch.targets >= 0) & (batch.partner_targets >= 0)).to(batch.ratio.dtype)


def supervised_loss(heads: Sequence[torch.Tensor], batch: Batch, config: LossConfig) -> tuple[torch.Tensor, Terms]:
    """Return the mean over heads and images of the cross-entropy with ground truth, and it as the only term."""
    loss = torch.stack([cross_entropy(head, batch, config.label_smoothing) for head in heads]).mean()
    return loss, {"cross_entropy": loss.detach()}


def distillation_loss(
    heads: Sequence[torch.Tensor],
    soft: Sequence[SoftLabels],
    batch: Batch,
    config: LossConfig,
    *,
    per_class: torch.Tensor | None = None,
    approximate_tail: bool = False,
) -> tuple[torch.Tensor, Terms]:
    """Return what a distilled student minimizes, and its parts.

    The class head learns the weighted mix of all teachers, distillation token t learns teacher t (a single token of
    several teachers learns the mix too), and each head counts equally. The class head also learns the ground truth:

        loss = weight * distillation + (1 - weight) * cross_entropy

    Images of unknown class, and all of them when ``weight`` is 1, are learned from the teachers alone.

    Args:
        heads: float32 [B, C] logits: the class head, then one a distillation token.
        soft: One record a teacher.
        batch: Gives classes and mixing ratios.
        config: Objective, temperature, weights.
        per_class: float [T, C] validation accuracies of the teachers, for weights "per_class".
        approximate_tail: Stand in for logits that are not stored (see `labels.record.decode`) instead of refusing.

    Returns:
        The scalar, and its detached terms: "distillation", one "teacher_t" each, "cross_entropy" unless weight is 1.
    """
    from . import OBJECTIVES

    objective = OBJECTIVES[config.objective]
    if approximate_tail and objective.needs_at(config.temperature) == "full":
        soft = [labels if labels.full else SoftLabels(decode(labels, config.temperature)) for labels in soft]
    tokens = len(heads) - 1
    if tokens not in (0, 1, len(soft)):
        raise PocketError(
            f"a student with {tokens} distillation tokens cannot learn from {len(soft)} teachers: give it none, one, "
            "or one a teacher (--tokens)."
        )

    def against_each(head: torch.Tensor) -> torch.Tensor:
        losses = [objective.function(head, labels, temperature=config.temperature) for labels in soft]
        return torch.stack(losses, 1)

    weights_BT = teacher_weights(config.teacher_weights, soft, batch, per_class)
    class_BT = against_each(heads[0])
    parts = [(weights_BT * class_BT).sum(1)]
    if tokens == len(soft):
        for head, labels in zip(heads[1:], soft, strict=True):
            parts.append(objective.function(head, labels, temperature=config.temperature))
    elif tokens == 1:
        parts.append((weights_BT * against_each(heads[1])).sum(1))
    distillation_B = torch.stack(parts).mean(0)
    terms = {f"teacher_{number}": value for number, value in enumerate(class_BT.detach().mean(0))}
    terms["distillation"] = distillation_B.detach().mean()
    if config.weight == 1:
        return distillation_B.mean(), terms
    truth_B = cross_entropy(heads[0], batch, config.label_smoothing)
    terms["cross_entropy"] = truth_B.detach().mean()
    share_B = torch.where(_known(batch) > 0, config.weight, 1.0)
    return (share_B * distillation_B + (1 - config.weight) * truth_B).mean(), terms


def student_loss(
    config: LossConfig, *, per_class: torch.Tensor | None = None, approximate_tail: bool = False
) -> Callable[[Sequence[torch.Tensor], Batch], tuple[torch.Tensor, Terms]]:
    """Return the loss that `training.fit` calls: distillation where a batch has soft labels, else supervised."""

    def loss(heads: Sequence[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, Terms]:
        if batch.soft:
            return distillation_loss(
                heads, batch.soft, batch, config, per_class=per_class, approximate_tail=approximate_tail
            )
        return supervised_loss(heads, batch, config)

    return loss
