"""Images with boxes: COCO JSON, Pascal VOC XML, YOLO txt. Each reader says what is written; here it becomes a listing.

The same images with the same boxes give the same listing in all three formats: keys, order, splits, classes, corners.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import PocketError
from .base import SPLITS, in_threads
from .boxes import Boxes, offsets_of
from .decode import FORMATS, decode
from .folders import normalized
from .listing import Files, Listing

Size = tuple[int, int]


@dataclass
class Annotated:
    """One image as an annotation names it.

    Attributes:
        name: Path relative to what was opened, for people.
        path: Of the file.
        split: "train", "val" or "test".
        corners: (left, top, right, bottom) of each box, in pixels, or as shares of the sides (`Found.relative`).
        labels: Class of each box.
        flags: See `boxes.Boxes`.
        size: (height, width) that the annotation gives, or None.
        known: Whether there is an annotation.
    """

    name: str
    path: Path
    split: str
    corners: list[tuple[float, float, float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    size: Size | None = None
    known: bool = True

    def add(self, corners: tuple[float, float, float, float], label: int, flags: int = 0) -> None:
        """Add a box."""
        self.corners.append(corners)
        self.labels.append(label)
        self.flags.append(flags)


@dataclass
class Found:
    """What a reader found.

    Attributes:
        folder: Where the images are.
        classes: Names, in the order of the annotations.
        images: In any order.
        relative: Whether corners are shares of the sides.
        notes: To be said.
        broken: (name, why) of images that are left out.
        numbers: Number of each class in the annotations; {} where they have none.
    """

    folder: Path
    classes: tuple[str, ...]
    images: list[Annotated]
    relative: bool = False
    notes: list[str] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)


def find_detection(path: Path) -> Callable[[], Listing] | None:
    """Return what lists the images of ``path`` with their boxes, or None where they have none.

    Args:
        path: A COCO JSON file, a YOLO ``data.yaml``, or a folder that holds such a file or VOC annotations.

    Raises:
        PocketError: A folder has annotations in several formats.
    """
    from .coco import find_coco, read_coco
    from .voc import find_voc, read_voc
    from .yolo import find_yolo, read_yolo

    if path.is_file():
        if path.suffix.lower() == ".json":
            folder = path.parent.parent if path.parent.name == "annotations" else path.parent
            return lambda: as_listing(read_coco(folder, [path]))
        if path.suffix.lower() in (".yaml", ".yml"):
            return lambda: as_listing(read_yolo(path))
        return None
    ways: dict[str, Callable[[], Found]] = {}
    documents = find_coco(path)
    if documents:
        ways[f"COCO ({documents[0].name})"] = lambda: read_coco(path, documents)
    voc = find_voc(path)
    if voc is not None:
        ways["Pascal VOC (XML)"] = lambda: read_voc(voc)
    yaml = find_yolo(path)
    if yaml is not None:
        ways[f"YOLO ({yaml.name})"] = lambda: read_yolo(yaml)
    if len(ways) > 1:
        raise PocketError(
            f"{path} has boxes in several formats: {', '.join(ways)}. Give the JSON or YAML file that is meant, or "
            "move the other annotations away"
        )
    return next((lambda read=read: as_listing(read()) for read in ways.values()), None)


def as_listing(found: Found) -> Listing:
    """Check every box against its image and return the listing.

    Boxes without area, outside their image or with numbers that are none are left out and counted; what reaches beyond
    the image is cut off. Images in a size other than the annotation's are left out.

    Raises:
        PocketError: No image, no box, or no class is left.
    """
    if not found.images:
        examples = "; ".join(f"{name} {why}" for name, why in found.broken[:3])
        raise PocketError(f"the annotations in {found.folder} name no image that is there. {examples}".strip())
    if not found.classes:
        raise PocketError(f"the annotations in {found.folder} name no class: nothing can be detected")
    sizes = in_threads(lambda image: upright_size(image.path), found.images)
    _leave_out_resized(found, sizes)
    keys = _keys(found.images)
    classes = _by_name(found)
    order = sorted(range(len(keys)), key=lambda row: (SPLITS.index(found.images[row].split), keys[row]))
    images = [found.images[row] for row in order]
    truth = _cleaned(found, images, [sizes[row] or (0, 0) for row in order])
    if not truth.known.any() or not len(truth.labels):
        raise PocketError(
            f"no image of {found.folder} has a box: there is nothing to learn. "
            + (found.notes[-1] if found.notes else "Check that labels stand where they belong")
        )
    empty = int((truth.known & (truth.counts == 0)).sum())
    if empty:
        found.notes.append(f"{empty:,} images without objects are kept: they teach what is none")
    return Listing(
        name=found.folder.resolve().name or "images",
        classes=classes,
        names=[image.name for image in images],
        keys=[keys[row] for row in order],
        splits=[image.split for image in images],
        targets=truth,
        images=Files([image.path for image in images]),
        notes=found.notes,
        broken=found.broken,
        task="detection",
        numbers=found.numbers,
    )


def _by_name(found: Found) -> tuple[str, ...]:
    """Return the classes by name, and number the boxes so: each format has an order of its own, and some have none."""
    classes = tuple(sorted(found.classes))
    numbers = [classes.index(name) for name in found.classes]
    for image in found.images:
        image.labels = [numbers[label] for label in image.labels]
    return classes


def upright_size(path: Path) -> Size | None:
    """Return (height, width) of an image as it is shown, from its header if possible; None where it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            # The size of a TIFF is as it is shown in some versions of Pillow, as it is stored in others.
            width, height = image.size
            if isinstance(image, TiffImageFile):
                width, height = image.tag_v2[256], image.tag_v2[257]
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (width, height) if turned else (height, width)
    except Exception:  # whatever Pillow raises of a damaged file, or of HEIC and DICOM, which other packages read
        pass
    try:
        height, width = decode(path).shape[:2]
    except Exception:  # the checks of the pixels will say it
        return None
    return height, width


def inside(folder: Path, start: Path, name: str) -> Path | None:
    """Return the file ``name`` as seen from ``start``, below ``folder`` as that is written; None where it leaves it."""
    path = Path(os.path.abspath(start / name.replace("\\", "/")))
    for here in (os.path.abspath(folder), os.path.realpath(folder)):  # absolute names may have either
        if path.is_relative_to(here):
            return folder / path.relative_to(here)
    return None


LEAVES = "leaves the folder of its annotations; move the image into it"
ABSENT = "is named in {} but is not there"


def _keys(images: Sequence[Annotated]) -> list[str]:
    """Return what each image is known by: its file name where no other of its split has the same, else its path."""
    names = [normalized(PurePosixPath(image.name).name) for image in images]
    counts = Counter(zip((image.split for image in images), names, strict=True))
    return names if max(counts.values()) == 1 else [normalized(image.name) for image in images]


def _leave_out_resized(found: Found, sizes: list[Size | None]) -> None:
    """Take out images whose boxes were measured in another size, with their ``sizes``."""
    wrong = [row for row, image in enumerate(found.images) if image.size and sizes[row] and image.size != sizes[row]]
    for row in wrong:
        (height, width), (h, w) = sizes[row], found.images[row].size  # type: ignore[misc]
        turned = " (it is turned by its EXIF orientation)" if (h, w) == (width, height) else ""
        found.broken.append(
            (found.images[row].name, f"is {width}x{height}{turned}, but its boxes were measured in {w}x{h}")
        )
    if len(wrong) == len(found.images):
        name, why = found.broken[-1]
        raise PocketError(f"no image of {found.folder} has the size that its annotation gives: {name} {why}")
    for row in reversed(wrong):
        del found.images[row], sizes[row]


def _cleaned(found: Found, images: Sequence[Annotated], sizes: Sequence[Size]) -> Boxes:
    counts = np.array([len(image.labels) for image in images])
    owner = np.repeat(np.arange(len(images)), counts)
    corners = np.array([box for image in images for box in image.corners], np.float64).reshape(-1, 4)
    labels = np.array([label for image in images for label in image.labels], np.int64)
    flags = np.array([flag for image in images for flag in image.flags], np.uint8)
    frames = np.array(sizes, np.float64).reshape(-1, 2)[owner][:, [1, 0, 1, 0]]
    if found.relative:
        corners = corners * frames
    finite: np.ndarray = np.all(np.isfinite(corners), axis=1)
    clipped = np.clip(np.where(finite[:, None], corners, 0), 0, frames)
    seen = frames[:, 0] > 0  # the others' images are broken, and go with all their boxes
    flat = finite & np.any(corners[:, 2:] <= corners[:, :2], axis=1)
    outside = finite & ~flat & np.any(clipped[:, 2:] <= clipped[:, :2], axis=1)
    rows = np.column_stack((owner, labels, np.round(clipped, 3)))
    first = np.zeros(len(rows), bool)
    first[np.unique(rows, axis=0, return_index=True)[1]] = True
    good = finite & ~flat & ~outside
    reasons = (
        (~finite, "with numbers that are not finite"),
        (flat, "of zero or negative size"),
        (outside, "outside their image"),
        (good & ~first, "that stand twice"),
    )
    for bad, what in reasons:
        _note(found, images, owner, bad & seen, f"{{}} {what} {{}} left out")
    beyond = good & seen & np.any(np.abs(corners - clipped) > 1, axis=1)
    _note(found, images, owner, beyond, "{} that reach beyond their image {} cut off at its border")
    keep = good & first & seen
    return Boxes(
        offsets=offsets_of(np.bincount(owner[keep], minlength=len(images))),
        corners=clipped[keep].astype(np.float32),
        labels=labels[keep],
        flags=flags[keep],
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        known=np.array([image.known for image in images], bool),
    )


def _note(found: Found, images: Sequence[Annotated], owner: np.ndarray, rows: np.ndarray, what: str) -> None:
    count = int(rows.sum())
    if count:
        said = what.format(f"{count:,} {'box' if count == 1 else 'boxes'}", "was" if count == 1 else "were")
        found.notes.append(f"{said} ({images[owner[rows.argmax()]].name} first)")
