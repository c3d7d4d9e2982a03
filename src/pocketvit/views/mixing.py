"""Mixup and CutMix in pairs: two pictures share a ratio and a box and become each other's partner.

mixup: Zhang et al. 2018; CutMix: Yun et al. 2019. With both, each pair takes one of them with equal probability, as in
timm. Ratios are multiples of 1/256, drawn from Beta(alpha, alpha) through an exact table.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .philox import below
from .tables import RATIO_LEVELS, beta_thresholds

MIX_DRAWS = 4


class Mix(NamedTuple):
    """How pairs are mixed; row i belongs to pair i."""

    level: np.ndarray  # int64 [n]: weight of the own picture in 1/256 (mixup); RATIO_LEVELS where a box is cut
    box: np.ndarray  # int64 [n,4]: top, left, bottom, right of what comes from the partner; empty for mixup
    ratio: np.ndarray  # float32 [n]: weight of the own label


def mix_of(numbers: np.ndarray, size: int, mixup: float, cutmix: float, share: float = 1.0) -> Mix:
    """Say what pairs do.

    Args:
        numbers: uint32 [n, MIX_DRAWS], of the first sample of each pair.
        size: side of the views.
        mixup: alpha of mixup's ratio (0: never).
        cutmix: alpha of CutMix' ratio (0: never).
        share: of the pairs that are mixed at all; the others stay as they are.
    """
    if mixup > 0 and cutmix > 0:
        cut = numbers[:, 0] >> np.uint32(31) != 0
    else:
        cut = np.full(len(numbers), cutmix > 0)
    # The first number's highest bit says how, the others whether.
    whole = (numbers[:, 0] & np.uint32(2**31 - 1)) >= np.uint64(round(share * 2**31))
    level = np.zeros(len(numbers), np.int64)
    for chosen, alpha in ((cut, cutmix), (~cut, mixup)):
        if chosen.any():
            level[chosen] = np.searchsorted(beta_thresholds(alpha), numbers[chosen, 1].astype(np.uint64), side="right")
    level[whole] = RATIO_LEVELS
    # A box of area 1 - ratio about a uniform centre, cut off at the border; the ratio follows the area that is left.
    side = np.floor(np.sqrt((RATIO_LEVELS - level) * (size * size) / RATIO_LEVELS)).astype(np.int64)
    centre = below(numbers[:, 2:4], size)
    start = np.clip(centre - side[:, None] // 2, 0, size)
    stop = np.clip(centre - side[:, None] // 2 + side[:, None], 0, size)
    box = np.where((cut & ~whole)[:, None], np.concatenate((start, stop), axis=1), 0)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    ratio = np.where(cut, (size * size - area) / (size * size), level / RATIO_LEVELS).astype(np.float32)
    return Mix(np.where(cut, RATIO_LEVELS, level), box, ratio)


def mix_pictures(own: np.ndarray, partner: np.ndarray, mix: Mix) -> np.ndarray:
    """Mix every picture with its partner's.

    Args:
        own: uint8 [n,3,S,S].
        partner: uint8 [n,3,S,S].
        mix: rows of the n pictures' pairs.

    Returns:
        uint8 [n,3,S,S].
    """
    result = own.copy()
    rows = np.flatnonzero(mix.level < RATIO_LEVELS)
    if len(rows):
        weight = mix.level[rows].astype(np.uint16)[:, None, None, None]
        total = own[rows] * weight
        total += partner[rows] * (np.uint16(RATIO_LEVELS) - weight)
        total += np.uint16(RATIO_LEVELS // 2)  # at most 255 * 256 + 128: fits 16 bits
        total >>= np.uint16(8)
        result[rows] = total.astype(np.uint8)
    for row in np.flatnonzero(mix.box[:, 2] > mix.box[:, 0]):
        top, left, bottom, right = mix.box[row]
        result[row, :, top:bottom, left:right] = partner[row, :, top:bottom, left:right]
    return result
