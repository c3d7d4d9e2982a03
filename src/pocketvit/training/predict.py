"""Running a network over a whole source, unaugmented."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from ..config import ViewConfig
from ..sources.base import Source
from ..views import Views, stream
from .precision import autocast
from .step import FromPixels, Input


def plain_pixels(source: Source, view_config: ViewConfig) -> torch.Tensor:
    """Return uint8 [N, 3, S, S]: every image as validation sees it. Worth keeping where it is evaluated every epoch."""
    chunks = list(_rendered(source, view_config, 256))
    return torch.cat(chunks) if chunks else torch.empty(0, 3, view_config.view_size, view_config.view_size).byte()


def predict_logits(
    model: nn.Module,
    source: Source | torch.Tensor,
    view_config: ViewConfig,
    input: Input,
    *,
    batch_size: int = 256,
    precision: str = "fp32",
) -> list[torch.Tensor]:
    """Return the logits of every head of ``model`` over ``source``.

    Args:
        model: On any device; its mode is restored afterwards.
        source: Images, or the uint8 pixels [N, 3, S, S] that `plain_pixels` made of them.
        view_config: Its geometry is used; nothing is augmented.
        input: Side, mean and standard deviation that the network is fed.
        batch_size: Images of a forward pass.
        precision: "fp32", "bf16" or "fp16".

    Returns:
        A float32 tensor [N, C] on the CPU for each head: the class head, then the distillation tokens'.
    """
    device = next(model.parameters()).device
    forward = FromPixels(model, input)
    training = model.training
    model.eval()
    heads: list[list[torch.Tensor]] = []
    batches = (
        source.split(batch_size) if isinstance(source, torch.Tensor) else _rendered(source, view_config, batch_size)
    )
    try:
        with torch.inference_mode(), autocast(precision, device):
            for pixels in batches:
                outputs = forward(pixels.to(device))
                heads = heads or [[] for _ in outputs]
                for kept, output in zip(heads, outputs, strict=True):
                    kept.append(output.float().cpu())
    finally:
        model.train(training)
    return [torch.cat(kept) for kept in heads]


def _rendered(source: Source, view_config: ViewConfig, batch_size: int) -> Iterator[torch.Tensor]:
    """Yield the views of ``source`` in batches, rendered ahead of the caller."""
    views = Views(source, view_config.plain())
    return (batch.pixels for batch in stream(views, np.arange(len(source)), 0, batch_size))
