"""What targets are, for one class per image, int64 [N], and for several labels, int64 [N, C] of 0 and 1; -1: unknown.

This is the one place that looks at their shape: everyone else asks here, or the task (`tasks`).
"""

from __future__ import annotations

from typing import Any

import numpy as np


def several(targets: np.ndarray) -> bool:
    """Whether an image has several labels, each there or not."""
    return targets.ndim == 2


def target_at(targets: np.ndarray, position: int) -> Any:
    """Return an image's class, or its labels [C]."""
    value = targets[position]
    return int(value) if np.ndim(value) == 0 else value


def labelled(targets: np.ndarray) -> np.ndarray:
    """Return bool [N]: whether an image's labels are known."""
    return np.asarray((targets >= 0).reshape(len(targets), -1).all(axis=1))


def having(targets: np.ndarray, label: int) -> np.ndarray:
    """Return bool [N]: whether an image is of this class, or has this label."""
    return targets[:, label] == 1 if several(targets) else targets == label


def present(targets: np.ndarray) -> set[int]:
    """Return the classes, or labels, that some image has."""
    if several(targets):
        return set(np.flatnonzero((targets == 1).any(0)).tolist())
    return set(np.unique(targets).tolist()) - {-1}


def counted_as(target: Any) -> list[int]:
    """Return what an image counts as where a split keeps classes even: its class, or each label and "any" (-1)."""
    return [int(target)] if np.ndim(target) == 0 else [-1, *np.flatnonzero(target == 1).tolist()]


def class_counts(targets: np.ndarray, classes: int) -> np.ndarray:
    """Return int64 [C]: images of each class, or with each label."""
    if several(targets):
        return (targets == 1).sum(0)
    return np.bincount(targets[targets >= 0], minlength=classes)


def strata(targets: np.ndarray) -> np.ndarray:
    """Return int64 [N], the class by which an image is drawn.

    Of several labels that is the rarest one present (Sechidis et al. 2011 begin with it, too: common labels follow by
    themselves), C where there is none, -1 where they are unknown.
    """
    if not several(targets):
        return targets
    count = targets.shape[1]
    rarity = np.argsort(np.argsort(class_counts(targets, count), kind="stable"))  # 0: the rarest
    rank = np.where(targets == 1, rarity, count).min(1, initial=count)
    by_rank = np.append(np.argsort(rarity), count)
    return np.where(labelled(targets), by_rank[rank], -1)
