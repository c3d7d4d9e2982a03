"""Dataset objects: whatever has a length and gives (image, label), as torchvision's and Hugging Face's do."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import PocketError
from .arrays import numbered, one_label, one_of_many
from .broken import BrokenImage
from .decode import decode, from_pillow
from .folders import SPLIT_NAMES, is_image
from .grades import are_grades, in_order
from .listing import Files, Items, Listing

_IMAGE = ("image", "img", "picture", "pixels")  # of items that are dictionaries
_LABEL = ("label", "labels", "fine_label", "target", "class")


def list_objects(given: Any) -> Listing:
    """List a dataset object, or a mapping of split names to such objects.

    An item is (image, label), (image, label, ...), or a dictionary with an "image" and perhaps a "label". An image is
    one of Pillow, an array, a uint8 tensor [C, H, W], the bytes of a file or its path; a label is a number, a text,
    several numbers of 0 and 1, or None.

    Raises:
        PocketError: no such items, or images that a transform has already turned into floating-point tensors.
    """
    if isinstance(given, Mapping):
        return _by_split(given)
    if not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise PocketError(
            f"images are a {type(given).__name__}: give a folder, a file, 'digits', a pair (array, labels), or an "
            "object with a length whose items are (image, label)"
        )
    count = len(given)
    if not count:
        raise PocketError(f"the {type(given).__name__} has no items: give one of (image, label)")
    if _is_of_files(given):
        return _of_files(given)
    with contextlib.suppress(BrokenImage):  # it alone
        Items([given]).pixels(0, "item 0")  # what fits none fits nothing
    labels = _labels(given)
    notes: list[str] = []
    named = _class_names(given)
    what = type(given).__name__
    found, names = _targets(labels, named, what, notes)
    single = one_label(what, found, names)
    classes, targets, task = numbered(what, found, names, notes)
    columns = getattr(given, "column_names", None)
    if not classes and isinstance(columns, Sequence):
        notes.append(
            f"none of the columns {', '.join(map(str, columns))} is called a label: if one is, give the dataset with "
            "it as 'label' (rename_column)"
        )
    keys = [str(index) for index in range(count)]
    name = "images" if isinstance(given, list | tuple) else type(given).__name__.lower()
    return Listing(
        name, classes, keys, keys, ["train"] * count, targets, Items([given]), notes, task=task, single=single
    )  # fmt: skip


def _by_split(given: Mapping[Any, Any]) -> Listing:
    from .joining import join

    splits = {SPLIT_NAMES.get(str(name).lower()): part for name, part in given.items()}
    if "train" not in splits or None in splits or len(splits) < len(given):
        raise PocketError(f"images by split are {', '.join(map(str, given))}: name them train, val and test")
    listed = {str(split): _part(part) for split, part in splits.items()}
    return join(listed.pop("train"), listed)


def _part(given: Any) -> Listing:
    from . import find_images

    pair = isinstance(given, tuple) and len(given) == 2  # of arrays
    return find_images(given, None, None) if pair or isinstance(given, str | Path) else list_objects(given)


def _is_of_files(given: Any) -> bool:
    """Whether it is an ImageFolder that gives its files as they are: these need not be opened to know their labels."""
    samples, classes = getattr(given, "samples", None), getattr(given, "classes", None)
    if not (isinstance(samples, Sequence) and samples and isinstance(classes, Sequence)):
        return False
    usual: Any = sys.modules.get("torchvision.datasets.folder")
    if usual is None or not isinstance(given, usual.DatasetFolder):
        return False
    if type(given).__getitem__ is not usual.DatasetFolder.__getitem__ or given.loader is not usual.default_loader:
        return False  # it makes something else of its files
    return all(
        isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) and is_image(one[0]) for one in samples
    ) and all(isinstance(one, int) and 0 <= one < len(classes) for one in _sample_labels(given))


def _sample_labels(given: Any) -> list[Any]:
    return _transformed(given, [label for _, label in given.samples])


def _transformed(given: Any, labels: Iterable[Any]) -> list[Any]:
    """Return what the items of a dataset of torchvision have for these labels."""
    change = getattr(given, "target_transform", None)
    return list(labels) if change is None else [change(label) for label in labels]


def _of_files(given: Any) -> Listing:
    paths = [Path(path) for path, _ in given.samples]
    root = os.path.commonpath([path.parent for path in paths])
    names = [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]
    targets = np.array(_sample_labels(given), np.int64)
    classes = tuple(map(str, given.classes))
    task = "ordinal" if are_grades(classes) else "classification"
    notes = []
    if getattr(given, "transform", None) is not None:
        notes.append("the dataset's transform is left out: its files are read as they are, and views are made here")
    return Listing(
        Path(root).name, classes, names, names, ["train"] * len(names), targets, Files(paths), notes, task=task
    )  # fmt: skip


def _class_names(given: Any) -> tuple[str, ...] | None:
    names = getattr(given, "classes", None)
    features = getattr(given, "features", None)  # of Hugging Face
    if names is None and isinstance(features, Mapping):
        names = next((getattr(features[key], "names", None) for key in _LABEL if key in features), None)
    return tuple(map(str, names)) if isinstance(names, Sequence) and not isinstance(names, str) and names else None


def _labels(given: Any) -> list[Any]:
    """Return every item's label, from a column where there is one: reading the items decodes their images."""
    for name in ("targets", "labels"):  # of torchvision
        column = getattr(given, name, None)
        if column is not None and not callable(column) and len(column) == len(given):
            labels = _transformed(given, column)
            if _alike(labels[0], _label(given, 0)):
                return labels
    columns = getattr(given, "column_names", None)  # of Hugging Face
    if isinstance(columns, Sequence):
        key = next((key for key in _LABEL if key in columns), None)
        return [None] * len(given) if key is None else list(given[key])
    return [_label(given, index) for index in range(len(given))]


def _alike(label: Any, own: Any) -> bool:
    """Whether what a column says of an item is the label that the item has; True where the item cannot be read."""
    one, other = (value.tolist() if hasattr(value, "tolist") else value for value in (label, own))
    return other is None or bool(one == other)


def _label(given: Any, index: int) -> Any:
    """Return an item's label; None where the item cannot be read, which is told when its picture is."""
    try:
        item = given[index]
    except Exception:  # whatever the object's own code meets
        return None
    return _parts(item, f"item {index}")[1]


def _parts(item: Any, name: str) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        key = next((key for key in _IMAGE if key in item), None)
        if key is not None:
            return item[key], next((item[key] for key in _LABEL if key in item), None)
    elif isinstance(item, (tuple, list)) and len(item) >= 2:
        return item[0], item[1]
    elif not isinstance(item, (tuple, list)):
        return item, None
    raise PocketError(f"{name} is a {type(item).__name__} without an image: give (image, label)")


def pixels_of(item: Any, name: str) -> np.ndarray:
    """Return the pixels of an item as `decode` would; a broken image is a `BrokenImage`."""
    return as_pixels(_parts(item, name)[0], name)


def as_pixels(image: Any, name: str) -> np.ndarray:
    """Return the pixels of a path, the bytes of a file, an image of Pillow, an array [H, W(, C)] or tensor [C, H, W].

    Raises:
        PocketError: it is none of these.
    """
    if isinstance(image, Mapping) and ("bytes" in image or "path" in image):  # Hugging Face's, not decoded
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    if isinstance(image, (str, Path, bytes)):
        return decode(image, name if isinstance(image, bytes) else None)
    if isinstance(image, Image.Image):
        return from_pillow(image)
    is_tensor = type(image).__module__.split(".")[0] in ("torch", "torchvision") and hasattr(image, "numpy")
    array = image.detach().cpu().numpy() if is_tensor else np.asarray(image)
    if is_tensor and array.dtype.kind == "f":
        raise PocketError(
            f"{name} is a floating-point tensor, as a transform makes it: give the dataset without its transform "
            "(transform=None), for views are made here"
        )
    if is_tensor and array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    channels = (*array.shape, 1)[2] if array.ndim in (2, 3) else 0
    if not 1 <= channels <= 4 or not array.size or array.dtype.kind not in "uif":
        raise PocketError(
            f"{name} is an array {list(array.shape)} of {array.dtype}: give [H, W] or [H, W, C] with 1 to 4 channels."
        )
    return _narrow(array, name)


def _narrow(array: np.ndarray, name: str) -> np.ndarray:
    """Bring an array to one of `findings.DEPTHS`."""
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array, np.float32)
    if array.dtype.itemsize == 8:
        kind = "uint8" if array.min() >= 0 and array.max() < 256 else "int32" if array.min() < 0 else "uint32"
        if array.min() < np.iinfo(kind).min or array.max() > np.iinfo(kind).max:
            raise BrokenImage(name, "has values beyond 32 bits; scale them down")
        return np.ascontiguousarray(array, kind)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _targets(
    labels: list[Any], names: tuple[str, ...] | None, what: str, notes: list[str]
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return the targets ([N], -1 where unknown, or [N, C] of 0 and 1) and the names of the classes, if they have any.

    A list of one label is that label, as the datasets of the medmnist package have it.
    """
    values = [label.tolist() if hasattr(label, "tolist") else label for label in labels]
    known = [value for value in values if value is not None]
    if not known:
        return np.full(len(values), -1, np.int64), None
    if all(isinstance(value, (list, tuple)) and len(value) == 1 for value in known):
        values = [None if value is None else value[0] for value in values]
        known = [value for value in values if value is not None]
    if all(isinstance(value, str) for value in known):
        names = names or tuple(in_order(set(known)))
        index = {label: target for target, label in enumerate(names)}
        found = np.array([-1 if value is None else index.get(value, -2) for value in values], np.int64)
        if (found == -2).any():
            raise PocketError(f"item {np.flatnonzero(found == -2)[0]} of the {what} has a label that is no class of it")
    elif all(isinstance(value, (list, tuple)) for value in known):
        count = len(known[0])
        if any(len(value) != count for value in known):
            raise PocketError(f"the labels of the {what} are lists: give each image as many, of 0 and 1")
        given = np.array([value if value is not None else [-1] * count for value in values])
        found = one_of_many(_checked_labels(given, what), notes)
    elif all(isinstance(value, (int, float)) for value in known):
        odd = next((value for value in known if not (math.isfinite(value) and value == int(value))), None)
        if odd is not None:
            raise PocketError(
                f"the labels of the {what} are numbers, and {odd} is no class: give whole numbers from 0, texts, or "
                "lists of 0 and 1; None where a label is not known"
            )
        found = np.array([-1 if value is None else int(value) for value in values], np.int64)
        if found.min() < -1:
            raise PocketError(f"the {what} has the label {found.min()}: number classes from 0, and -1 for unknown")
        if names is not None and found.max() >= len(names):
            raise PocketError(f"the {what} has the label {found.max()}, and only {len(names)} classes with names")
    elif any(isinstance(value, Mapping) for value in known):
        raise PocketError(
            f"the labels of the {what} are dictionaries, as those of boxes are: give the folder with their annotations "
            "(COCO JSON, Pascal VOC XML, or YOLO txt with data.yaml)"
        )
    else:
        raise PocketError(f"the labels of the {what} are of several kinds: give numbers, or texts, or lists of 0 and 1")
    return found, names


def _checked_labels(given: np.ndarray, what: str) -> np.ndarray:
    if given.dtype.kind not in "iufb" or given.ndim != 2 or not np.isin(given, (-1, 0, 1)).all():
        raise PocketError(f"the labels of the {what} are lists: give each image as many, of 0 and 1")
    return given.astype(np.int64)
