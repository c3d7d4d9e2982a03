"""Questions about targets that have the same answer for one label an image, [N], and for several, [N, C] of 0 and 1."""

from __future__ import annotations

import numpy as np


def labelled(targets: np.ndarray) -> np.ndarray:
    """Return bool [N]: whether an image's labels are known."""
    return np.asarray((targets >= 0).reshape(len(targets), -1).all(axis=1))


def having(targets: np.ndarray, label: int) -> np.ndarray:
    """Return bool [N]: whether an image is of this class, or has this label."""
    return targets == label if targets.ndim == 1 else targets[:, label] == 1


def class_counts(targets: np.ndarray, classes: int) -> np.ndarray:
    """Return int64 [C]: images of each class, or with each label."""
    if targets.ndim == 1:
        return np.bincount(targets[targets >= 0], minlength=classes)
    return (targets == 1).sum(0)


def strata(targets: np.ndarray) -> np.ndarray:
    """Return int64 [N], the class by which an image is drawn.

    Of several labels that is the rarest one present (Sechidis et al. 2011 begin with it, too: common labels follow by
    themselves), C where there is none, -1 where they are unknown.
    """
    if targets.ndim == 1:
        return targets
    count = targets.shape[1]
    rarity = np.argsort(np.argsort(class_counts(targets, count), kind="stable"))  # 0: the rarest
    rank = np.where(targets == 1, rarity, count).min(1, initial=count)
    by_rank = np.append(np.argsort(rarity), count)
    return np.where(labelled(targets), by_rank[rank], -1)
