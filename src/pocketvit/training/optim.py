"""The optimizer and its parameter groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from ..config import TrainConfig
from ..models.inputs import config_of
from .muon import Muon

_VECTORS = 0.6  # AdamW's learning rate over Muon's: 3e-3 beside 5e-3


def build_optimizer(model: nn.Module, config: TrainConfig, beside: nn.Module | None = None) -> torch.optim.Optimizer:
    """Return the optimizer of the parameters that need gradients, of the model and of what learns ``beside`` it.

    Each group's ``initial_lr`` is the peak of its learning rate. Weight decay is left out for biases, norms and other
    vectors, positions and tokens (timm's rule, with the model's own ``no_weight_decay`` list).

    "muon" takes the linear layers and convolutions but for the first convolution and the heads; AdamW with
    (0.9, 0.99), at 0.6 of the learning rate, takes these and all vectors, positions and tokens.
    """
    own = getattr(model, "no_weight_decay", None)
    spared = {*(own() if callable(own) else ()), "*token*", "*pos_embed*"}
    groups: list[dict[str, Any]] = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=spared)
    if beside is not None:
        groups += param_groups_weight_decay(beside, config.weight_decay, no_weight_decay_list={"*token*"})
    rate = config.learning_rate
    if config.optimizer == "muon":
        parts = matrix_parts(model)
        for group in groups:
            group["params"] = [p for p in group["params"] if p not in parts]
            group["lr"] = _VECTORS * rate
        matrices = {"params": list(parts), "parts": list(parts.values()), "muon": True, "lr": rate}
        groups = [{**matrices, "weight_decay": config.weight_decay}, *groups]
    groups = [{**group, "initial_lr": group.get("lr", rate)} for group in groups if group["params"]]
    if config.optimizer == "muon":
        half = config.precision == "bf16" or any(p.is_cuda for p in parts)
        return Muon(groups, dtype=torch.bfloat16 if half else torch.float32)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def matrix_parts(model: nn.Module) -> dict[nn.Parameter, int]:
    """Return the weights that Muon takes, each with the number of matrices, one below the other, that it is made of.

    Queries, keys and values are three, grouped convolutions as many as groups. What has one row or column only (the
    filters of a depthwise convolution) is no matrix; shared weights are there once.
    """
    taken: dict[nn.Parameter, int] = {}
    left = {id(p) for module in _ends(model) for p in module.parameters()}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or not isinstance(weight, nn.Parameter):
            continue
        if id(weight) in left or not weight.requires_grad:
            continue
        parts = getattr(module, "groups", 1)
        if name.rpartition(".")[2] == "qkv" and weight.shape[0] % 3 == 0:
            parts = 3
        if weight.shape[0] // parts > 1 and weight[0].numel() > 1:
            taken[weight] = parts
    return taken


def _ends(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the first convolution (of every branch) and the heads, as timm names them, else the first and the last."""
    told = config_of(model)
    first, classifier = (told.get(key) or () for key in ("first_conv", "classifier"))
    for names in (first, classifier):
        for name in (names,) if isinstance(names, str) else names:
            if name in (known := dict(model.named_modules())):
                yield known[name]
    if not first:
        yield from [module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd)][:1]
    if not classifier:
        yield from [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
