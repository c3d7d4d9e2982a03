"""Folders of images: ``class/name.jpg``, train/val/test folders of that, or a flat folder without labels."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import PocketError
from .base import SPLITS
from .decode import SUFFIXES
from .grades import are_grades, in_order
from .listing import Files, Listing

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def normalized(relative: str) -> str:
    """Return a relative path as every machine writes it: forward slashes, composed Unicode (macOS decomposes)."""
    return unicodedata.normalize("NFC", relative.replace(os.sep, "/"))


def find_files(folder: Path) -> dict[str, Path]:
    """Return every visible file below ``folder`` by its normalized relative path, sorted; links are followed once."""
    found: dict[str, Path] = {}
    visited: set[str] = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:
            inner.clear()
            continue
        visited.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name != "__MACOSX")
        for name in files:
            if not name.startswith(".") and name not in ("Thumbs.db", "desktop.ini"):
                path = Path(place, name)
                found[normalized(str(path.relative_to(folder)))] = path
    return dict(sorted(found.items()))


def is_image(name: str) -> bool:
    """Whether a file's ending is that of an image that can be decoded."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def list_folder(folder: Path) -> Listing:
    """List a folder by its layout.

    Raises:
        PocketError: no images, an empty class folder, one class only, or a mixture of layouts.
    """
    files = find_files(folder)
    images = {name: path for name, path in files.items() if is_image(name)}
    notes = _ignored(files, images)
    if not images:
        kinds = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in files)
        what = f" ({', '.join(f'{count:,} {kind}' for kind, count in kinds.most_common(3))})" if kinds else ""
        raise PocketError(
            f"no images in {folder}{what}: give a folder of class/name.jpg, or of images without labels "
            "(JPEG, PNG, TIFF, BMP, GIF, WebP, PNM, AVIF)"
        )
    places = {
        unicodedata.normalize("NFC", entry.name): entry
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".") and entry.name != "__MACOSX"
    }
    splits = {place: SPLIT_NAMES[place.lower()] for place in places if place.lower() in SPLIT_NAMES}
    if "train" in splits.values():
        return _split_folders(folder, images, places, splits, notes)
    loose = [name for name in images if "/" not in name]
    if len(loose) == len(images):
        return _listing(
            folder, (), list(images), list(images), ["train"] * len(images), [-1] * len(images), images, notes
        )
    if loose:
        notes.append(f"{len(loose):,} images beside the class folders were left out, {loose[0]} first")
    classes = _class_folders(folder, places, images, "")
    if len(classes) < 2:
        raise PocketError(
            f"{folder} has one class folder only, {classes[0]!r}: add the others, or give {folder / classes[0]} "
            "for images without labels"
        )
    index = {label: target for target, label in enumerate(classes)}
    names = [name for name in images if "/" in name]
    targets = [index[name.split("/")[0]] for name in names]
    return _listing(folder, classes, names, names, ["train"] * len(names), targets, images, notes)


def _split_folders(
    folder: Path, images: dict[str, Path], places: dict[str, Path], splits: dict[str, str], notes: list[str]
) -> Listing:
    others = sorted({name.split("/")[0] for name in images if "/" in name} - set(splits))
    if others:
        raise PocketError(
            f"{folder} has split folders ({', '.join(splits)}) and others with images ({', '.join(others[:3])}): "
            "move the others into a split, or out of it"
        )
    for split in SPLITS:
        both = [place for place, name in splits.items() if name == split]
        if len(both) > 1:
            raise PocketError(f"{folder} has {' and '.join(both)}, which both mean {split}: keep one")
    classes: tuple[str, ...] = ()
    inner = {
        place: {
            unicodedata.normalize("NFC", entry.name): entry
            for entry in sorted(places[place].iterdir())
            if entry.is_dir() and not entry.name.startswith(".")
        }
        for place in splits
    }
    train = next(place for place, split in splits.items() if split == "train")
    if inner[train]:
        classes = _class_folders(places[train], inner[train], images, f"{train}/")
        for place in splits:
            unknown = sorted(set(_class_folders(places[place], inner[place], images, f"{place}/")) - set(classes))
            if unknown:
                raise PocketError(
                    f"class {unknown[0]!r} is in {places[place]} but not in {places[train]}: add training images of "
                    "it, or delete it there"
                )
    index = {label: target for target, label in enumerate(classes)}
    names, keys, rows, targets, loose = [], [], [], [], []
    for name in images:
        place, _, key = name.partition("/")
        if not key or (classes and "/" not in key):
            loose.append(name)
            continue
        names.append(name)
        keys.append(key)
        rows.append(splits[place])
        targets.append(index[key.split("/")[0]] if classes else -1)
    if loose:
        notes.append(f"{len(loose):,} images beside the class folders were left out, {loose[0]} first")
    return _listing(folder, classes, names, keys, rows, targets, images, notes)


def _class_folders(folder: Path, places: dict[str, Path], images: dict[str, Path], prefix: str) -> tuple[str, ...]:
    counts = Counter(name[len(prefix) :].split("/")[0] for name in images if name.startswith(prefix))
    for label in places:
        if not counts[label]:
            raise PocketError(f"class folder {folder / label} has no images: add some, or delete the folder")
    return in_order(places)


def _ignored(files: dict[str, Path], images: dict[str, Path]) -> list[str]:
    others = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in files if name not in images)
    if not others:
        return []
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(3))
    what = "file that is no image was" if others.total() == 1 else "files that are not images were"
    return [f"{others.total():,} {what} ignored ({kinds})"]


def _listing(
    folder: Path,
    classes: tuple[str, ...],
    names: list[str],
    keys: list[str],
    splits: list[str],
    targets: list[int],
    images: dict[str, Path],
    notes: list[str],
) -> Listing:
    if not classes:
        notes.append(f"{folder.name} has no class folders: its images have no labels")
    return Listing(
        name=folder.resolve().name or "images",
        classes=classes,
        names=names,
        keys=keys,
        splits=splits,
        targets=np.array(targets, np.int64),
        images=Files([images[name] for name in names]),
        notes=notes,
        task="ordinal" if are_grades(classes) else "classification",
    )
