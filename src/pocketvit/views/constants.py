"""Numbers that every batch needs, kept where it is computed."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers as a tensor [n] on a device, float32 or (of whole ones) int64; it is shared: do not change it.

    Made once: to upload it with every batch would wait, each time, for all that a CUDA device still has to do.
    """
    if torch.compiler.is_compiling():  # a compiled graph keeps it by itself
        return torch.tensor(values, device=device)
    return _kept(values, device)


@lru_cache(maxsize=256)
def _kept(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it may serve where gradients flow
        return torch.tensor(values, device=device)
