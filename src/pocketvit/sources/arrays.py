"""Images in arrays: scikit-learn's digits, MedMNIST-layout .npz files, and pairs of (images, labels)."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PocketError
from ..files import human_bytes, is_archive
from . import medmnist
from .base import SPLITS
from .findings import DEPTHS
from .grades import are_grades, in_order
from .listing import Arrays, Listing
from .targets import labelled, present, several

Split = tuple[np.ndarray, np.ndarray | None]
_MOST_CLASSES = 1 << 16  # a label beyond is a code for something else
TAKEN_AS_CLASSES = ": they are taken as classes"


def list_digits() -> Listing:
    """List scikit-learn's digits: 1,797 grey images of 8x8 pixels, their 17 levels spread over 0..255."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    classes = tuple(str(name) for name in data.target_names)
    listing = list_arrays("digits", {"train": (images, data.target)}, classes)
    listing.test_fraction = 0.2  # so few images that a tenth would say little
    return listing


def list_npz(path: Path) -> Listing:
    """List a MedMNIST-layout file: ``train_images`` and ``train_labels``, likewise val and test, perhaps ``classes``.

    ``synthetic`` is one sentence on what the images were made from, where they are no photographs.

    Raises:
        PocketError: not such a file, or one with volumes, or Python objects.
    """
    if not is_archive(path):
        raise PocketError(f"{path} is not a readable .npz file (no zip archive): copy it again")
    try:
        claimed = sum(member.file_size for member in zipfile.ZipFile(path).infolist())
        memory = total_memory()
        if memory is not None and claimed > memory / 2:
            raise PocketError(
                f"{path} unpacks to {human_bytes(claimed)}, more than half of the memory ({human_bytes(memory)}): use "
                "a folder of images instead"
            )
        with np.load(path, allow_pickle=False) as archive:
            found = set(archive.files)
            keys = ", ".join(sorted(found)[:6]) or "nothing"
            expected = f"{path} holds {keys}: expected train_images and train_labels (and val_, test_), as MedMNIST has"
            if not found & {f"{split}_images" for split in SPLITS}:
                raise PocketError(expected)
            splits: dict[str, Split] = {}
            for split in SPLITS:
                if f"{split}_images" in found:
                    labels = archive[f"{split}_labels"] if f"{split}_labels" in found else None
                    splits[split] = (archive[f"{split}_images"], labels)
            classes = tuple(str(name) for name in archive["classes"]) if "classes" in found else None
            synthetic = str(archive["synthetic"][0]) if "synthetic" in found else ""
    except (OSError, ValueError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error):
            raise PocketError(
                f"{path} holds Python objects, which are not read because they could run code: "
                "save plain arrays with numpy.savez"
            ) from error
        raise PocketError(f"{path} is not a readable .npz file ({error}): copy it again") from error
    except MemoryError as error:
        raise PocketError(f"{path} does not fit into memory: use a folder of images instead") from error
    listing = list_arrays(path.stem, splits, classes or _names(path.stem, splits))
    if "train" not in splits:
        listing.single = f"{expected}. Images for a test stand beside others: --test {path}"
    if synthetic:  # a bank of `pocketvit synthesize`
        listing.name, listing.synthetic = path.absolute().parent.name, synthetic
        listing.notes.append(f"synthetic images, {synthetic}")
    return _of_medmnist(listing)


def total_memory() -> int | None:
    """Return how many bytes of memory this machine has, None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _names(name: str, splits: dict[str, Split]) -> tuple[str, ...] | None:
    """Return the class names of MedMNIST for a file named after one of its sets, if they fit the labels."""
    known = medmnist.named(name)
    labels = [labels for _, labels in splits.values() if labels is not None and labels.size]
    if known is None or not labels or any(part.dtype.kind not in "iubf" for part in labels):
        return None
    many = several(labels[0]) and labels[0].shape[1] > 1
    count = labels[0].shape[1] if many else int(max(part.max() for part in labels)) + 1
    fits = count == len(known.classes) and many == known.task.startswith("multi-label")
    return known.classes if fits else None


def _of_medmnist(listing: Listing) -> Listing:
    """Add what MedMNIST's table says of a file: kind of image, task, and whether its splits are the official ones."""
    known = medmnist.named(listing.name)
    like = known or medmnist.resembling(listing.name)
    if like is None or len(listing.classes) != len(like.classes):
        return listing
    listing.modality = like.modality
    counts = Counter(listing.splits)
    published = "/".join(f"{count:,}" for count in like.samples[0])
    if known is not None and known.is_official(counts):
        listing.whose = f"the official {known.title} (its name, and {published} images)"
        listing.notes.append(f"{known.title}: {known.kind} images, {known.licence}")
        listing.task = "ordinal" if known.task == "ordinal-regression" else listing.task
    else:
        listing.whose = f"{listing.name} (not the official {like.title} split: that has {published} images)"
        if known is None:
            listing.notes.append(f"by its name {listing.name} shows what {like.title} does: {like.kind} images")
        elif known.task == "ordinal-regression":
            listing.task = "ordinal"
    return listing


def list_arrays(name: str, splits: dict[str, Split], classes: tuple[str, ...] | None = None) -> Listing:
    """List arrays of images [n, H, W] or [n, H, W, C] with integer labels [n] or [n, 1], split by split.

    Labels [n, C] of 0 and 1 are several per image; where each row has exactly one 1 they are C classes.

    Args:
        splits: "train" and perhaps "val", "test": images and labels (None: unlabelled).
        classes: names by label; by default the numbers.
    """
    parts, targets, names, keys, rows = [], [], [], [], []
    notes: list[str] = []
    for split, (images, labels) in splits.items():
        parts.append(_images(images, f"{name} ({split})"))
        targets.append(_targets(labels, len(images), f"{name} ({split})"))
        names += [f"{split}/{index}" if len(splits) > 1 else str(index) for index in range(len(images))]
        keys += [str(index) for index in range(len(images))]
        rows += [split] * len(images)
    if not names:
        raise PocketError(f"{name} holds no images")
    if len({part.shape[1:] for part in targets}) > 1:
        raise PocketError(f"the splits of {name} have different numbers of labels per image: give the same in each")
    joined = one_of_many(np.concatenate(targets), notes)
    single = one_label(name, joined, classes)
    classes, joined, task = numbered(name, joined, classes, notes)
    blank = int((~labelled(joined)).sum())
    if 0 < blank < len(joined):
        notes.append(f"{blank:,} images have no label (-1): they train without one")
    return Listing(name, classes, names, keys, rows, joined, Arrays(parts), notes, task=task, single=single)


def one_label(name: str, targets: np.ndarray, classes: tuple[str, ...] | None) -> str:
    """Say that all images are of one class, where there are no names of others; "" where they are not."""
    if several(targets) or classes is not None or len(present(targets)) != 1:
        return ""
    label = next(iter(present(targets)))
    return f"{name} has one label only, {label} (-1 means unknown): two or more are needed, numbered from 0"


def numbered(
    name: str, targets: np.ndarray, classes: tuple[str, ...] | None, notes: list[str]
) -> tuple[tuple[str, ...], np.ndarray, str]:
    """Return the classes, targets and task of labels by number; what they cannot be is refused.

    Args:
        targets: int64 [N], -1 where unknown, or [N, C] of 0 and 1.
        classes: their names, if they have any.
    """
    count = targets.shape[1] if several(targets) else int(targets.max(initial=-1)) + 1
    if count > _MOST_CLASSES:
        raise PocketError(
            f"{name} has a label {count - 1}, and {_MOST_CLASSES:,} classes are the most: number them from 0, and give "
            "-1 where the class is unknown"
        )
    if classes and len(set(classes)) < len(classes):
        twice = Counter(classes).most_common(1)[0][0]
        raise PocketError(f"{name} names two classes {twice!r}: give each class one name of its own")
    if not labelled(targets).any():
        classes = ()
        targets = np.full(len(targets), -1, np.int64)
    elif classes is None:
        classes = tuple(str(label) for label in range(count))
        what = "labels" if several(targets) else "classes"
        notes.append(f"{name} does not name its {count} {what}: they go by their numbers")
    if classes and several(targets) and len(classes) != count:
        raise PocketError(f"{name} has {count} labels per image but names {len(classes)}: correct the names")
    if classes and count > len(classes):
        raise PocketError(f"{name} has a label {count - 1} but only {len(classes)} classes: correct the labels")
    task = "multilabel" if several(targets) else "ordinal" if are_grades(classes) else "classification"
    return classes or (), targets, task


def one_of_many(targets: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return labels [N, C] of which each image has exactly one as classes [N], saying so; others as they are."""
    known = labelled(targets)
    if not several(targets) or not known.any() or not (targets[known].sum(1) == 1).all():
        return targets
    notes.append(f"each image has exactly one of the {targets.shape[1]} labels{TAKEN_AS_CLASSES}")
    return np.where(known, targets.argmax(1), -1)


def list_pair(images: Any, labels: Any) -> Listing:
    """List an array (or nested sequence) of images with their labels, or None."""
    if not isinstance(images, np.ndarray) and len(images) and _is_item(images[0]):
        raise PocketError(
            "a pair is (images, labels), and the first of these gives items of both: give datasets by split, as "
            '{"train": first, "test": second}'
        )
    if labels is not None and len(labels) != len(images):
        raise PocketError(f"there are {len(images):,} images and {len(labels):,} labels: give each image one")
    array = _as_array(images)
    if array is None:
        from .objects import list_objects

        return list_objects(list(zip(images, [None] * len(images) if labels is None else labels, strict=True)))
    if labels is None:
        return list_arrays("arrays", {"train": (array, None)})
    try:
        given = np.asarray(labels)
    except ValueError as error:
        raise PocketError("the labels are lists of several lengths: give each image as many, of 0 and 1") from error
    if given.dtype.kind in "US":
        words = [str(word) for word in given.reshape(len(given))]
        classes = in_order(set(words))
        index = {label: number for number, label in enumerate(classes)}
        numbers = np.array([index[word] for word in words])
        return list_arrays("arrays", {"train": (array, numbers)}, classes)
    return list_arrays("arrays", {"train": (array, given)})


def _is_item(given: Any) -> bool:
    """Whether something is an item of a dataset, (image, label), and no image given as nested sequences."""
    return isinstance(given, Mapping) or (
        isinstance(given, tuple) and len(given) > 1 and not isinstance(given[0], tuple | list)
    )


def _as_array(images: Any) -> np.ndarray | None:
    """Return images as one array; None where they are of several sizes, or no arrays at all."""
    if isinstance(images, np.ndarray):
        return images
    if len(images) and not isinstance(images[0], np.ndarray | list | tuple):
        return None
    try:
        return np.asarray(images)
    except ValueError:
        return None


def _images(images: np.ndarray, where: str) -> np.ndarray:
    shape = "x".join(str(side) for side in images.shape)
    if images.dtype == bool:
        images = images.astype(np.uint8) * 255
    if images.dtype.kind not in "iuf":
        raise PocketError(
            f"the images of {where} are {images.dtype}: give one array of numbers, [n, height, width(, 3)]"
        )
    if images.ndim not in (3, 4):
        raise PocketError(
            f"the images of {where} have shape {shape}: expected [n, height, width] or [n, ..., channels]"
        )
    if images.ndim == 4 and not 1 <= images.shape[-1] <= 4:
        first = " (channels first? move them last)" if images.shape[1] <= 4 else " (a volume? choose one slice each)"
        raise PocketError(f"the images of {where} have shape {shape}: channels must be last, at most 4{first}")
    if min(images.shape[1:3]) < 1 or images.shape[1] * images.shape[2] == 1:
        raise PocketError(f"the images of {where} have shape {shape}: a single pixel shows nothing")
    if images.ndim == 4 and images.shape[-1] in (2, 4) and images.dtype.name not in ("uint8", "uint16"):
        raise PocketError(f"the images of {where} are {images.dtype} with alpha: give 1 or 3 channels")
    if images.dtype.name in DEPTHS:
        return images.astype(images.dtype.newbyteorder("="), copy=False)  # FITS and some TIFF readers give big-endian
    if images.dtype.kind == "f":
        return images.astype(np.float32)
    if images.size and images.min() >= 0 and 2**31 <= images.max() < 2**32:
        return images.astype(np.uint32)
    if images.size and (images.min() < -(2**31) or images.max() >= 2**31):
        raise PocketError(f"the images of {where} hold values beyond 32 bits: scale them down")
    if (
        images.dtype.kind == "i"
        and images.dtype.itemsize > 4
        and len(images)
        and images.min() >= 0
        and images.max() < 256
    ):
        return images.astype(np.uint8)  # what a plain Python list of pixels becomes
    return images.astype(np.int32)


def _targets(labels: np.ndarray | None, count: int, where: str) -> np.ndarray:
    if labels is None:
        return np.full(count, -1, np.int64)
    if several(labels) and labels.shape[1] > 1:
        return _of_labels(labels, count, where)
    if labels.size != count:
        raise PocketError(f"{where} has {count} images but {labels.size} labels: one per image is expected")
    flat = labels.reshape(-1)
    if flat.dtype.kind not in "iub" and not (flat.dtype.kind == "f" and (flat == np.floor(flat)).all()):
        raise PocketError(f"the labels of {where} are {flat.dtype}: expected whole numbers from 0")
    if count and not -1 <= flat.min() <= flat.max() < 2**31:
        bad = flat.min() if flat.min() < -1 else flat.max()
        raise PocketError(f"{where} has a label {bad}: expected whole numbers from 0, or -1 where unknown")
    return flat.astype(np.int64)


def _of_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    if len(labels) != count:
        raise PocketError(f"{where} has {count} images but {len(labels)} rows of labels: one per image is expected")
    known = (labels == 0) | (labels == 1)
    bad = np.flatnonzero(~(known.all(1) | (labels == -1).all(1)))
    if len(bad):
        raise PocketError(
            f"{where} has {labels.shape[1]} labels per image, those of image {bad[0]} being {labels[bad[0]].tolist()}: "
            "several labels are 0 or 1 each (or all -1 where unknown), one label is [n] or [n, 1]"
        )
    return labels.astype(np.int64)
