"""Where images come from. `open_images` finds out what it is given, checks every image and fixes the split."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

from ..errors import PocketError
from .assemble import assemble
from .base import SPLITS, Checks, Dataset, Source
from .decode import BrokenImage, decode, to_rgb8
from .folds import open_folds
from .joining import join
from .listing import Listing
from .pack import Pack, pack_dataset
from .tiles import Tiles, per_image, tile_dataset

__all__ = [
    "SPLITS",
    "BrokenImage",
    "Checks",
    "Dataset",
    "Pack",
    "Source",
    "Tiles",
    "decode",
    "for_test_alone",
    "open_folds",
    "open_images",
    "open_test_images",
    "pack_dataset",
    "per_image",
    "to_rgb8",
]


def open_images(
    images: Any,
    *,
    labels: str | Path | None = None,
    group: str | None = None,
    val: Any = None,
    test: Any = None,
    unlabelled: Any = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    window: tuple[float, float] | None = None,
    tile: int | None = None,
    progress: bool = True,
    memory: Path | None = None,
) -> Dataset:
    """Open images of any kind, read each once, and return their training, validation and test splits.

    Splits that are there are kept. What is missing is held out of the training images, class by class, by a hash of
    ``seed`` and the image's path (or index): the same on any machine, and an added image reshuffles no others.

    Args:
        images: "digits" or "scenes" (drawn, with boxes); a folder (``class/name.jpg``, train/val/test folders of that,
            a flat folder without labels, or CIFAR as torchvision lays it out); images with boxes as COCO JSON, Pascal
            VOC XML or YOLO txt with ``data.yaml`` (the folder, or the JSON or YAML file); a CSV file of names and
            labels; a MedMNIST-layout ``.npz``; a pair (array of images, labels); an object with a length whose items
            are (image, label), as torchvision's and Hugging Face's are, or a mapping of "train", "val" and "test" to
            such objects; or a `Dataset`, which is returned as it is.
        labels: CSV file of names and labels of the images in a folder.
        group: heading of the column (such as patient) whose equal cells stay on one side of every split.
        val, test: images of these splits, of the same kind and classes.
        unlabelled: more training images, whose labels (if any) are not looked at.
        val_fraction: share of the training images held out for validation, and again for test, where those are
            missing; 0 holds nothing out.
        window: intensities (low, high) that become 0 and 255 in images that are not 8-bit. By default robust
            percentiles of the training images (of DICOM its tags); floating-point images need one.
        tile: cut each image into squares of this side, in its own pixels; `Source.parents` says of which image each is.
        progress: show a bar while checking, if it takes more than a second.
        memory: folder in which is remembered what was found of each file by its path, size and time, so that a second
            start does not read the images again.

    Raises:
        PocketError: what was given cannot be used; the message says what, where and what to do.
    """
    beside = {"val": val, "test": test, "unlabelled": unlabelled}
    if isinstance(images, Dataset):
        if any(given is not None for given in beside.values()):
            raise PocketError("an opened dataset has its splits: give the images themselves, to join others to them")
        return images if tile is None else tile_dataset(images, tile)
    listing = find_all(images, labels, group, **beside)
    dataset = assemble(listing, val_fraction=val_fraction, seed=seed, window=window, progress=progress, memory=memory)
    return dataset if tile is None else tile_dataset(dataset, tile)


def open_test_images(images: Any, *, window: tuple[float, float] | None = None) -> Dataset:
    """Open images that are not learned from: of the dataset that is returned, ``test`` is what is scored.

    Args:
        images, window: As for `open_images`. Their test split is scored where there is one, else all of them.

    Raises:
        PocketError: They cannot be used.
    """
    if isinstance(images, Dataset):
        found = images
    else:
        listing = find_images(images, None, None)
        if "train" not in listing.splits:  # nothing is to be learned of them; "" leaves images out
            scored = "test" if "test" in listing.splits else "val"
            listing.splits = ["train" if split == scored else "" for split in listing.splits]
            listing.single = ""
        if listing.single:
            raise PocketError(listing.single)
        found = assemble(listing, val_fraction=0, seed=0, window=window, progress=False)
    if found.test is not None:
        return found
    test = copy.copy(found.train)
    test.split = "test"
    checks = found.checks
    renamed = [{"test": of["train"]} if "train" in of else {} for of in (checks.counts, checks.images)]
    checks = dataclasses.replace(checks, counts=renamed[0], images=renamed[1])  # type: ignore[arg-type]
    return dataclasses.replace(found, test=test, checks=checks)


def for_test_alone(images: Any) -> bool:
    """Whether images are divided and none of them is for training: a folder of ``test/`` alone, or such a ``.npz``."""
    path = Path(images).expanduser() if isinstance(images, str | Path) else None
    if path is None or not (path.is_dir() or path.suffix.lower() == ".npz"):
        return False
    return "train" not in find_images(path, None, None).splits


def find_all(images: Any, labels: str | Path | None, group: str | None, **beside: Any) -> Listing:
    """List images, and the ones beside them, by what they are; see `open_images`."""
    from .tables import has_column

    others = {
        role: find_images(given, None, group if group is not None and has_column(given, group) else None)
        for role, given in beside.items()
        if given is not None
    }
    listing = find_images(images, labels, group)
    if listing.single:
        raise PocketError(listing.single)
    return join(listing, others)


def find_images(images: Any, labels: str | Path | None, group: str | None) -> Listing:
    """Find out what is given, and list its images; see `open_images`."""
    from .arrays import list_digits, list_npz, list_pair
    from .cifar import find_cifar, list_cifar
    from .detection import find_detection
    from .folders import list_folder
    from .objects import list_objects
    from .scenes import list_scenes
    from .tables import list_table

    is_table = isinstance(images, str | Path) and Path(images).suffix.lower() in (".csv", ".tsv")
    if group is not None and labels is None and not is_table:
        raise PocketError(
            f"grouping by {group!r} needs a table that says which images are of one {group}: give a CSV file with "
            f"the columns file, label and {group}, as --table FILE"
        )
    if isinstance(images, tuple) and len(images) == 2:
        return list_pair(*images)
    if not isinstance(images, str | Path):
        return list_objects(images)
    path = Path(images).expanduser()
    built_in = {"digits": list_digits, "scenes": list_scenes}.get(str(images))
    if built_in is not None and not path.exists():
        return built_in()
    if not path.exists():
        raise PocketError(f"there is no {path}: give a folder of images, a .npz or .csv file, or 'digits'")
    if labels is not None:
        table = Path(labels).expanduser()
        if not path.is_dir():
            raise PocketError(f"labels in {table} need a folder of images, but {path} is a file")
        return list_table(table, path, group)
    boxes = find_detection(path)
    if boxes is not None:
        return boxes()
    if path.is_dir():
        batches = find_cifar(path)
        return list_cifar(batches) if batches else list_folder(path)
    if path.suffix.lower() == ".npz":
        return list_npz(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return list_table(path, path.parent, group)
    packed = "unpack it, and " * (path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz"))
    if path.suffix.lower() in (".parquet", ".arrow"):
        raise PocketError(
            f"{path} is a table of the Hugging Face hub's: open it in Python with `datasets`, and give that dataset to "
            "pocketvit.distill(dataset, ...)."
        )
    raise PocketError(
        f"{path} cannot be opened as images: {packed}give a folder, a .npz, .csv, .json or .yaml file, or 'digits'"
    )
