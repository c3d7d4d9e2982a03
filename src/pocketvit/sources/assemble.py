"""From a listing to a dataset: check, decide the window, hold out what is missing, fingerprint."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ..errors import PocketError
from .base import SPLITS, Checks, Dataset, Source, Window, fingerprint_of, sample_id
from .checks import check, window_for
from .findings import Findings
from .listing import Listing
from .splits import hold_out


def assemble(
    listing: Listing, *, val_fraction: float, seed: int, window: Window | None, progress: bool = True
) -> Dataset:
    """Check a listing's images and return its dataset.

    Raises:
        PocketError: no readable image, a class that is empty or that training lacks, float images without a window.
    """
    if not 0 <= val_fraction < 0.5:
        raise PocketError(f"val_fraction is {val_fraction:g}: give a share of the images from 0 to below 0.5")
    findings = check(listing, progress)
    good = findings.good
    broken = listing.broken + [(listing.names[row], findings.why[row]) for row in np.flatnonzero(~good)]
    notes = list(listing.notes)
    if not good.any():
        examples = "; ".join(f"{name} {why}" for name, why in broken[:3])
        raise PocketError(f"{listing.name} has no image that can be used. {examples}")
    window = window_for(listing, findings, window, notes)
    splits = np.array(listing.splits, "U5")
    _check_classes(listing, splits, good, findings)
    splits = _split(listing, findings, splits, good, val_fraction, seed, notes)
    alpha = int((np.isin(findings.shapes[:, 2], (2, 4)) & good).sum())
    if alpha:
        notes.append(f"transparency in {alpha:,} images is laid over white")
    notes += _contradictions(listing, findings, good)
    notes += _absent(listing, splits, good)
    checks = _checks(listing, findings, splits, good, tuple(broken))
    if checks.duplicates:
        notes.append(f"{len(checks.duplicates):,} images stand in two splits: the score will be too good by that much")
    sources = {
        split: _source(listing, findings, np.flatnonzero(good & (splits == split)), split, window) for split in SPLITS
    }
    if sources["train"] is None:
        raise PocketError(f"{listing.name} has no training images: put them into a train folder")
    return Dataset(
        listing.name, listing.classes, sources["train"], sources["val"], sources["test"], tuple(notes), checks
    )


def _check_classes(listing: Listing, splits: np.ndarray, good: np.ndarray, findings: Findings) -> None:
    for split in SPLITS:
        here = splits == split
        for target in sorted(set(listing.targets[here].tolist()) - {-1}):
            rows = np.flatnonzero(here & (listing.targets == target))
            if not good[rows].any():
                row = rows[0]
                raise PocketError(
                    f"class {listing.classes[target]!r} of {listing.name} has no {split} image that can be read, "
                    f"of {len(rows)} ({listing.names[row]} {findings.why[row]}). Replace them or delete the class"
                )
    known = set(listing.targets[(splits == "train") & good].tolist())
    for split in ("val", "test"):
        for target in sorted(set(listing.targets[(splits == split) & good].tolist()) - known - {-1}):
            raise PocketError(
                f"class {listing.classes[target]!r} is in the {split} split of {listing.name} but has no training "
                "images. Add some to train, or delete it there"
            )


def _split(
    listing: Listing,
    findings: Findings,
    splits: np.ndarray,
    good: np.ndarray,
    val_fraction: float,
    seed: int,
    notes: list[str],
) -> np.ndarray:
    """Hold out the validation and test splits that are missing; return every row's split."""
    given = [split for split in SPLITS if (splits[good] == split).any()]
    if given != ["train"]:
        notes.append(f"the {', '.join(given)} splits are those of {listing.name}")
    shares = {"val": val_fraction, "test": val_fraction and (listing.test_fraction or val_fraction)}
    wanted = {split: share for split, share in shares.items() if split not in given and share}
    rows = np.flatnonzero(good & (splits == "train") & ((listing.targets >= 0) | (not listing.classes)))
    splits[rows] = hold_out(
        [listing.keys[row] for row in rows], [findings.looks[row] for row in rows], listing.targets[rows], wanted, seed
    )
    for split, share in wanted.items():
        count = int((splits == split).sum())
        how = f"{share:.0%} of train{', class by class' if listing.classes else ''}, by a keyed hash, seed {seed}"
        notes.append(
            f"no {split} split in {listing.name}: {count:,} training images are held out for it ({how})"
            if count
            else f"no {split} split in {listing.name}, and too few images to hold one out"
        )
    return splits


def _absent(listing: Listing, splits: np.ndarray, good: np.ndarray) -> list[str]:
    """Say which classes a validation or test split lacks: nothing will be known of them there."""
    notes = []
    for split in ("val", "test"):
        here = set(listing.targets[good & (splits == split)].tolist())
        lacking = [label for target, label in enumerate(listing.classes) if target not in here]
        if here and lacking:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            notes.append(f"the {split} split has no images of {', '.join(lacking[:3])}{more}")
    return notes


def _contradictions(listing: Listing, findings: Findings, good: np.ndarray) -> list[str]:
    """Say which equal images have different labels: at least one of them is wrong."""
    first: dict[bytes, int] = {}
    pairs = []
    for row in np.flatnonzero(good & (listing.targets >= 0)).tolist():
        other = first.setdefault(findings.looks[row], row)
        if listing.targets[other] != listing.targets[row]:
            pairs.append(f"{listing.names[other]} = {listing.names[row]}")
    if not pairs:
        return []
    more = f"; and {len(pairs) - 3:,} more" if len(pairs) > 3 else ""
    return [f"equal images with different labels, of which one must be wrong: {'; '.join(pairs[:3])}{more}"]


def _source(listing: Listing, findings: Findings, rows: np.ndarray, split: str, window: Window | None) -> Source | None:
    if not len(rows):
        return None
    ids = np.array([sample_id(split, listing.keys[row]) for row in rows], np.uint64)
    if len(np.unique(ids)) < len(ids):
        twice = Counter(listing.keys[row] for row in rows).most_common(1)[0][0]
        raise PocketError(f"{twice} stands twice in the {split} split of {listing.name}: rename or delete one")
    sizes = np.unique(findings.shapes[rows, :2], axis=0)
    return listing.images.source(
        rows,
        findings,
        name=listing.name,
        split=split,
        classes=listing.classes,
        ids=ids,
        targets=listing.targets[rows],
        names=[listing.names[row] for row in rows],
        window=window,
        size=(int(sizes[0, 0]), int(sizes[0, 1])) if len(sizes) == 1 else None,
        fingerprint=fingerprint_of(split, ids, findings.digests[rows], window),
    )


def _checks(
    listing: Listing,
    findings: Findings,
    splits: np.ndarray,
    good: np.ndarray,
    broken: tuple[tuple[str, str], ...],
) -> Checks:
    rows = np.flatnonzero(good)
    counts: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        here = Counter(listing.targets[good & (splits == split)].tolist())
        labels = {label: here[target] for target, label in enumerate(listing.classes)}
        if here and here[-1]:
            labels[""] = here[-1]
        if here:
            counts[split] = labels
    return Checks(
        counts=counts,
        broken=broken,
        duplicates=_duplicates(listing, findings, splits, rows),
        sizes=dict(Counter((int(h), int(w)) for h, w in findings.shapes[rows, :2])),
        modes=dict(Counter(findings.kinds[row] for row in rows)),
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
