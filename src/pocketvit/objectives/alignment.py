"""Bringing a student's and a teacher's feature maps to the same grid, form and width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def shrink(map_BChw: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average a map down to a smaller grid.

    Averages only ever lose detail; interpolating upwards would ask for detail that is not there.
    """
    return map_BChw if tuple(map_BChw.shape[2:]) == grid else F.adaptive_avg_pool2d(map_BChw, grid)


def pooled(map_BChw: Tensor) -> Tensor:
    """Mean over places: [B, C]."""
    return map_BChw.mean((2, 3))


def tokens_of(map_BChw: Tensor) -> Tensor:
    """Places as tokens: [B, N, C]."""
    return map_BChw.flatten(2).transpose(1, 2)


def projection(channels: int, wanted: int) -> nn.Conv2d:
    """A learned 1x1 convolution from a student's width to a teacher's, started so that it keeps the variance."""
    layer = nn.Conv2d(channels, wanted, 1)
    nn.init.normal_(layer.weight, std=channels**-0.5)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
