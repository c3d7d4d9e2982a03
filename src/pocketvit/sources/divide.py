"""From checked images to everyone's split: what is given is kept, what is missing is held out, groups stay whole."""

from __future__ import annotations

import numpy as np

from ..errors import PocketError
from .base import SPLITS
from .checks import Checked
from .listing import Listing
from .splits import hold_out, hold_out_groups, united
from .targets import labelled, several, strata


def check_groups(checked: Checked, splits: np.ndarray) -> None:
    """Refuse given splits of which a group is on two sides."""
    if checked.listing.groups is None:
        return
    first: dict[str, int] = {}
    for row in np.flatnonzero(checked.good).tolist():
        cell = checked.listing.groups[row]
        other = first.setdefault(cell, row)
        if cell and splits[other] != splits[row]:
            names = checked.listing.names
            raise PocketError(
                f"{checked.listing.group} {cell!r} is in the {splits[other]} split ({names[other]}) and in the "
                f"{splits[row]} split ({names[row]}): correct the table's split column, or delete it; of tables for "
                "--val and --test, take the images out of one"
            )


def divide(checked: Checked, splits: np.ndarray, val_fraction: float, seed: int, notes: list[str]) -> np.ndarray:
    """Hold out the validation and test splits that are missing; return every row's split."""
    listing = checked.listing
    given = [split for split in SPLITS if (splits[checked.good] == split).any()]
    if given != ["train"]:
        notes.append(f"the {', '.join(given)} splits are those of {listing.whose or listing.name}")
    shares = {"val": val_fraction, "test": val_fraction and (listing.test_fraction or val_fraction)}
    wanted = {split: share for split, share in shares.items() if split not in given and share}
    hold_out_of(checked, splits, wanted, seed, notes)
    how = "" if not listing.classes else f", {how_drawn(listing)}"
    for split, share in wanted.items():
        count = int((splits == split).sum())
        how_much = f"{share:.0%} of train{how}, by a keyed hash, seed {seed}"
        notes.append(
            f"no {split} split in {listing.name}: {count:,} training images are held out for it ({how_much})"
            if count
            else f"no {split} split in {listing.name}, and too few {_units(listing)} to hold one out"
        )
    notes += group_notes(checked)
    return splits


def how_drawn(listing: Listing) -> str:
    """Say what a draw of images keeps even, and whole."""
    if listing.group:
        return f"each {listing.group} whole, the classes as even as that allows"
    return "each image by its rarest label" if several(listing.targets) else "class by class"


def _units(listing: Listing) -> str:
    return f"groups ({listing.group})" if listing.group else "images"


def hold_out_of(checked: Checked, splits: np.ndarray, shares: dict[str, float], seed: int, notes: list[str]) -> None:
    """Move images from train into the wanted splits, in place.

    Unlabelled images (of a dataset with classes) stay in training, except those of a group that is held out: they are
    on neither side.
    """
    listing, looks = checked.listing, checked.findings.looks
    useful = labelled(listing.targets) | (not listing.classes)
    rows = np.flatnonzero(checked.good & (splits == "train"))
    groups = checked.groups
    if groups is None:
        rows = rows[useful[rows]]
        drawn_by = strata(listing.targets)[rows]
        splits[rows] = hold_out(
            [listing.keys[row] for row in rows], [looks[row] for row in rows], drawn_by, shares, seed
        )
        held = {looks[row] for row in rows if splits[row] != "train"}
        others = np.flatnonzero(checked.good & (splits == "train") & ~useful)
        copies = [row for row in others if looks[row] in held]
        splits[copies] = ""
        if copies:
            notes.append(f"{len(copies):,} images without a label are copies of held-out ones: left out")
        return
    units = united([looks[row] for row in rows], groups[rows].tolist())
    touched = np.isin(units, units[useful[rows]])
    rows, units = rows[touched], units[touched]
    chosen = hold_out_groups([listing.keys[row] for row in rows], units, listing.targets[rows], shares, seed)
    leave_out(chosen, useful[rows], notes)
    splits[rows] = chosen


def leave_out(chosen: np.ndarray, useful: np.ndarray, notes: list[str]) -> None:
    """Take unlabelled images out of the held-out splits, in place."""
    lost = ~useful & (chosen != "train")
    chosen[lost] = ""
    if lost.any():
        notes.append(f"{lost.sum():,} images without a label go with held-out ones that they belong to: left out")


def group_notes(checked: Checked) -> list[str]:
    """Say how many groups there are, and that none is on two sides."""
    groups, cells = checked.groups, checked.listing.groups
    if groups is None or cells is None:
        return []
    count = len(np.unique(groups[checked.good]))
    notes = [f"{count:,} groups ({checked.listing.group}): none is on both sides of a split"]
    empty = sum(not cells[row] for row in np.flatnonzero(checked.good))
    if empty:
        notes.append(f"{empty:,} images have no {checked.listing.group}: each counts as a group of its own")
    return notes
