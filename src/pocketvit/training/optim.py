"""The optimizer, its parameter groups, and the learning rate of a step."""

from __future__ import annotations

import math

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from ..config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig, beside: nn.Module | None = None) -> torch.optim.Optimizer:
    """Return AdamW or SGD over the parameters that need gradients, of the model and of what learns ``beside`` it.

    Weight decay is left out for biases, norms and other vectors, positions and tokens (timm's rule, with the model's
    own ``no_weight_decay`` list).
    """
    own = getattr(model, "no_weight_decay", None)
    groups = param_groups_weight_decay(
        model, config.weight_decay, no_weight_decay_list={*(own() if callable(own) else ()), "*token*", "*pos_embed*"}
    )
    if beside is not None:
        groups += param_groups_weight_decay(beside, config.weight_decay, no_weight_decay_list={"*token*"})
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Linear warm-up to ``config.learning_rate``, then a cosine to zero at the end of the last epoch.

    Args:
        step: Optimizer steps taken before this one.
        steps_per_epoch: Optimizer steps of an epoch.
        config: Gives the peak, the epochs and the warm-up epochs.
    """
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
