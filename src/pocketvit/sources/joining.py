"""Images beside images: a validation or test set of its own, and images without labels, joined before any check."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..errors import PocketError
from .arrays import TAKEN_AS_CLASSES
from .base import in_threads
from .boxes import Boxes
from .detection import upright_size
from .listing import Arrays, Files, Items, Listing
from .targets import Targets, one_hot, several


def join(listing: Listing, others: dict[str, Listing]) -> Listing:
    """Return one listing of several.

    Args:
        listing: The first; its classes are everybody's.
        others: By what they are: "val" and "test" become these splits: their own one of that name where they have it,
            else all of them; "unlabelled" joins the training images, without labels.

    Raises:
        PocketError: A class that the first does not have, another kind of images, a split that is given twice.
    """
    for role, other in others.items():
        split = "train" if role == "unlabelled" else role
        keys = [f"{role}/{where}/{key}" for where, key in zip(other.splits, other.keys, strict=True)]
        if split != "train" and split in listing.splits:
            raise PocketError(
                f"{listing.name} has a {split} split of its own, and --{split} names another ({other.name}). Leave one "
                "of them away."
            )
        own = role in other.splits and len(set(other.splits)) > 1
        taken = [split if not own or where == role else "" for where in other.splits]
        whole = f" (its {role} split, of {len(other):,})" if own else ""
        notes = [*other.notes, f"{role}: {taken.count(split):,} images of {other.name}{whole}"]
        if role != "unlabelled" and several(other.targets) and listing.task == "classification" and listing.classes:
            listing = _as_labels(listing)
        if listing.groups is not None and other.groups is None:
            notes.append(
                f"warning: nothing says which {listing.group} the images of --{role} are of: one may be in training too"
            )
        listing = dataclasses.replace(
            listing,
            names=[*listing.names, *(f"{other.name}/{name}" for name in other.names)],
            keys=[*listing.keys, *keys],
            splits=[*listing.splits, *taken],
            targets=_joined(listing, other, role),
            images=_images(listing, other),
            groups=None if listing.groups is None else [*listing.groups, *(other.groups or [""] * len(other))],
            named=listing.named if role == "unlabelled" else {**listing.named, split: other.name},
            notes=[*listing.notes, *notes],
            whose=listing.whose if role == "unlabelled" else _both(listing, other, role),
            broken=[*listing.broken, *other.broken],
        )
    return listing


def _both(listing: Listing, other: Listing, role: str) -> str:
    return f"{listing.whose or listing.name} and {other.name} (--{role})"


def _as_labels(listing: Listing) -> Listing:
    """Return a listing whose images have one label each by chance: those of another split have several."""
    notes = [note for note in listing.notes if not note.endswith(TAKEN_AS_CLASSES)]
    return dataclasses.replace(
        listing, targets=one_hot(listing.targets, len(listing.classes)), task="multilabel", notes=notes
    )


def _joined(listing: Listing, other: Listing, role: str) -> Targets:
    """The targets of both, in the first one's classes."""
    if isinstance(listing.targets, Boxes):
        return Boxes.joined([listing.targets, _boxes(listing, other, role)])
    return np.concatenate([listing.targets, _targets(listing, other, role)])


def _boxes(listing: Listing, other: Listing, role: str) -> Boxes:
    """The other's boxes in the first one's classes."""
    if role == "unlabelled":
        return Boxes.nobody_looked(_sizes(other))
    if not isinstance(other.targets, Boxes):
        raise PocketError(
            f"--{role}: {other.name} has no boxes, and {listing.name} has. Give images with their annotations (COCO "
            "JSON, Pascal VOC XML, or YOLO txt with data.yaml), or their JSON or YAML file."
        )
    places = _places(listing, other, role)
    return dataclasses.replace(other.targets, labels=places[other.targets.labels])


def _sizes(listing: Listing) -> np.ndarray:
    """Heights and widths of the images, int32 [N, 2]; 0 of those that cannot be read, which the checks leave out."""
    if isinstance(listing.targets, Boxes):
        return listing.targets.sizes
    images = listing.images
    if isinstance(images, Files):
        found = [size or (0, 0) for size in in_threads(upright_size, images.paths)]
    elif isinstance(images, Arrays):
        found = [part.shape[1:3] for part in images.parts for _ in part]
    else:
        found = [(0, 0)] * len(listing)  # boxes lie in files and arrays: `_images` refuses to join these
    return np.array(found, np.int32).reshape(-1, 2)


def _targets(listing: Listing, other: Listing, role: str) -> np.ndarray:
    """The other's labels in the first one's classes."""
    shape = (len(other), *listing.targets.shape[1:])
    if role == "unlabelled":
        return np.full(shape, -1, np.int64)
    places = _places(listing, other, role)
    if not other.classes:
        return np.full(shape, -1, np.int64)
    if isinstance(other.targets, Boxes):
        raise PocketError(f"--{role}: {other.name} has boxes, and {listing.name} has none.")
    if several(listing.targets):
        given = one_hot(other.targets, len(other.classes))
        targets = np.zeros(shape, np.int64)
        targets[:, places] = given
        targets[(given < 0).any(1)] = -1
        return targets
    return np.where(other.targets >= 0, places[other.targets.clip(min=0)], -1)


def _places(listing: Listing, other: Listing, role: str) -> np.ndarray:
    """Where the other's classes stand among the first one's, int64 [C']."""
    missing = [name for name in other.classes if name not in listing.classes]
    if missing:
        raise PocketError(
            f"--{role}: {other.name} has the class {missing[0]!r}, which {listing.name} does not have "
            f"({', '.join(listing.classes[:8])}). Name the classes alike."
        )
    return np.array([listing.classes.index(name) for name in other.classes], np.int64)


def _images(listing: Listing, other: Listing) -> Files | Arrays | Items:
    one, two = listing.images, other.images
    if isinstance(one, Files) and isinstance(two, Files):
        return Files([*one.paths, *two.paths])
    if isinstance(one, Items) and isinstance(two, Items):
        return Items([*one.parts, *two.parts])
    if isinstance(one, Arrays) and isinstance(two, Arrays):
        shapes = {part.shape[1:] for part in (*one.parts, *two.parts)}
        if len(shapes) == 1 and len({part.dtype for part in (*one.parts, *two.parts)}) == 1:
            return Arrays([*one.parts, *two.parts])
        raise PocketError(f"{listing.name} and {other.name} hold arrays of different shapes or types: give folders.")
    raise PocketError(f"{listing.name} and {other.name} are of different kinds (files and arrays): give two folders.")
