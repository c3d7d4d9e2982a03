"""Pascal VOC: an XML file per image, with ``bndbox`` corners in pixels.

As users have it: ``Annotations/``, ``JPEGImages/`` and lists in ``ImageSets/Main/``; split folders with XML beside the
images; or one folder of both. Corners are taken as they stand, as today's tools write them. (The first Pascal VOC
counted pixels from 1 and both ends in, which is up to a pixel away.)
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from ..errors import PocketError
from .boxes import DIFFICULT
from .detection import ABSENT, LEAVES, Annotated, Found, inside
from .folders import SPLIT_NAMES, find_files, is_image, normalized

_ANNOTATIONS = "[Aa]nnotations"
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def find_voc(folder: Path) -> Path | None:
    """Return the folder that holds VOC annotations: ``folder``, its parent (for ``Annotations``), or the one inside."""
    if folder.name in ("Annotations", "annotations"):
        folder = folder.parent
    inner = [*folder.glob(f"*/{_ANNOTATIONS}"), *folder.glob(f"VOCdevkit/*/{_ANNOTATIONS}")]
    inner = [place for place in inner if place.parent.name.lower() not in SPLIT_NAMES]
    places = [*folder.glob(_ANNOTATIONS)]
    if not places and len(inner) == 1:
        folder, places = inner[0].parent, inner
    splits = [entry for entry in folder.iterdir() if entry.is_dir() and entry.name.lower() in SPLIT_NAMES]
    places += [*splits, *(place for split in splits for place in split.glob(_ANNOTATIONS)), folder]
    for place in places:
        first = next(iter(sorted(place.glob("*.xml"))), None) if place.is_dir() else None
        if first is not None and _is_voc(first):
            return folder
    return None


def _is_voc(path: Path) -> bool:
    return b"<annotation" in path.read_bytes()[:4096]


def read_voc(folder: Path) -> Found:
    """Read a folder's XML files; the classes are the names in them, sorted.

    Raises:
        PocketError: An image is in the lists of two splits.
    """
    files = {name: path for name, path in find_files(folder).items()}
    documents = {name: path for name, path in files.items() if name.lower().endswith(".xml")}
    pictures = {name: path for name, path in files.items() if is_image(name)}
    found = Found(folder, (), [])
    by_stem: dict[str, list[str]] = {}
    for name in pictures:
        by_stem.setdefault(PurePosixPath(name).stem, []).append(name)
    lists = _lists(folder)
    boxes: list[tuple[Annotated, str, Any]] = []
    taken: set[str] = set()
    unlisted = 0
    for name, path in documents.items():
        stem = PurePosixPath(name).stem
        if lists and stem not in lists:
            unlisted += 1
            taken.add(stem)
            continue
        try:
            root = defusedxml.ElementTree.parse(path, forbid_dtd=True).getroot()
        except DefusedXmlException:
            found.broken.append((name, "declares a DTD or entities, which are never resolved; remove the declaration"))
            taken.add(stem)
            continue
        except (ParseError, OSError, ValueError) as error:
            found.broken.append((name, f"cannot be read as XML ({error})"))
            taken.add(stem)
            continue
        if root.tag != "annotation":
            continue
        taken.add(stem)
        picture = _picture(folder, name, root, by_stem)
        if picture not in pictures:
            found.broken.append((name, picture))
            continue
        split = lists[stem] if lists else _split_of(picture)
        image = Annotated(picture, pictures[picture], split, size=_size(root))
        found.images.append(image)
        boxes += [(image, _text(entry, "name"), entry) for entry in root.iter("object")]
    _add_unlabelled(found, pictures, by_stem, lists, taken)
    if unlisted:
        found.notes.append(f"{unlisted:,} annotations of {folder.name} are in no list of ImageSets and were left out")
    _add_boxes(found, boxes)
    return found


def _add_boxes(found: Found, boxes: list[tuple[Annotated, str, Element]]) -> None:
    names = sorted({name for _, name, _ in boxes if name})
    numbers = {name: number for number, name in enumerate(names)}
    found.classes = tuple(names)
    nameless = 0
    for image, name, entry in boxes:
        if not name:
            nameless += 1
            continue
        left, top, right, bottom = (_number(entry.find(f"bndbox/{side}")) for side in _SIDES)
        difficult = DIFFICULT if _text(entry, "difficult") == "1" else 0
        image.add((left, top, right, bottom), numbers[name], difficult)
    if nameless:
        found.notes.append(f"{nameless:,} boxes have no class name and were left out")


def _add_unlabelled(
    found: Found, pictures: dict[str, Path], by_stem: dict[str, list[str]], lists: dict[str, str], taken: set[str]
) -> None:
    """Add images that a list names without an XML file: nobody has said what they show."""
    count = 0
    for stem, split in lists.items():
        if stem in taken:
            continue
        names = by_stem.get(stem, [])
        if len(names) == 1:
            found.images.append(Annotated(names[0], pictures[names[0]], split, known=False))
            count += 1
        else:
            found.broken.append((stem, ABSENT.format(f"the {split} list of ImageSets")))
    if count:
        found.notes.append(f"{count:,} images of the lists have no annotation: they count as unlabelled")
    others = sum(PurePosixPath(name).stem not in taken and PurePosixPath(name).stem not in lists for name in pictures)
    if others:
        found.notes.append(f"{others:,} images have no annotation and were left out")


def _lists(folder: Path) -> dict[str, str]:
    """Return the split of each image's stem by ``ImageSets``; {} where there are no lists."""
    places = [folder / "ImageSets" / "Main", folder / "ImageSets"]
    place = next((place for place in places if any(place.glob("*.txt"))), None)
    if place is None:
        return {}
    found = {path.stem.lower(): path for path in sorted(place.glob("*.txt"))}
    named = {split: path for stem, path in found.items() if (split := SPLIT_NAMES.get(stem)) is not None}
    if "trainval" in found and "train" not in named:
        named["train"] = found["trainval"]
    result: dict[str, str] = {}
    for split, path in named.items():
        for line in path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines():
            if not line.strip():
                continue
            # A list of one class has 1, 0 or -1 behind each name, and names may have spaces.
            stem = PurePosixPath(normalized(re.sub(r"\s+-?[01]$", "", line.strip()).replace("\\", "/"))).name
            stem = PurePosixPath(stem).stem if is_image(stem) or stem.endswith(".xml") else stem
            if result.setdefault(stem, split) != split:
                raise PocketError(f"{stem} is in the lists of {result[stem]} and of {split} in {place}: keep one")
    return result


def _picture(folder: Path, name: str, root: Element, by_stem: dict[str, list[str]]) -> str:
    """Return the name of an annotation's image, or why there is none."""
    stem, place = PurePosixPath(name).stem, PurePosixPath(name).parent
    given = _text(root, "filename").replace("\\", "/")
    if given and not given.startswith("/") and inside(folder, folder / place, given) is None:
        return LEAVES
    names = by_stem.get(stem) or by_stem.get(PurePosixPath(given).stem) or []
    beside = [other for other in names if PurePosixPath(other).parent == place]
    mirrored = [other for other in names if _tail(other) == _tail(name)]
    for some in (beside, mirrored, names):
        if len(some) == 1:
            return some[0]
    return f"fits {len(names)} images: give each image a name of its own" if names else "has no image"


def _tail(name: str) -> tuple[str, ...]:
    """Return a path without its ending and the folder of its kind: Annotations/a/x.xml -> (a, x)."""
    parts = PurePosixPath(name).with_suffix("").parts
    return tuple(part for part in parts if part.lower() not in ("annotations", "jpegimages", "images"))


def _split_of(name: str) -> str:
    words = [SPLIT_NAMES[part.lower()] for part in PurePosixPath(name).parts[:-1] if part.lower() in SPLIT_NAMES]
    return words[0] if words else "train"


def _size(root: Element) -> tuple[int, int] | None:
    height, width = (_number(root.find(f"size/{side}")) for side in ("height", "width"))
    return (int(height), int(width)) if height > 0 and width > 0 else None  # some tools write 0


def _text(entry: Element, path: str) -> str:
    return (entry.findtext(path) or "").strip()


def _number(entry: Element | None) -> float:
    try:
        return float((entry.text or "").strip()) if entry is not None else float("nan")
    except ValueError:
        return float("nan")
