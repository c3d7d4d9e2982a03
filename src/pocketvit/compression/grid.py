"""Integers and the scales that make numbers of them: what a quantized layer is, in training and in a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

ACTIVATION_LOW, ACTIVATION_HIGH = -128, 127  # signed 8 bits, which every accelerator takes


def weight_range(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest integer of a weight.

    From 5 bits on the range is symmetric (-127 to 127), as kernels want it; below, one level in sixteen or four is too
    much to give away.
    """
    half = 2 ** (bits - 1)
    return (1 - half if bits > 4 else -half), half - 1


@dataclass(frozen=True)
class Grid:
    """A layer in integers: weight = scale * integers, input = input_scale * (8-bit integers - input_zero)."""

    bits: int  # of a weight: 8, 7 (for x86 processors without VNNI, whose 16-bit sums overflow otherwise), 4 or 2
    integers: np.ndarray = field(repr=False)  # int8 [out, ...]
    scale: np.ndarray = field(repr=False)  # float32 [out]
    of: str  # `key_of` the weights that these integers stand for
    input_scale: float | None = None  # None: the input's scale is found while the file runs
    input_zero: int = 0

    def weight(self) -> np.ndarray:
        """Return the integers' values, float32 [out, ...]."""
        return self.integers.astype(np.float32) * self.scale.reshape(-1, *[1] * (self.integers.ndim - 1))


def round_to_grid(weight: np.ndarray, bits: int = 8) -> Grid:
    """Return the grid whose largest integer in each row is the row's largest magnitude.

    Args:
        weight: float32 [out, ...].
        bits: of an integer.
    """
    low, high = weight_range(bits)
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    scale = np.maximum(largest / np.float32(high), np.finfo(np.float32).tiny).astype(np.float32)
    rows = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return Grid(bits, np.clip(np.rint(weight / rows), low, high).astype(np.int8), scale, key_of(weight))


def key_of(weight: np.ndarray) -> str:
    """Return what tells a weight [out, ...] from others: exporters rename layers, but keep their numbers."""
    array = np.ascontiguousarray(weight, dtype=np.float32) + np.float32(0)  # -0 and 0 are one number
    return hashlib.blake2b(array.tobytes() + str(array.shape).encode(), digest_size=16).hexdigest()


def pack(integers: np.ndarray, bits: int) -> np.ndarray:
    """Return integers of 2 or 4 bits as bytes, uint8 [ceil(n * bits / 8)].

    They lie in planes, so that unpacking is a shift and a mask of all bytes at once: the first integers in the lowest
    bits, the next in those above.
    """
    per_byte = 8 // bits
    values = (integers.reshape(-1).astype(np.int16) - weight_range(bits)[0]).astype(np.uint8)
    planes = np.concatenate([values, np.zeros(-len(values) % per_byte, np.uint8)]).reshape(per_byte, -1)
    shifts = (bits * np.arange(per_byte, dtype=np.uint8))[:, None]
    return np.bitwise_or.reduce(planes << shifts, axis=0).astype(np.uint8)
