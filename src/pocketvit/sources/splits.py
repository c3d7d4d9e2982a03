"""Holding images out: who goes into validation and test is decided by a keyed hash, class by class."""

from __future__ import annotations

import hashlib

import numpy as np


def hold_out(
    keys: list[str], groups: list[bytes], targets: np.ndarray, shares: dict[str, float], seed: int
) -> np.ndarray:
    """Choose which training images are held out.

    Within each class the groups of equal images stand in the order of a hash of (seed, key). The first ones are
    validation, the last ones test, so that an added or deleted image moves at most the one at each border. A class of
    at least three groups gives at least one to each; a smaller one gives none, for training comes first.

    Args:
        keys: [N] what a sample is known by on any machine.
        groups: [N] equal for images that are equal: they stay on one side.
        targets: int64 [N]; rows of -1 form a class of their own.
        shares: for "val" and "test", what share of the images is wanted, below 0.5; absent if none.

    Returns:
        [N] of "train", "val" and "test".
    """
    first: dict[bytes, int] = {}
    for row, group in enumerate(groups):
        if group not in first or keys[row] < keys[first[group]]:
            first[group] = row
    members: dict[int, list[tuple[bytes, bytes]]] = {}
    for group, row in first.items():
        rank = hashlib.blake2b(f"{seed}\0{keys[row]}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
        members.setdefault(int(targets[row]), []).append((rank, group))
    place: dict[bytes, str] = {}
    for ranked in members.values():
        order = [group for _, group in sorted(ranked)]
        for split, share in shares.items():
            count = min(max(round(len(order) * share), 1), (len(order) - 1) // 2)
            place.update(dict.fromkeys(order[:count] if split == "val" else order[len(order) - count :], split))
    return np.array([place.get(group, "train") for group in groups], "U5")
