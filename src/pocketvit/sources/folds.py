"""Folds: every labelled image is tested once, by a network that has seen neither it nor others of its group.

For few images, where one held-out split would say little: the out-of-fold predictions of all folds, pooled, are as many
as there are images.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PocketError
from .assemble import build, check_classes
from .base import Dataset
from .checks import Checked, examine
from .divide import group_notes, hold_out_of, how_drawn, leave_out
from .splits import spread, united
from .targets import having, labelled
from .tiles import tile_dataset
from .window import window_for


def open_folds(
    images: Any,
    k: int = 5,
    *,
    labels: str | Path | None = None,
    group: str | None = None,
    unlabelled: Any = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    window: tuple[float, float] | None = None,
    tile: int | None = None,
    progress: bool = True,
    memory: Path | None = None,
) -> list[Dataset]:
    """Open images once, and return ``k`` datasets whose test splits hold each labelled image exactly once.

    Folds are dealt class by class, in the order of a hash of ``seed`` and the image's path; equal images, and those of
    one group, stay together. In each fold validation images are held out of those that are not tested. Every image is
    read once for all folds, and the intensity window is one.

    Args:
        k: number of folds, 2 or more.

    For the others, and what ``images`` may be, see `open_images`.

    Raises:
        PocketError: the images have a split of their own, no labels, fewer groups than folds, or a class that stands in
            one group only; and as `open_images`.
    """
    from . import find_all

    if isinstance(images, Dataset):
        raise PocketError("folds need the images themselves, not an opened dataset: give the folder or file")
    if k < 2:
        raise PocketError(f"{k} folds: give 2 or more (5 is usual)")
    listing = find_all(images, labels, group, unlabelled=unlabelled)
    given = sorted(set(listing.splits) - {"train"})
    if given:
        raise PocketError(
            f"{listing.name} has a {given[0]} split of its own, which folds would mix with the training images: leave "
            "--folds out, or give the images without their split"
        )
    if not listing.classes:
        raise PocketError(f"{listing.name} has no labels, and folds are there to test on: leave --folds out")
    checked = examine(listing, val_fraction=val_fraction, progress=progress, memory=memory)
    # One for all folds, from all images: each is trained on in all folds but one.
    everybody = np.ones(len(listing), bool)
    checked.window = window_for(listing, checked.findings, everybody, window, checked.notes)
    check_classes(checked, np.array(listing.splits, "U5"))
    tested = _deal(checked, k, seed)
    datasets = [_fold(checked, tested, fold, k, val_fraction, seed) for fold in range(k)]
    return [tile_dataset(dataset, tile) for dataset in datasets] if tile else datasets


def _deal(checked: Checked, k: int, seed: int) -> np.ndarray:
    """Return int64 [N]: the fold that each image is tested in, -1 where it never is for it is broken.

    Unlabelled images have the fold of the labelled ones that they belong to, -1 if there are none.
    """
    listing = checked.listing
    rows = np.flatnonzero(checked.good)
    groups = checked.groups
    units = united([checked.findings.looks[row] for row in rows], None if groups is None else groups[rows].tolist())
    useful = labelled(listing.targets[rows])
    touched = np.isin(units, units[useful])
    rows, units = rows[touched], units[touched]
    count = len(np.unique(units))
    what = f"groups ({listing.group})" if listing.group else "different images"
    if count < k:
        raise PocketError(f"{k} folds need as many {what} with labels, but {listing.name} has {count}: ask for fewer")
    for target, label in enumerate(listing.classes):
        here = np.unique(units[having(listing.targets[rows], target)])
        if len(here) == 1:
            one = listing.group or "image"
            raise PocketError(
                f"{label!r} of {listing.name} is in one {one} only, so that it cannot be both learnt and tested: add "
                f"another {one} of it, or leave it out"
            )
    tested = np.full(len(listing), -1, np.int64)
    tested[rows] = spread([listing.keys[row] for row in rows], units, listing.targets[rows], k, seed)
    return tested


def _fold(checked: Checked, tested: np.ndarray, fold: int, k: int, val_fraction: float, seed: int) -> Dataset:
    listing = checked.listing
    splits = np.where(tested == fold, "test", "train").astype("U5")
    notes: list[str] = []
    leave_out(splits, labelled(listing.targets), notes)
    if val_fraction:
        hold_out_of(checked, splits, {"val": val_fraction}, seed, notes)
    counts = {split: int((splits[checked.good] == split).sum()) for split in ("test", "val")}
    first = (
        f"fold {fold + 1} of {k}: {counts['test']:,} images are tested, each in one fold only, and {counts['val']:,} "
        f"of the others held out for validation ({how_drawn(listing)}, by a keyed hash, seed {seed})"
    )
    dataset = build(checked, splits, [*notes, *group_notes(checked)])
    return dataclasses.replace(dataset, notes=(first, *dataset.notes))
