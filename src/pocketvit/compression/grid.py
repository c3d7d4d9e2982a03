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


def round_to_grid(weight: np.ndarray, bits: int = 8, *, even: bool = True) -> Grid:
    """Return the grid whose largest integer in each row is the row's largest magnitude.

    Args:
        weight: float32 [out, ...].
        bits: of an integer.
        even: whether rows keep their sums (`round_evenly`), as is good where inputs are multiplied by them; what is
            added, as positions are, is best rounded to the nearest.
    """
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    scale = np.maximum(largest / np.float32(weight_range(bits)[1]), np.finfo(np.float32).tiny).astype(np.float32)
    rows = scale.reshape(-1, *[1] * (weight.ndim - 1))
    exact = weight / rows
    integers = round_evenly(exact, bits) if even else np.clip(np.rint(exact), *weight_range(bits)).astype(np.int8)
    return Grid(bits, integers, scale, key_of(weight))


def round_evenly(exact: np.ndarray, bits: int) -> np.ndarray:
    """Return integers int8 [out, ...] next to numbers [out, ...], whose sum in each row is that of the numbers.

    Rounded one by one, the errors of a row add up to some steps. An input whose features have a mean in common (behind
    a ReLU, for example) is multiplied by that sum: a shift of the output that is the same in every place. So many
    numbers as it takes, those that lie most nearly in the middle of a step, are rounded the other way. This is SQuant's
    rounding for a row (Guo et al., ICLR 2022, arXiv 2202.07471), which needs no data.
    """
    low, high = weight_range(bits)
    rows = exact.reshape(len(exact), -1)
    integers = np.clip(np.rint(rows), low, high)
    left = rows - integers  # what rounding took away
    total = left.sum(1, keepdims=True)
    sign = np.sign(total)
    rank = np.argsort(np.argsort(-sign * left, axis=1, kind="stable"), axis=1, kind="stable")
    other = (rank < np.rint(np.abs(total))) & (sign * left > 0)
    return np.clip(integers + sign * other, low, high).astype(np.int8).reshape(exact.shape)


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
