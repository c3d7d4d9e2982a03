"""Folders of images: ``class/name.jpg``, train/val/test folders of that, or a flat folder without labels."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import PocketError
from .base import SPLITS
from .decode import SUFFIXES
from .grades import are_grades, in_order
from .listing import Files, Listing

_SUFFIX = re.compile(r"[-_ .](?:set|data|images|imgs|split)$")  # of a split's folder: training_set, val_images
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_of(name: str) -> str | None:
    """Return the split that a folder is named for, or None."""
    return SPLIT_NAMES.get(_SUFFIX.sub("", name.lower()))


def normalized(relative: str) -> str:
    """Return a relative path as every machine writes it: forward slashes, composed Unicode (macOS decomposes)."""
    return unicodedata.normalize("NFC", relative.replace(os.sep, "/"))


def find_files(folder: Path) -> dict[str, Path]:
    """Return every visible file below ``folder`` by its normalized relative path, sorted; links are followed once.

    Folders of runs are passed over: their pictures are not the user's.

    Raises:
        PocketError: a folder that cannot be read, or two names that differ only in how Unicode composes them.
    """
    found: dict[str, Path] = {}
    visited: set[str] = set()
    root = str(folder)
    for place, inner, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(place)
        if real in visited or (place != root and _holds_runs(place, inner)):
            inner.clear()
            continue
        visited.add(real)
        inner[:] = sorted(name for name in inner if is_visible(name))
        below = place[len(root) :].lstrip(os.sep)
        for name in files:
            if is_visible(name) and name not in ("Thumbs.db", "desktop.ini"):
                key = normalized(os.path.join(below, name))
                if key in found:
                    raise PocketError(
                        f"{folder} has two files whose names differ only in how their accents are written, {key}: "
                        "rename one"
                    )
                found[key] = Path(place, name)
    return dict(sorted(found.items()))


def is_visible(name: str) -> bool:
    """Whether a file or folder is one of the user's: not hidden, and not what macOS puts into archives."""
    return not name.startswith(".") and name != "__MACOSX"


def _unreadable(error: OSError) -> None:
    raise PocketError(
        f"the folder {error.filename} cannot be read ({error.strerror}): allow it, or move it elsewhere"
    ) from error


def _holds_runs(place: str, inner: list[str]) -> bool:
    """Whether a folder is where runs are written, as `runs/` is when a run was started among the images."""
    return any(os.path.isfile(os.path.join(place, name, "config.yaml")) for name in inner)


def is_image(name: str) -> bool:
    """Whether a file's ending is that of an image that can be decoded."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def images_among(files: dict[str, Path]) -> dict[str, Path]:
    """Return the files that are images by their ending, or DICOM without one, as archives of scans write it."""
    return {name: path for name, path in files.items() if is_image(name) or _is_bare_dicom(path)}


def _is_bare_dicom(path: Path) -> bool:
    # A name may be a UID, whose end is a number; DICOMDIR is the list of a disc.
    if not re.fullmatch(r"(\.\d*)?", path.suffix) or path.name == "DICOMDIR" or not path.is_file():
        return False  # a pipe would be waited for
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def list_folder(folder: Path) -> Listing:
    """List a folder by its layout.

    Raises:
        PocketError: no images, an empty class folder, one class only, or a mixture of layouts.
    """
    files = find_files(folder)
    images = images_among(files)
    notes = [*_ignored(files, images), *_hidden(folder)]
    if not images:
        if any(name.lower().endswith((".nii", ".nii.gz")) for name in files):
            raise PocketError(f"no images in {folder}: NIfTI volumes are not read: save the slices you mean as PNG")
        kinds = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in files)
        what = f" ({', '.join(f'{count:,} {kind}' for kind, count in kinds.most_common(3))})" if kinds else ""
        raise PocketError(
            f"no images in {folder}{what}: give a folder of class/name.jpg, or of images without labels "
            "(JPEG, PNG, TIFF, BMP, GIF, WebP, PNM, AVIF, HEIC, DICOM)"
        )
    _check_no_yolo(folder, files, images)
    places = folders_in(folder)
    splits = {place: split for place in places if (split := split_of(place)) is not None}
    if "train" in splits.values():
        return _split_folders(folder, images, places, splits, notes)
    if splits and set(splits) == set(places):
        listing = _split_folders(folder, images, places, splits, notes)
        listing.single = (
            f"{folder} has {' and '.join(splits)} but no train folder: add one, or name the images to train on and "
            f"give this beside them, as --{next(iter(splits.values()))} {folder}"
        )
        return listing
    loose = [name for name in images if "/" not in name]
    if len(loose) == len(images):
        return _listing(
            folder, (), list(images), list(images), ["train"] * len(images), [-1] * len(images), images, notes
        )
    if loose:
        notes.append(f"{len(loose):,} images beside the class folders were left out, {loose[0]} first")
    classes = _class_folders(folder, places, images, "")
    if len(classes) < 2:
        inside = folder / classes[0]
        if len(folders_in(inside)) > 1:  # of an archive that was unpacked into it
            raise PocketError(
                f"{folder} holds one folder, {classes[0]!r}, and the images are sorted in it: give {inside}"
            )
        raise PocketError(
            f"{folder} has one class folder only, {classes[0]!r}: add the others, or give {folder / classes[0]} "
            "for images without labels"
        )
    index = {label: target for target, label in enumerate(classes)}
    names = [name for name in images if "/" in name]
    targets = [index[name.split("/")[0]] for name in names]
    return _listing(folder, classes, names, names, ["train"] * len(names), targets, images, notes)


def _check_no_yolo(folder: Path, files: dict[str, Path], images: dict[str, Path]) -> None:
    """Refuse images and txt files of boxes without the YAML file that names their classes."""
    first = next((name for name in images if "images" in name.split("/")[:-1]), None)
    beside = {os.path.splitext(name)[0]: name for name in images}  # as LabelImg writes them
    for name in itertools.islice((name for name in files if name.endswith(".txt")), 20):
        image = first if "labels" in name.split("/")[:-1] else beside.get(name.removesuffix(".txt"))
        if image is not None and _holds_boxes(files[name]):
            raise PocketError(
                f"{folder} looks like YOLO without its data.yaml; write one into it: names: [...], train: "
                f"{image.rpartition('/')[0] or '.'} (and val, test, where there are such folders)"
            )


def _holds_boxes(path: Path) -> bool:
    """Whether a text begins with a line of YOLO's: a class and at least four more numbers."""
    with path.open("rb") as file:
        cells = file.readline(2000).split()
    return len(cells) >= 5 and all(re.fullmatch(rb"-?\d+(\.\d*)?(e-?\d+)?", cell) for cell in cells[:5])


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
    inner = {place: folders_in(places[place]) for place in splits}
    unsorted: list[str] = []  # held-out splits whose images are in one folder of no class
    train = next((place for place, split in splits.items() if split == "train"), None)
    if train is None:  # images for a test alone, which may lack classes
        given = [_class_folders(places[place], inner[place], images, f"{place}/") for place in splits]
        classes = in_order(set().union(*given))
    elif inner[train]:
        classes = _class_folders(places[train], inner[train], images, f"{train}/")
        if len(classes) < 2:
            raise PocketError(
                f"{places[train]} has one class folder only, {classes[0]!r}: add the others; or, if that is a folder "
                f"too many, move what is in {places[train] / classes[0]} one up"
            )
        for place in splits:
            found = set(_class_folders(places[place], inner[place], images, f"{place}/"))
            unknown = sorted(found - set(classes))
            if len(found) == len(unknown) == 1 and place != train:  # Tiny ImageNet's val/images, Kaggle's test/unknown
                unsorted.append(place)
                continue
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
        if place in unsorted:
            continue
        names.append(name)
        keys.append(key)
        rows.append(splits[place])
        targets.append(index[key.split("/")[0]] if classes else -1)
    if loose:
        notes.append(f"{len(loose):,} images beside the class folders were left out, {loose[0]} first")
    for place in unsorted:
        count = sum(name.startswith(f"{place}/") for name in images)
        notes.append(
            f"{count:,} images of {place} are in no folder of a class and were left out (a table of their labels: "
            f"--{splits[place]} FILE.csv)"
        )
    return _listing(folder, classes, names, keys, rows, targets, images, notes)


def folders_in(folder: Path) -> dict[str, Path]:
    """Return the user's folders in a folder by their normalized names, sorted; those of runs are passed over."""
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if not (is_visible(entry.name) and entry.is_dir()) or _holds_runs(str(entry), _names_in(entry)):
            continue
        label = unicodedata.normalize("NFC", entry.name)
        if label in found:
            raise PocketError(
                f"{folder} has two folders whose names differ only in how their accents are written, {label}: put "
                "their images into one"
            )
        found[label] = entry
    return found


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        _unreadable(error)
        raise


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


def _hidden(folder: Path) -> list[str]:
    """Say which folders beside those of classes hold images and are passed over, by their names' dot."""
    notes = []
    for place in sorted(folder.glob(".*/")):
        with contextlib.suppress(OSError):
            count = sum(is_image(path.name) and is_visible(path.name) for path in place.iterdir())
            if count:
                notes.append(f"{place.name}/ is hidden, and its {count:,} images passed over: rename it if they count")
    return notes


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
