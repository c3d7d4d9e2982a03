"""Logits of every head of a network, how they are combined, and how each is calibrated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from ..errors import PocketError


def forward_heads(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Return the logits of each head: ``(class head,)`` or ``(class head, one a distillation token...)``.

    Args:
        model: any classifier; students of `create_student` have 1 + tokens heads.
        x: [B, 3, H, W], normalized.

    Returns:
        Tensors [B, C], the same in training and evaluation mode but for dropout.
    """
    if hasattr(model, "forward_heads"):
        return model.forward_heads(x)  # type: ignore[operator]
    if isinstance(model, VisionTransformerDistilled):
        # timm returns both heads only while training in its distilled mode, and their mean otherwise.
        features = model.forward_features(x)
        return model.head(model.head_drop(features[:, 0])), model.head_dist(model.head_drop(features[:, 1]))
    out = model(x)
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def combined_logits(heads: Sequence[Tensor]) -> Tensor:
    """Return [B, C] logits whose softmax is the mean of the heads' probabilities (one head: its own logits)."""
    if len(heads) == 1:
        return heads[0]
    log_probabilities = torch.stack([head.float().log_softmax(-1) for head in heads])
    return log_probabilities.logsumexp(0) - math.log(len(heads))


def head_layers(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """Return the layers that make the heads of `forward_heads`, in the same order: linear ones, or 1 x 1 convolutions.

    Raises:
        PocketError: the model's heads cannot be told.
    """
    get_classifier = getattr(model, "get_classifier", None)
    layers: Any = get_classifier() if callable(get_classifier) else None
    if hasattr(layers, "head") and hasattr(layers, "head_dist"):  # RepViT's, which averages both
        layers = [layers.head, layers.head_dist]
    given = list(layers) if isinstance(layers, (tuple, list, nn.ModuleList)) else [layers]
    found = [_last_affine(layer) for layer in given]
    if not found or None in found:
        raise PocketError(
            f"{type(model).__name__} does not end in a linear layer that get_classifier() returns, so that its "
            "confidence cannot be calibrated."
        )
    return found  # type: ignore[return-value]


def _last_affine(layer: object) -> nn.Linear | nn.Conv2d | None:
    """Return the layer that makes the logits: itself, or the only one of its kind in it (timm's NormLinear)."""
    modules = list(layer.modules()) if isinstance(layer, nn.Module) else []
    kinds = [one for one in modules if isinstance(one, nn.Linear | nn.Conv2d)]
    pointwise = len(kinds) == 1 and (isinstance(kinds[0], nn.Linear) or kinds[0].kernel_size == (1, 1))
    return kinds[0] if pointwise and modules[-1] is kinds[0] else None


@torch.no_grad()
def scale_heads(model: nn.Module, temperatures: Sequence[float], shifts: Sequence[np.ndarray] | None = None) -> None:
    """Divide each head's logits by its fitted temperature, and shift them, by its weight and bias in place.

    Args:
        model: changed in place.
        temperatures: one a head, in the order of `forward_heads`, each > 0; a single one for heads that the network
            itself averages.
        shifts: of each head's logits, floating [C], after the division; heads without a bias take none.
    """
    layers = head_layers(model)
    each = hasattr(model, "forward_heads") or isinstance(model, VisionTransformerDistilled)
    if len(temperatures) == 1 and not each:  # it averages its heads itself
        temperatures = list(temperatures) * len(layers)
        shifts = None if shifts is None else list(shifts) * len(layers)
    if len(layers) != len(temperatures) or min(temperatures) <= 0:
        raise ValueError(f"{len(layers)} heads need as many positive temperatures, not {list(temperatures)}")
    for number, (layer, temperature) in enumerate(zip(layers, temperatures, strict=True)):
        layer.weight.div_(temperature)
        if layer.bias is not None:
            layer.bias.div_(temperature)
            if shifts is not None:
                layer.bias.add_(torch.as_tensor(shifts[number]).to(layer.bias))
