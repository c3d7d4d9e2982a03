"""What targets are: one class per image, int64 [N]; several labels, int64 [N, C] of 0 and 1; or `Boxes`. -1: unknown.

This is the one place that looks at their form: everyone else asks here, or the task (`tasks`).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from .boxes import Boxes

Targets = np.ndarray | Boxes


def several(targets: Targets) -> bool:
    """Whether an image can be of several classes."""
    return isinstance(targets, Boxes) or targets.ndim == 2


def image_level(targets: Targets) -> np.ndarray:
    """Return what an image shows, int64 [N] or [N, C]: of boxes, which classes are there."""
    return targets.presence if isinstance(targets, Boxes) else targets


def target_at(targets: Targets, position: int) -> Any:
    """Return an image's class, its labels [C], or its boxes."""
    value = targets[position]
    return int(value) if isinstance(value, np.integer) else value


def labelled(targets: Targets) -> np.ndarray:
    """Return bool [N]: whether an image's labels are known."""
    if isinstance(targets, Boxes):
        return targets.known
    return np.asarray((targets >= 0).reshape(len(targets), -1).all(axis=1))


def having(targets: Targets, label: int) -> np.ndarray:
    """Return bool [N]: whether an image is of this class, or has this label (or a box of it)."""
    if isinstance(targets, Boxes):
        return np.bincount(targets.images[targets.labels == label], minlength=len(targets)) > 0
    return targets[:, label] == 1 if several(targets) else targets == label


def present(targets: Targets) -> set[int]:
    """Return the classes, or labels, that some image has."""
    targets = image_level(targets)
    if several(targets):
        return set(np.flatnonzero((targets == 1).any(0)).tolist())
    return set(np.unique(targets).tolist()) - {-1}


def counted_as(target: Any) -> list[int]:
    """Return what an image counts as where a split keeps classes even: its class, or each label and "any" (-1)."""
    return [int(target)] if np.ndim(target) == 0 else [-1, *np.flatnonzero(target == 1).tolist()]


def class_counts(targets: Targets, classes: int) -> np.ndarray:
    """Return int64 [C]: images of each class, or with each label; of boxes, the boxes of each class."""
    if isinstance(targets, Boxes):
        return np.bincount(targets.labels, minlength=classes)
    if several(targets):
        return (targets == 1).sum(0)
    return np.bincount(targets[targets >= 0], minlength=classes)


def strata(targets: Targets) -> np.ndarray:
    """Return int64 [N], the class by which an image is drawn.

    Of several labels that is the rarest one present (Sechidis et al. 2011 begin with it, too: common labels follow by
    themselves), C where there is none, -1 where they are unknown.
    """
    known, targets = labelled(targets), image_level(targets)
    if not several(targets):
        return targets
    count = targets.shape[1]
    rarity = np.argsort(np.argsort(class_counts(targets, count), kind="stable"))  # 0: the rarest
    rank = np.where(targets == 1, rarity, count).min(1, initial=count)
    by_rank = np.append(np.argsort(rarity), count)
    return np.where(known, by_rank[rank], -1)


def alike(targets: Targets, one: int, other: int) -> bool:
    """Whether two images have the same labels."""
    return equal(targets[one], targets[other])


def one_hot(targets: np.ndarray, classes: int) -> np.ndarray:
    """Return classes [N] as labels int64 [N, ``classes``] of 0 and 1 (-1 where unknown); labels as they are."""
    if several(targets):
        return targets
    rows = np.zeros((len(targets), classes), np.int64)
    rows[np.arange(len(targets)), targets] = 1
    rows[targets < 0] = -1
    return rows


def equal(one: Targets, other: Targets) -> bool:
    """Whether two sets of targets are the same."""
    if isinstance(one, Boxes) or isinstance(other, Boxes):
        return isinstance(one, Boxes) and isinstance(other, Boxes) and one.same(other)
    return np.array_equal(one, other)


def forgotten(targets: Targets, keep: np.ndarray) -> Targets:
    """Return the same targets, unknown but for the positions ``keep``."""
    if isinstance(targets, Boxes):
        return targets.hidden(keep)
    hidden = np.full_like(targets, -1)
    hidden[keep] = targets[keep]
    return hidden


def to_columns(targets: Targets) -> dict[str, np.ndarray]:
    """Return targets as arrays by name, for a file."""
    if isinstance(targets, Boxes):
        return {f"boxes.{name}": column for name, column in targets.columns().items()}
    return {"targets": targets}


def targets_digest(targets: Targets) -> str:
    """Return the hex SHA-256 of targets."""
    total = hashlib.sha256()
    for column in to_columns(targets).values():
        total.update(np.ascontiguousarray(column).tobytes())
    return total.hexdigest()


def sizes_of(targets: Targets) -> np.ndarray | None:
    """Return int [N, 2], heights and widths of the images, where targets lie in them; else None."""
    return targets.sizes if isinstance(targets, Boxes) else None


def from_columns(columns: dict[str, np.ndarray]) -> Targets:
    """Return the targets among a file's arrays."""
    if "targets" in columns:
        return columns["targets"]
    return Boxes(**{name[6:]: column for name, column in columns.items() if name.startswith("boxes.")})
