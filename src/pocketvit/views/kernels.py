"""The weights of separable resampling, as Pillow defines them.

An output pixel is a weighted sum of the input pixels under a kernel that is centred on it and, when shrinking, widened
by the scale (antialiasing). For 8-bit pictures the weights are rounded to 2^-14 with rows that sum to exactly 1: a
product with an 8-bit value then has at most 23 significant bits, so that fp32 sums are exact and the same in any order,
on any number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..config import Resample

WEIGHT_ONE = 1 << 14
_BLOCK = 16  # output pixels a band block; wider ones multiply more zeros, narrower ones make slower products
_DENSE = 64  # at most this many input pixels: one block


class Block(NamedTuple):
    """Weights of output pixels ``out_start`` onwards over input pixels ``in_start`` onwards: float32 [out, in]."""

    out_start: int
    in_start: int
    weights: np.ndarray


def _kernel_value(x: np.ndarray, kernel: Resample, lobes: int) -> np.ndarray:
    """Evaluate a kernel at distances ``x`` in (widened) pixels, float64."""
    distance = np.abs(x)
    if kernel == "lanczos":
        return np.where(distance < lobes, np.sinc(distance) * np.sinc(distance / lobes), 0.0)
    if kernel == "bicubic":  # Keys (1981) with a = -1/2
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return np.maximum(1 - distance, 0)


def nearest_index(size_in: int, size_out: int) -> np.ndarray:
    """Return the input pixel that each output pixel copies: int64 [size_out]."""
    return (2 * np.arange(size_out, dtype=np.int64) + 1) * size_in // (2 * size_out)


def weight_matrix(size_in: int, size_out: int, kernel: Resample, lobes: int, rounded: bool) -> np.ndarray:
    """Return the weights of one axis.

    Args:
        size_in: pixels before.
        size_out: pixels after.
        kernel: not "nearest", which has no weights.
        lobes: of the Lanczos kernel; others ignore it.
        rounded: to 2^-14, rows summing to exactly 1.

    Returns:
        float32 [size_out, size_in], mostly zero.
    """
    scale = size_in / size_out
    widening = max(scale, 1.0)
    support = {"lanczos": lobes, "bicubic": 2, "bilinear": 1}[kernel] * widening
    centres = (np.arange(size_out) + 0.5) * scale
    start = np.maximum(np.floor(centres - support + 0.5).astype(np.int64), 0)
    stop = np.minimum(np.floor(centres + support + 0.5).astype(np.int64), size_in)
    taps = start[:, None] + np.arange(int((stop - start).max()))
    inside = taps < stop[:, None]
    weights = np.where(inside, _kernel_value((taps + 0.5 - centres[:, None]) / widening, kernel, lobes), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    if rounded:  # the running sum is rounded, so that even thousands of tiny weights keep their local total
        total = np.floor(np.cumsum(weights, axis=1) * WEIGHT_ONE + 0.5)
        total[~inside] = WEIGHT_ONE
        weights = np.diff(total, axis=1, prepend=0) / WEIGHT_ONE
    matrix = np.zeros((size_out, size_in), np.float32)
    rows = np.broadcast_to(np.arange(size_out)[:, None], taps.shape)
    matrix[rows[inside], taps[inside]] = weights[inside]
    return matrix


def band_blocks(size_in: int, size_out: int, kernel: Resample, lobes: int, rounded: bool) -> tuple[Block, ...]:
    """Return the weights of one axis as blocks that leave out most of the zeros."""
    matrix = weight_matrix(size_in, size_out, kernel, lobes, rounded)
    if size_in <= _DENSE:
        return (Block(0, 0, matrix),)
    blocks = []
    for out_start in range(0, size_out, _BLOCK):
        rows = matrix[out_start : out_start + _BLOCK]
        used = np.flatnonzero(rows.any(axis=0))
        first, last = int(used[0]), int(used[-1]) + 1
        blocks.append(Block(out_start, first, np.ascontiguousarray(rows[:, first:last])))
    return tuple(blocks)
