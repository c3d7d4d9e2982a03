"""Who goes where: validation and test by a keyed hash, class by class, or as folds that keep groups together."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from .targets import Targets, counted_as, image_level, labelled, present


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
        members.setdefault(int(targets[row]), []).append((_rank(seed, keys[row]), group))
    place: dict[bytes, str] = {}
    for ranked in members.values():
        order = [group for _, group in sorted(ranked)]
        for split, share in shares.items():
            count = min(max(round(len(order) * share), 1), (len(order) - 1) // 2)
            place.update(dict.fromkeys(order[:count] if split == "val" else order[len(order) - count :], split))
    return np.array([place.get(group, "train") for group in groups], "U5")


def united(looks: Sequence[Hashable], groups: Sequence[Hashable] | None) -> np.ndarray:
    """Return int64 [N], equal for images that stay on one side: equal ones, those of one group, and chains of these."""
    parent = list(range(len(looks)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for column in (looks, groups or ()):
        first: dict[Hashable, int] = {}
        for row, value in enumerate(column):
            a, b = root(row), root(first.setdefault(value, row))
            parent[max(a, b)] = min(a, b)
    return np.array([root(row) for row in range(len(looks))], np.int64)


def spread(keys: list[str], units: np.ndarray, targets: Targets, folds: int, seed: int) -> np.ndarray:
    """Deal images into folds, whole units at a time, so that each fold has its share of each class.

    The largest units go first, equal ones in the order of a hash of (seed, key), each into the fold that has fewest
    images of its classes (relative to all of the class; then fewest images, then the first). Written here and not
    taken from scikit-learn's StratifiedGroupKFold, whose result has changed between versions.

    Args:
        keys: [N] what a sample is known by on any machine.
        units: int64 [N], equal for images that stay together.
        targets: int64 [N], or several labels or boxes an image (then every image also counts as one of "any label").

    Returns:
        int64 [N], the fold of each image.
    """
    counts: dict[int, Counter[int]] = {}
    sizes: Counter[int] = Counter()
    ranks: dict[int, bytes] = {}
    known, targets = labelled(targets), image_level(targets)
    for row, unit in enumerate(units.tolist()):
        counts.setdefault(unit, Counter()).update(counted_as(targets[row]) if known[row] else [-2])
        sizes[unit] += 1
        rank = _rank(seed, keys[row])
        ranks[unit] = min(rank, ranks.get(unit, rank))
    totals: Counter[int] = Counter()
    for count in counts.values():
        totals.update(count)
    filled: list[Counter[int]] = [Counter() for _ in range(folds)]
    images = [0] * folds
    place = {}
    for unit in sorted(counts, key=lambda unit: (-sizes[unit], ranks[unit])):
        # fsum is rounded once, whatever the order: the same fold on every machine
        crowding = [
            math.fsum(have[label] * count / totals[label] ** 2 for label, count in counts[unit].items())
            for have in filled
        ]
        fold = min(range(folds), key=lambda fold: (crowding[fold], images[fold], fold))
        place[unit] = fold
        filled[fold].update(counts[unit])
        images[fold] += sizes[unit]
    return np.array([place[unit] for unit in units.tolist()], np.int64)


def hold_out_groups(
    keys: list[str], units: np.ndarray, targets: Targets, shares: dict[str, float], seed: int
) -> np.ndarray:
    """Choose which groups are held out: `spread` over as many folds as the share fits into 1, one fold a split.

    Folds that hold all training images of a class are passed over, for training comes first.

    Args:
        units: int64 [N], equal for images that stay together.
        shares: as in `hold_out`.

    Returns:
        [N] of "train", "val" and "test".
    """
    chosen = np.full(len(keys), "train", "U5")
    for split, share in shares.items():
        rows = np.flatnonzero(chosen == "train")
        apart = len(np.unique(units[rows]))
        if apart < 2:
            continue
        # a share of what is left, not of all; at most one fold a unit, or some would be empty
        folds = min(max(round(share and len(rows) / (share * len(keys))), 2), apart)
        fold = spread([keys[row] for row in rows], units[rows], targets[rows], folds, seed)
        lost = [len(present(targets[rows]) - present(targets[rows[fold != one]])) for one in range(folds)]
        gained = [len(present(targets[rows[fold == one]])) for one in range(folds)]
        if min(lost) == 0:
            best = min(range(folds), key=lambda one: (lost[one], -gained[one], one))
            chosen[rows[fold == best]] = split
    return chosen


def _rank(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogateescape"), digest_size=16).digest()
