"""COCO's JSON: ``images``, ``categories``, and ``annotations`` with ``bbox`` = left, top, width, height in pixels.

As users have it: one file beside its images, one per split in ``annotations/`` with images in folders named after the
splits, or one in each split's folder (as Roboflow exports it).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import PocketError
from .boxes import CROWD
from .detection import ABSENT, LEAVES, Annotated, Found, inside
from .folders import SPLIT_NAMES, find_files, is_image, normalized

_PARTS = ("images", "annotations", "categories")
_BEYOND = 0.1  # share of boxes beyond their image from which corners are taken to be meant


def find_coco(folder: Path) -> list[Path]:
    """Return a folder's COCO files with boxes: beside it, in ``annotations/``, or in its split folders."""
    places = [folder, folder / "annotations", *(folder / name for name in _split_folders(folder))]
    found = [path for place in places if place.is_dir() for path in sorted(place.glob("*.json")) if _is_coco(path)]
    # the full COCO has captions and keypoints of the same images beside the boxes
    return [path for path in found if path.name.startswith("instances")] or found


def _split_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [entry.name for entry in sorted(folder.iterdir()) if entry.is_dir() and entry.name.lower() in SPLIT_NAMES]


def _is_coco(path: Path) -> bool:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and all(isinstance(document.get(part), list) for part in _PARTS)


def coco_names(images: Any) -> tuple[dict[Any, set[str]], dict[Any, str]]:
    """Return file names by image id and class names by category id, of images that were opened as COCO; else empty.

    An id has several names where several files number their images anew, as Roboflow's do for each split.
    """
    path = Path(images).expanduser() if isinstance(images, str | Path) else None
    if path is None or not path.exists():
        return {}, {}
    documents = find_coco(path) if path.is_dir() else [path] if path.suffix.lower() == ".json" else []
    loaded = {document: _load(document) for document in documents}
    names: dict[Any, set[str]] = {}
    for document in loaded.values():
        for image in document["images"]:
            names.setdefault(image["id"], set()).add(str(image["file_name"]))
    return names, _classes(loaded) if loaded else {}


def read_coco(folder: Path, documents: list[Path]) -> Found:
    """Read COCO files, one per split (a single one is training).

    Raises:
        PocketError: Not COCO, two files for one split, ids that stand twice, or categories that differ.
    """
    splits = {path: _split_of(path) if len(documents) > 1 else "train" for path in documents}
    for split, count in Counter(splits.values()).items():
        if count > 1:
            names = " and ".join(path.name for path, other in splits.items() if other == split)
            raise PocketError(
                f"{folder} has {names}, which all mean {split}: give the one that is meant, or rename them"
            )
    loaded = {path: _load(path) for path in documents}
    classes = _classes(loaded)
    found = Found(folder, tuple(classes.values()), [], numbers={name: key for key, name in classes.items()})
    numbers = {key: number for number, key in enumerate(classes)}
    files = {name: path for name, path in find_files(folder).items() if is_image(name)}
    named: set[Path] = set()
    for path, document in loaded.items():
        named |= _read(found, path, document, splits[path], numbers, files)
    left = len(set(files.values()) - named)
    if left:
        found.notes.append(f"{left:,} images in {folder.name} are in no annotation file and were left out")
    return found


def _split_of(path: Path) -> str:
    """Return the split that a file's name, or its folder's, speaks of."""
    for text in (path.stem, path.parent.name):
        for word in re.findall(r"[a-z]+", text.lower()):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    raise PocketError(
        f"it cannot be told which split {path} is of, and there are others beside it: put train, val or test into its "
        "name, or give one file"
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise PocketError(f"there is no {path}: give a COCO JSON file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise PocketError(f"{path} cannot be read as JSON ({error})") from error
    missing = [part for part in _PARTS if not isinstance(document, dict) or not isinstance(document.get(part), list)]
    if missing:
        raise PocketError(f"{path} is no COCO annotation: it has no list of {', '.join(missing)}")
    return document


def _classes(loaded: dict[Path, dict[str, Any]]) -> dict[Any, str]:
    """Return the names by category id, in the order of the ids."""
    result: dict[Any, str] = {}
    for path, document in loaded.items():
        here: dict[Any, str] = {}
        for category in document["categories"]:
            try:
                key, name = int(category["id"]), str(category["name"]).strip()
            except (TypeError, KeyError, ValueError) as error:
                raise PocketError(f"{path} has a category without id and name: {category!r}") from error
            if key in here and here[key] != name:
                raise PocketError(f"{path} has the category id {key} twice: {here[key]!r} and {name!r}")
            here[key] = name
        # Roboflow puts a parent of all classes before them, which no box is of
        parents = {str(category.get("supercategory")) for category in document["categories"]}
        used = {str(note.get("category_id")) for note in document["annotations"] if isinstance(note, dict)}
        here = {key: name for key, name in here.items() if str(key) in used or name not in parents or len(here) == 1}
        if result and {*here.items()} - {*result.items()} and {*result.items()} - {*here.items()}:
            raise PocketError(
                f"{path} has other categories than {next(iter(loaded))}: use the same ids and names in both"
            )
        result |= here
    twice = [name for name, count in Counter(result.values()).items() if count > 1]
    if twice:
        raise PocketError(f"the category {twice[0]!r} has two ids in {', '.join(map(str, loaded))}: keep one")
    return dict(sorted(result.items()))


def _read(
    found: Found, path: Path, document: dict[str, Any], split: str, numbers: dict[Any, int], files: dict[str, Path]
) -> set[Path]:
    """Add a file's images and boxes; return the image files that it names."""
    images: dict[Any, Annotated | None] = {}
    given: dict[str, Any] = {}
    named = set()
    for entry in document["images"]:
        try:
            key, name = entry["id"], str(entry["file_name"])
            hash(key)
        except (TypeError, KeyError) as error:
            raise PocketError(f"{path} has an image without id and file_name: {entry!r}") from error
        if key in images:
            raise PocketError(f"{path} has the image id {key} twice ({name} the second time): boxes could be of either")
        if name in given:
            raise PocketError(f"{path} names {name} twice, with the ids {given[name]} and {key}: keep one")
        given[name] = key
        images[key] = None
        file = _file(found.folder, path, name, split, files)
        if isinstance(file, str):
            found.broken.append((name, file))
            continue
        named.add(file)
        shown = normalized(str(file.relative_to(found.folder)))
        images[key] = Annotated(shown, file, split, size=_size(entry, path))
        found.images.append(images[key])  # type: ignore[arg-type]
    _add_boxes(found, path, document, images, numbers)
    return named


def _size(entry: dict[str, Any], path: Path) -> tuple[int, int] | None:
    """Return (height, width) by an image's entry; None where it does not say."""
    width, height = entry.get("width"), entry.get("height")
    if not width or not height:
        return None
    try:
        return int(height), int(width)
    except (TypeError, ValueError, OverflowError) as error:
        raise PocketError(f"{path} has an image whose width and height are no numbers: {entry!r:.200}") from error


def _add_boxes(
    found: Found, path: Path, document: dict[str, Any], images: dict[Any, Annotated | None], numbers: dict[Any, int]
) -> None:
    homeless, unknown, shared = 0, Counter[str](), 0
    read: list[tuple[Annotated, tuple[float, float, float, float]]] = []
    ids: set[Any] = set()
    for note in document["annotations"]:
        try:
            image, category, own = note["image_id"], note["category_id"], note.get("id")
            hash((image, category, own))
            left, top, width, height = (float("nan") if side is None else float(side) for side in _bbox(note))
            category = int(category) if str(category).isdecimal() else category  # ids of categories are numbers here
        except (TypeError, KeyError, ValueError) as error:
            raise PocketError(
                f"{path} has an annotation without image_id, category_id and bbox: {note!r:.200}"
            ) from error
        shared += own in ids
        ids.add(own)
        if image not in images:
            homeless += 1
        elif category not in numbers:
            unknown[str(category)] += 1
        elif (annotated := images[image]) is not None:
            crowd = CROWD if note.get("iscrowd") else 0
            annotated.add((left, top, left + width, top + height), numbers[category], crowd)
            read.append((annotated, (left, top, width, height)))
    _check_corners(path, read)
    if homeless:
        found.notes.append(f"{homeless:,} boxes in {path.name} are of images that it does not list: left out")
    if unknown:
        which = ", ".join(key for key, _ in unknown.most_common(3))
        found.notes.append(f"{unknown.total():,} boxes in {path.name} are of unknown categories ({which}): left out")
    if shared and len(ids) > 1:
        found.notes.append(f"{shared:,} boxes in {path.name} share their id with another: ids of boxes are not used")


def _bbox(note: dict[str, Any]) -> Sequence[Any]:
    """Return left, top, width, height of an annotation; where only outlines stand, of what encloses them."""
    outlines = note.get("segmentation")
    if note.get("bbox") or not isinstance(outlines, list) or not outlines:
        return note["bbox"]
    x, y = ([float(at) for outline in outlines for at in outline[first::2]] for first in (0, 1))
    return min(x), min(y), max(x) - min(x), max(y) - min(y)


def _check_corners(path: Path, boxes: list[tuple[Annotated, tuple[float, float, float, float]]]) -> None:
    """Refuse boxes given as two corners: as left, top, width, height these would be others, and not all impossible.

    Raises:
        PocketError: All are corners inside their images, and some reach beyond these if read as COCO means them.
    """
    sized = [(image.size, box) for image, box in boxes if image.size is not None]
    corners = all(x < right <= size[1] and y < low <= size[0] for size, (x, y, right, low) in sized)
    beyond = sum(x + width > size[1] + 1 or y + height > size[0] + 1 for size, (x, y, width, height) in sized)
    if corners and beyond > len(sized) * _BEYOND:
        raise PocketError(
            f"the bbox of all {len(sized):,} annotations in {path} look like left, top, right, bottom ({beyond:,} of "
            "them reach beyond their image otherwise): COCO's are left, top, width, height. Convert them"
        )


def _file(folder: Path, document: Path, name: str, split: str, files: dict[str, Path]) -> Path | str:
    """Return an image's file, or why there is none."""
    words = _folder_names(document, split)
    places = [
        *(document.parent, document.parent / "images"),
        *(folder / place / word for place in ("", "images") for word in words),
        *(folder / "images", folder),
    ]
    candidates = [path for place in places if (path := inside(folder, place, name)) is not None]
    away = not candidates
    if away and not name.startswith("/"):
        return LEAVES
    for path in candidates:
        if path.is_file():
            return path
    # absolute paths are of the machine that wrote them, too; the same name in another split's folder is another image
    alike = [
        file
        for other, file in files.items()
        if other.rsplit("/", 1)[-1] == normalized(name).rsplit("/", 1)[-1]
        and all(SPLIT_NAMES.get(part.lower(), split) == split for part in other.split("/")[:-1])
    ]
    if len(alike) == 1:
        return alike[0]
    if alike:
        return f"is named in {document.name} and fits {len(alike)} files"
    return LEAVES if away else ABSENT.format(document.name)


def _folder_names(document: Path, split: str) -> list[str]:
    """Return how the folder of a split may be called: instances_train2017 -> train2017, train, training."""
    named = re.findall(r"[A-Za-z]+\d*", document.stem)
    return [*(word for word in named if word.rstrip("0123456789").lower() in SPLIT_NAMES)] + [
        name for name, meant in SPLIT_NAMES.items() if meant == split
    ]
