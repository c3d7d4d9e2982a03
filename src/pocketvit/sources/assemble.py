"""From a listing to a dataset: check, hold out what is missing, fingerprint, say what was found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import PocketError
from .base import SPLITS, Checks, Dataset, Source, Window, fingerprint_of, sample_id
from .boxes import Boxes
from .checks import Checked, examine
from .divide import check_groups, divide
from .findings import Findings
from .listing import Listing
from .targets import alike, class_counts, labelled, several
from .window import window_for


def assemble(
    listing: Listing,
    *,
    val_fraction: float,
    seed: int,
    window: Window | None,
    progress: bool = True,
    memory: Path | None = None,
) -> Dataset:
    """Check a listing's images and return its dataset; for the options see `open_images`.

    Raises:
        PocketError: no readable image, a class that is empty or that training lacks, float images without a window.
    """
    checked = examine(listing, val_fraction=val_fraction, progress=progress, memory=memory)
    splits = np.array(listing.splits, "U5")
    check_classes(checked, splits)
    check_groups(checked, splits)
    notes: list[str] = []
    splits = divide(checked, splits, val_fraction, seed, notes)
    checked.window = window_for(listing, checked.findings, splits == "train", window, notes)
    return build(checked, splits, notes)


def build(checked: Checked, splits: np.ndarray, notes: list[str]) -> Dataset:
    """Return the dataset whose images stand in ``splits`` [N]: "train", "val", "test", or "" where left out."""
    listing, findings, good = checked.listing, checked.findings, checked.good
    notes = [*checked.notes, *notes]
    alpha = int((np.isin(findings.shapes[:, 2], (2, 4)) & good).sum())
    if alpha:
        notes.append(f"transparency in {alpha:,} images is laid over white")
    notes += _contradictions(listing, findings, good)
    notes += _absent(listing, splits, good)
    checks = _checks(listing, findings, splits, good, checked.broken)
    notes += _copies(listing, findings, np.flatnonzero(good & (splits != "")), splits)
    if checks.duplicates:
        one, other = checks.duplicates[0]
        notes.append(
            f"{len(checks.duplicates):,} images stand in two splits ({other} = {one} first): the score will be too "
            "good by that much"
        )
    groups = checked.groups
    sources = {split: _source(checked, groups, np.flatnonzero(good & (splits == split)), split) for split in SPLITS}
    if sources["train"] is None:
        raise PocketError(f"{listing.name} has no training images: put them into a train folder")
    return Dataset(
        listing.name,
        listing.classes,
        sources["train"],
        sources["val"],
        sources["test"],
        tuple(notes),
        checks,
        listing.task,
        listing.modality,
        listing.group,
        checked.group_names,
        listing.synthetic,
        listing.numbers,
    )


def check_classes(checked: Checked, splits: np.ndarray) -> None:
    """Refuse a class whose images are all broken, or that training lacks."""
    listing, findings, good = checked.listing, checked.findings, checked.good
    if several(listing.targets):
        return  # a label that nobody has is said by `_absent`
    for split in SPLITS:
        here = splits == split
        lost = set(listing.targets[here].tolist()) - set(listing.targets[here & good].tolist()) - {-1}
        for target in sorted(lost):
            rows = np.flatnonzero(here & (listing.targets == target))
            raise PocketError(
                f"class {listing.classes[target]!r} of {listing.name} has no {split} image that can be read, of "
                f"{len(rows)} ({listing.names[rows[0]]} {findings.why[rows[0]]}). Replace them or delete the class"
            )
    known = set(listing.targets[(splits == "train") & good].tolist())
    for split in ("val", "test"):
        for target in sorted(set(listing.targets[(splits == split) & good].tolist()) - known - {-1}):
            raise PocketError(
                f"class {listing.classes[target]!r} is in the {split} split of {listing.name} but has no training "
                "images. Add some to train, or delete it there"
            )


def _absent(listing: Listing, splits: np.ndarray, good: np.ndarray) -> list[str]:
    """Say which classes a split lacks: nothing will be learnt or known of them there."""
    notes = []
    for split in SPLITS:
        here = listing.targets[good & (splits == split)]
        counts = class_counts(here, len(listing.classes))
        lacking = [label for label, count in zip(listing.classes, counts, strict=True) if not count]
        if len(here) and lacking:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            notes.append(f"the {split} split has no images of {', '.join(lacking[:3])}{more}")
    return notes


def _contradictions(listing: Listing, findings: Findings, good: np.ndarray) -> list[str]:
    """Say which equal images have different labels: at least one of them is wrong."""
    first: dict[bytes, int] = {}
    pairs = []
    for row in np.flatnonzero(good & labelled(listing.targets)).tolist():
        other = first.setdefault(findings.looks[row], row)
        if not alike(listing.targets, other, row):
            pairs.append(f"{listing.names[other]} = {listing.names[row]}")
    if not pairs:
        return []
    more = f"; and {len(pairs) - 3:,} more" if len(pairs) > 3 else ""
    return [f"equal images with different labels, of which one must be wrong: {'; '.join(pairs[:3])}{more}"]


def _copies(listing: Listing, findings: Findings, rows: np.ndarray, splits: np.ndarray) -> list[str]:
    """Say how many images are there twice in a split, with the same label: they count twice."""
    first: dict[tuple[str, bytes], int] = {}
    pairs = []
    for row in rows.tolist():
        other = first.setdefault((str(splits[row]), findings.looks[row]), row)
        if other != row and alike(listing.targets, other, row):
            pairs.append(f"{listing.names[row]} = {listing.names[other]}")
    if not pairs:
        return []
    some = f"{len(pairs):,} images are copies of others" if len(pairs) > 1 else "1 image is a copy of another one"
    return [f"{some} in the same split ({pairs[0]}{' first' if len(pairs) > 1 else ''})"]


def _source(checked: Checked, groups: np.ndarray | None, rows: np.ndarray, split: str) -> Source | None:
    if not len(rows):
        return None
    listing, findings, window = checked.listing, checked.findings, checked.window
    ids = np.array([sample_id(split, listing.keys[row]) for row in rows], np.uint64)
    if len(np.unique(ids)) < len(ids):
        twice = Counter(listing.keys[row] for row in rows).most_common(1)[0][0]
        raise PocketError(f"{twice} stands twice in the {split} split of {listing.name}: rename or delete one")
    sizes = np.unique(findings.shapes[rows, :2], axis=0)
    return listing.images.source(
        rows,
        findings,
        name=listing.named.get(split, listing.name),
        split=split,
        classes=listing.classes,
        ids=ids,
        targets=listing.targets[rows],
        names=[listing.names[row] for row in rows],
        window=window,
        size=(int(sizes[0, 0]), int(sizes[0, 1])) if len(sizes) == 1 else None,
        fingerprint=fingerprint_of(split, ids, findings.digests[rows], window),
        groups=None if groups is None else groups[rows],
    )


def _checks(
    listing: Listing,
    findings: Findings,
    splits: np.ndarray,
    good: np.ndarray,
    broken: tuple[tuple[str, str], ...],
) -> Checks:
    rows = np.flatnonzero(good & (splits != ""))
    counts: dict[str, dict[str, int]] = {}
    images: dict[str, int] = {}
    for split in SPLITS:
        here = listing.targets[good & (splits == split)]
        if not len(here):
            continue
        images[split] = len(here)
        counts[split] = dict(zip(listing.classes, class_counts(here, len(listing.classes)).tolist(), strict=True))
        unknown = int((~labelled(here)).sum())
        if unknown:
            counts[split][""] = unknown
    return Checks(
        counts=counts,
        broken=broken,
        duplicates=_duplicates(listing, findings, splits, rows),
        sizes=dict(Counter((int(h), int(w)) for h, w in findings.shapes[rows, :2])),
        modes=dict(Counter(findings.kinds[row] for row in rows)),
        images=images if several(listing.targets) else {},
        unit="boxes" if isinstance(listing.targets, Boxes) else "images",
    )


def _duplicates(
    listing: Listing, findings: Findings, splits: np.ndarray, rows: np.ndarray
) -> tuple[tuple[str, str], ...]:
    """Return (name, name) of equal images in different splits: each later one with the first of another split."""
    seen: dict[bytes, dict[str, int]] = {}
    pairs = []
    for row in sorted(rows.tolist(), key=lambda row: SPLITS.index(str(splits[row]))):
        others = seen.setdefault(findings.looks[row], {})
        for split, other in others.items():
            if split != splits[row]:
                pairs.append((listing.names[other], listing.names[row]))
                break
        others.setdefault(str(splits[row]), row)
    return tuple(pairs)
