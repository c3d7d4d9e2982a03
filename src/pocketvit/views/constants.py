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
    whole = all(isinstance(value, int) for value in values)  # (0, 1) and (0.0, 1.0) are one key, and two tensors
    return _kept(values, device, torch.int64 if whole else torch.float32)


@lru_cache(maxsize=256)
def _kept(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # it may serve where gradients flow
        return torch.tensor(values, device=device, dtype=dtype)
