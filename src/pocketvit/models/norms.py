"""Normalization as a choice: BatchNorm, or GroupNorm where batches are small or statistics must not leak."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

from torch import nn

from ..errors import PocketError

Norm = Literal["batch", "group"]


def norm_layer(kind: Norm = "batch") -> Callable[[int], nn.Module]:
    """Return what makes a normalization layer for a channel count.

    ``"group"`` follows Wu & He 2018 (arXiv 1803.08494): 32 groups. Narrow layers get fewer, so that a group never
    shrinks to one channel, which would be instance normalization.

    Raises:
        PocketError: ``kind`` is not known.
    """
    if kind == "batch":
        return nn.BatchNorm2d
    if kind == "group":
        return lambda channels: nn.GroupNorm(math.gcd(math.gcd(32, channels // 2), channels), channels)
    raise PocketError(f"unknown norm {kind!r}: choose one of {', '.join(get_args(Norm))}.")
