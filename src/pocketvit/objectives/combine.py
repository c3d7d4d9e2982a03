"""From losses per sample to what a student minimizes: teachers mixed, heads averaged, ground truth mixed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..config import LossConfig
from ..labels import FullLabels, SoftLabels, decode
from ..views.constants import constant
from .annealing import cosine
from .batch import Batch
from .gating import Gate, teacher_weights
from .logits import Needs, Objective
from .tokens import token_losses

Terms = dict[str, torch.Tensor]
Truth = Callable[[torch.Tensor, Batch, LossConfig], tuple[torch.Tensor, torch.Tensor]]
"""From a head's logits [B, C] and a batch to the loss [B] with the ground truth, and the share that is known of it."""


def cross_entropy(
    logits: torch.Tensor, batch: Batch, smoothing: float = 0.0, class_weights: Sequence[float] = ()
) -> torch.Tensor:
    """Cross-entropy [B] with what is known of the mixed ground truth; 0 where nothing is.

    The target is ``ratio`` of the own class and the rest of the partner's, each smoothed by ``smoothing`` towards even
    and weighted by its class.
    """
    log_probabilities = logits.log_softmax(1)
    weights = constant(tuple(class_weights), logits.device) if class_weights else None

    def expected(targets: torch.Tensor) -> torch.Tensor:
        classes = targets.clamp_min(0)
        found = log_probabilities.gather(1, classes[:, None])[:, 0]
        if smoothing > 0:
            found = (1 - smoothing) * found + smoothing * log_probabilities.mean(1)
        return found if weights is None else weights[classes] * found

    own, partners = shares(batch, batch.targets >= 0, batch.partner_targets >= 0)
    return -(own * expected(batch.targets) + partners * expected(batch.partner_targets))


def shares(batch: Batch, own: torch.Tensor, partners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which share of each view its own image makes up, and which its partner, [B] each; 0 where one is unknown.

    Args:
        batch: Gives the ratios.
        own, partners: bool [B], whether the ground truth of the image, and of its partner, is known.
    """
    return batch.ratio * own, (1 - batch.ratio) * partners


def known(batch: Batch) -> torch.Tensor:
    """The share of each view whose class is known, [B]: 1 or 0, between them where one of two mixed images' is."""
    own, partners = shares(batch, batch.targets >= 0, batch.partner_targets >= 0)
    return own + partners


def supervised_loss(
    heads: Sequence[torch.Tensor], batch: Batch, config: LossConfig, truth: Truth
) -> tuple[torch.Tensor, Terms]:
    """Return the mean over heads and images of the loss with the ground truth, and it as the only term."""
    loss = torch.stack([truth(head, batch, config)[0] for head in heads]).mean()
    return loss, {"cross_entropy": loss.detach()}


def distillation_loss(
    heads: Sequence[torch.Tensor],
    soft: Sequence[SoftLabels],
    batch: Batch,
    config: LossConfig,
    *,
    objective: Objective,
    truth: Truth,
    gate: Gate | None = None,
    approximate_tail: bool = False,
) -> tuple[torch.Tensor, Terms]:
    """Return what a distilled student minimizes, and its parts.

    The class head learns the weighted mix of all teachers, distillation token t learns teacher t (a single token of
    several teachers learns the mix too), and each head counts equally. The class head also learns the ground truth:

        loss = weight * distillation + (1 - weight) * cross_entropy

    What is known of no image, and all of it when ``weight`` is 1, is learned from the teachers alone.

    Args:
        heads: float32 [B, C] logits: the class head, then one per distillation token.
        soft: One record per teacher.
        batch: Gives classes and mixing ratios.
        config: Temperature and weights.
        objective: What the answers are compared with.
        truth: The task's loss with the ground truth.
        gate: What the validation split taught about the teachers, for weights "per_class" and "learned".
        approximate_tail: Stand in for logits that are not stored (see `labels.decode`) instead of refusing.

    Returns:
        The scalar, and its detached terms: "distillation", one "teacher_t" each, "cross_entropy" unless weight is 1.
    """
    weights_BT = teacher_weights(config.teacher_weights, soft, batch, gate)
    temperature = temperature_at(config, batch.progress)
    if approximate_tail and objective.needs_at(temperature) == "full":
        soft = [labels if labels.full else FullLabels(decode(labels, temperature)) for labels in soft]
    token_parts = token_losses(heads[1:], soft, weights_BT, objective.function, temperature)
    losses = [objective.function(heads[0], labels, temperature=temperature) for labels in soft]
    class_BT = torch.stack(losses, 1)
    parts = [(weights_BT * class_BT).sum(1), *token_parts]
    distillation_B = torch.stack(parts).mean(0)
    terms = {f"teacher_{number}": value for number, value in enumerate(class_BT.detach().mean(0))}
    terms["distillation"] = distillation_B.detach().mean()
    if config.weight == 1:
        return distillation_B.mean(), terms
    truth_B, known_B = truth(heads[0], batch, config)
    terms["cross_entropy"] = truth_B.detach().mean()
    share_B = 1 - (1 - config.weight) * known_B
    return (share_B * distillation_B + (1 - config.weight) * truth_B).mean(), terms


def temperature_at(config: LossConfig, progress: float) -> float:
    """Return the temperature after a share of the training: that of the config, or on the way to its last one.

    The stored logits are raw, so that one store serves every temperature on the way and each shows another side of the
    same teacher: the "dynamic knowledge reuse" of LPQLD (Xiao & He, Soft Label Pruning and Quantization for Large-Scale
    Dataset Distillation, TPAMI 2025), here with the cosine of its schedules and the student at the teacher's T.
    """
    if config.last_temperature is None:
        return config.temperature
    return cosine(config.temperature, config.last_temperature, progress)


def needs(objective: Objective, config: LossConfig) -> Needs:
    """Return what an objective needs at all temperatures of a training."""
    ends = {config.temperature, config.temperature if config.last_temperature is None else config.last_temperature}
    return "full" if "full" in map(objective.needs_at, ends) else "topk"


def student_loss(
    config: LossConfig,
    *,
    objective: Objective,
    truth: Truth,
    gate: Gate | None = None,
    approximate_tail: bool = False,
) -> Callable[[Sequence[torch.Tensor], Batch], tuple[torch.Tensor, Terms]]:
    """Return the loss that `training.fit` calls: distillation where a batch has soft labels, else supervised.

    A task makes it (`tasks.Task.loss`), which knows the objective and the truth.
    """

    def loss(heads: Sequence[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, Terms]:
        if not batch.soft:
            return supervised_loss(heads, batch, config, truth)
        return distillation_loss(
            heads, batch.soft, batch, config,
            objective=objective, truth=truth, gate=gate, approximate_tail=approximate_tail,
        )  # fmt: skip

    return loss
