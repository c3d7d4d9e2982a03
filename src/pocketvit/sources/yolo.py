"""YOLO: ``data.yaml`` with the splits and names, and a txt file per image with lines ``class cx cy width height``.

Coordinates are shares of the image's sides. Labels stand in ``labels/`` beside ``images/``, or beside the images. A
line with more numbers is an outline, whose box is taken. An image without a txt file shows no object.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import PocketError
from .base import SPLITS
from .detection import ABSENT, LEAVES, Annotated, Found, inside
from .folders import SPLIT_NAMES, find_files, is_image, normalized

_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def find_yolo(folder: Path) -> Path | None:
    """Return a folder's YAML file that lists classes and splits."""
    usual = [folder / name for name in _NAMES]
    others = sorted(path for ending in ("*.yaml", "*.yml") for path in folder.glob(ending) if path not in usual)
    return next((path for path in (*usual, *others) if path.is_file() and _is_yolo(path)), None)


def _is_yolo(path: Path) -> bool:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(document, dict) and "names" in document and "train" in document


def yolo_names(images: Any) -> tuple[str, ...]:
    """Return the class names in the order of the YAML file, of images that were opened as YOLO; else ()."""
    path = Path(images).expanduser() if isinstance(images, str | Path) else None
    if path is not None and path.is_dir():
        path = find_yolo(path)
    if path is None or path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
        return ()
    return _classes(path, _load(path))


def read_yolo(path: Path) -> Found:
    """Read a YAML file and the txt files that it leads to.

    Raises:
        PocketError: No YAML of this kind, splits that are not there or leave its folder, or a txt file of another kind.
    """
    document = _load(path)
    classes = _classes(path, document)
    folder = path.parent
    start = _start(path, document)
    numbers = {name: number for number, name in enumerate(classes)}
    found = Found(folder, classes, [], relative=True, numbers=numbers)
    unknown: Counter[int] = Counter()
    bare = outlines = 0
    seen: dict[Path, str] = {}
    for split in SPLITS:
        keys = [key for key in document if isinstance(key, str) and SPLIT_NAMES.get(key.lower()) == split]
        given = [document[key] for key in keys if document[key]]
        entries = [str(one) for entry in given for one in (entry if isinstance(entry, list) else [entry])]
        images = _images(found, path, start, entries, split)
        same = next((other for other in SPLITS if images and set(images) == _of(seen, other)), None)
        if same is not None:  # coco8.yaml and coco128.yaml, and what is made after them
            found.notes.append(
                f"{path.name} names the same images as {same} and as {split}: they count as {same}, others are held out"
            )
            continue
        for image in images:
            if seen.setdefault(image, split) != split:
                raise PocketError(f"{image} is in the splits {seen[image]} and {split} of {path.name}: keep one")
            annotated = Annotated(normalized(os.path.relpath(image, folder)), image, split)
            found.images.append(annotated)
            labels = _label_file(image)
            if labels is None:
                bare += 1
                continue
            outlines += _read_labels(annotated, labels, len(classes), unknown, points="kpt_shape" in document)
    if not seen and not found.broken:
        raise PocketError(f"{path} names no image: its train must be a folder, or a list of files")
    if bare:
        found.notes.append(f"{bare:,} images have no txt file: they are taken to show no object")
    if outlines:
        found.notes.append(f"{outlines:,} outlines are taken as the boxes around them")
    if "kpt_shape" in document:
        found.notes.append("keypoints are left out: their boxes are taken")
    if unknown:
        which = ", ".join(str(number) for number, _ in unknown.most_common(3))
        found.notes.append(
            f"{unknown.total():,} boxes are of classes ({which}) that {path.name} does not name (it has "
            f"{len(classes)}): left out"
        )
    return found


def _of(seen: dict[Path, str], split: str) -> set[Path]:
    return {image for image, other in seen.items() if other == split}


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        document, written = yaml.safe_load(text), yaml.load(text, yaml.BaseLoader)  # the latter makes text of all
    except FileNotFoundError as error:
        raise PocketError(f"there is no {path}: give a data.yaml") from error
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise PocketError(f"{path} cannot be read as YAML ({error})") from error
    if not isinstance(document, dict) or "names" not in document or "train" not in document:
        raise PocketError(f"{path} describes no detection dataset: it needs `names` and `train` (see YOLO's data.yaml)")
    if "names" in written:  # as they stand there: to YAML yes is True, and 007 is 7
        document["names"] = written["names"]
    return document


def _classes(path: Path, document: dict[str, Any]) -> tuple[str, ...]:
    names = document["names"]
    if isinstance(names, dict):
        names = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
        if set(names) != set(range(len(names))):
            raise PocketError(
                f"{path} numbers its names {sorted(names, key=str)[:5]}: they must go from 0 without a gap"
            )
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise PocketError(f"{path} has no list of `names`")
    names = [str(name).strip() for name in names]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise PocketError(f"{path} names the class {twice[0]!r} twice: keep one")
    given = document.get("nc", len(names))
    if given != len(names):
        raise PocketError(f"{path} says nc: {given}, but names {len(names)} classes")
    return tuple(names)


def _start(path: Path, document: dict[str, Any]) -> Path:
    """Return the folder that splits are relative to."""
    given = str(document.get("path") or ".")
    start = inside(path.parent, path.parent, given)
    if start is not None:
        return start if start.is_dir() else path.parent
    # /content/... of the machine that wrote it; a relative one YOLO's trainer resolves from a folder of its own. The
    # images stand beside the file all the same
    elsewhere = (path.parent / given).exists()
    train = document["train"] if isinstance(document["train"], list) else [document["train"]]
    beside = all(_is_anywhere(path, path.parent, str(one)) for one in train)
    if (beside and not elsewhere) if os.path.isabs(given) else (beside or not elsewhere):
        return path.parent
    raise PocketError(
        f"{path} has `path: {given}`, which is outside its folder: put the file into the folder of the "
        "images, and leave `path` away"
    )


def _images(found: Found, path: Path, start: Path, entries: list[str], split: str) -> list[Path]:
    """Return the image files of a split, given as folders or lists of files.

    Test images need not be there: Roboflow names a folder of them whether it writes one or not.
    """
    result: list[Path] = []
    for entry in entries:
        if split == "test" and not _is_anywhere(path, start, entry):
            found.notes.append(f"{path.name} names {entry} as {split}, which is not there")
            continue
        place = _place(path, start, entry)
        if place.is_dir():
            result += [file for name, file in find_files(place).items() if is_image(name)]
        elif place.is_file():
            lines = place.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
            for line in (line.strip() for line in lines):
                if line:
                    file = _listed(path.parent, (place.parent, start), line)
                    if isinstance(file, str):
                        found.broken.append((line, file.format(place.name)))
                    else:
                        result.append(file)
        else:
            raise PocketError(f"{path} names {entry}, which is not there (looked for {place})")
    return list(dict.fromkeys(result))


def _listed(folder: Path, starts: Sequence[Path], line: str) -> Path | str:
    """Return the image that a line of a list means, as seen from the list or from the images, or why there is none."""
    names, parts = [line], line.replace("\\", "/").split("/")
    if (not parts[0] or parts[0].endswith(":")) and not os.path.exists(line):
        names += ["/".join(parts[first:]) for first in range(1, len(parts))]  # of another machine: what its end fits
    places = [place for name in names for start in starts if (place := inside(folder, start, name)) is not None]
    return next((place for place in places if place.is_file()), ABSENT if places else LEAVES)


def _is_anywhere(path: Path, start: Path, entry: str) -> bool:
    entry = entry.replace("\\", "/")
    return any((place / one).exists() for place in (start, path.parent) for one in (entry, entry.lstrip("./")))


def _place(path: Path, start: Path, entry: str) -> Path:
    place = inside(path.parent, start, entry)
    if place is not None and place.exists():
        return place
    # Roboflow writes ../train/images for what stands beside the file
    stripped = inside(path.parent, path.parent, entry.replace("\\", "/").lstrip("./"))
    if stripped is not None and stripped.exists() and not os.path.isabs(entry):
        return stripped
    if place is None:
        raise PocketError(
            f"{path} names {entry}, which is outside its folder: put the file into the folder of the images, and write "
            "paths that start from there"
        )
    return place


def _label_file(image: Path) -> Path | None:
    """Return an image's txt file: with the last folder ``images`` of its path as ``labels``, or beside it."""
    parts = list(image.with_suffix(".txt").parts)
    places = [image.with_suffix(".txt")]
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
        places.insert(0, Path(*parts))
    return next((place for place in places if place.is_file()), None)


def _read_labels(image: Annotated, path: Path, classes: int, unknown: Counter[int], *, points: bool = False) -> int:
    """Add the boxes of a txt file; return how many outlines were among them.

    Args:
        image: Whose they are.
        path: The txt file.
        classes: How many there are.
        unknown: Counts boxes of others.
        points: Whether keypoints stand behind each box.
    """
    outlines = 0
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").split("\n"), 1):
        cells = line.split()
        if not cells:
            continue
        try:
            label, values = int(float(cells[0])), [float(cell) for cell in cells[1:]]
        except (ValueError, OverflowError) as error:
            raise PocketError(f"{path} line {number} is no `class cx cy width height`: {line[:80]!r}") from error
        if points:
            values = values[:4]
        if len(values) == 4:
            x, y, width, height = values
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        elif len(values) >= 6 and len(values) % 2 == 0:
            corners = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
            outlines += 1
        else:
            raise PocketError(
                f"{path} line {number} has {len(cells)} numbers: class and 4 for a box, or class and x y of 3 and more "
                "points for an outline"
            )
        if 0 <= label < classes:
            image.add(corners, label)
        else:
            unknown[label] += 1
    return outlines
