"""Predictions as the measures take them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import PocketError


def finite_rows(values: Any, what: str) -> np.ndarray:
    """Return float64 [n, C] of a numpy array or a torch tensor on any device; not finite is an error."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise PocketError(f"{what} must be finite numbers, one row per image and one column per class.")
    return array
