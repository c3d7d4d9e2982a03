"""A teacher of which only its answers are there: boxes in COCO's results format, ``predictions.json``.

    [{"image_id": 17, "category_id": 2, "bbox": [left, top, width, height], "score": 0.93}, ...]

Boxes are in pixels of the original images. They are carried into every view as true boxes are: nothing has to be run
again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from ..errors import PocketError
from ..files import sha256_of
from ..sources import Dataset
from ..sources.base import Source
from ..sources.boxes import Boxes, Detections, offsets_of
from ..sources.coco import coco_names
from ..sources.folders import is_image, normalized
from ..sources.yolo import yolo_names
from ..views.geometry import CUT, carried, placements
from .classes import normalize_name
from .detector_forms import NOTHING
from .teacher import Teacher

_SURE = 1e-4  # a score is kept so far from 0 and 1, whose logits are infinite
_MOST = 100  # boxes of an image, as COCO counts
_SHARE_OVER, _FEW = 0.02, 10  # of the scores, that must lie on true boxes at least; boxes of which that is asked
_FAR = 1e6  # pixels, more than which no image has a side of
_OVER = 0.5  # overlap from which a predicted box is that of a true one
MISSED = 0.2  # share of the images with true boxes in which a teacher may have found nothing

Place = tuple[str, int]  # split, and position in it


class _Predicted(NamedTuple):
    place: Place
    category: Any
    corners: tuple[float, float, float, float]
    score: float


class GivenTeacher(Teacher):
    """Stored detections in a teacher's place.

    Attributes:
        unknown: Which of our classes they say nothing of.
    """

    activation = "sigmoid"

    def __init__(
        self, found: Mapping[str, Detections], *, name: str, classes: Sequence[str], unknown: tuple[int, ...],
        digest: str, notes: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__(
            nn.Identity(), name=name, input_size=1, mean=(0.0,) * 3, std=(1.0,) * 3, raw_outputs=len(classes),
            classes=classes, notes=notes, kind="boxes",
        )  # fmt: skip
        self.unknown, self._found, self._digest = unknown, found, digest
        self._here: list[tuple[Tensor, Tensor]] = []

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"given": self._digest, "classes": list(self.classes or ()), "unknown": list(self.unknown)}

    def given(self, source: Source) -> np.ndarray | None:
        """Return the answers float32 [N, K, 6] to a split, in pixels of its images; None where it has no box."""
        found = self._found.get(source.split)
        if found is None or not len(found.labels):
            return None
        answers = np.zeros((len(found), max(1, min(_MOST, int(found.counts.max()))), 6), np.float32)
        for row in range(len(found)):
            mine = found[row]
            best = np.argsort(-mine.scores, kind="stable")[:_MOST]
            columns = (mine.corners[best], mine.scores[best], mine.labels[best])
            answers[row, : len(best)] = np.column_stack(columns)
        return answers

    @property
    def described(self) -> str:
        return f"{self.name}: stored answers"

    def at(self, views: Any, positions: np.ndarray, view: int) -> GivenTeacher:
        """Return the same, asked about these views of the training images: what `detect` then answers."""
        found = self._found["train"][positions]
        sizes = views.source.targets.sizes[positions]
        everything = Boxes(
            offsets=found.offsets, corners=found.corners, labels=np.arange(len(found.labels)),
            flags=np.zeros(len(found.labels), np.uint8), sizes=sizes, known=np.ones(len(found), bool),
        )  # fmt: skip
        side = views.config.view_size
        seen = carried(everything, placements(views, positions, view, sizes), side)
        seen = seen.where(seen.flags & CUT == 0)
        logits = torch.full((len(seen.labels), self.raw_outputs), NOTHING)
        scores = torch.from_numpy(found.scores[seen.labels]).clamp(_SURE, 1 - _SURE)
        logits[torch.arange(len(logits)), torch.from_numpy(found.labels[seen.labels])] = scores.logit()
        low, high = (torch.from_numpy(seen.corners[:, part]) for part in (slice(0, 2), slice(2, 4)))
        boxes = torch.cat([(low + high) / 2, high - low], 1) / side
        other = copy.copy(self)
        parts = seen.counts.tolist()
        other._here = list(zip(boxes.split(parts), logits.split(parts), strict=True))
        return other

    def detect(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return boxes [n, 4] and logits [n, C] of the views that `at` was told of."""
        assert len(self._here) == len(pixels)
        return self._here

    def logits(self, pixels: Tensor) -> Tensor:
        raise PocketError(
            f"{self.name} holds stored boxes: they cannot answer other pictures than those of the images."
        )

    def outputs_of(self, answer: Any) -> Tensor:
        """There is no network to export."""
        raise PocketError(f"{self.name} holds stored boxes and no network.")


def given_teacher(path: Path | str, dataset: Dataset, images: Any) -> GivenTeacher:
    """Read stored detections of a dataset's images.

    Args:
        path: COCO results, a JSON list; or an object with that list as ``annotations``, and perhaps ``categories`` and
            ``images`` of its own: which were looked at, and what their files are called.
        dataset: Whose images and classes they are matched with.
        images: Where it was opened from: COCO files say which image an id is of, YAML files how classes are numbered.

    Raises:
        PocketError: It is something else, or hardly fits the images.
    """
    path = Path(path)
    entries, own, categories = _entries(path)
    if dataset.task != "detection":
        raise PocketError(f"--teacher-labels {path} holds boxes, and {dataset.name} has none: give images with boxes.")
    ids, names = coco_names(images)
    order = yolo_names(images) or dataset.classes
    given = (one.get("category_id") for one in entries if isinstance(one, dict))
    used = list(dict.fromkeys(one for one in given if isinstance(one, int | float | str)))
    maps = _class_maps(used, categories or names, order, dataset.classes, path)
    places, files = _places(dataset), own or ids
    predicted: list[_Predicted] = []
    strangers = flat = 0
    seen = {place for names in own.values() for name in names for place in _find(name, places)}
    for number, entry in enumerate(entries):
        image, category, box, score = _read(entry, number, path)
        place = _place(_file_of(image, files, places, path), places, path)
        if place is None:
            strangers += 1
            continue
        seen.add(place)
        left, top, width, height = box
        if not all(map(math.isfinite, box)) or width <= 0 or height <= 0:
            flat += 1
        else:
            predicted.append(_Predicted(place, category, (left, top, left + width, top + height), score))
    notes = _coverage(seen, entries, dataset, path)
    columns, start = _chosen(maps, predicted, dataset, path)
    others = sum(columns[one.category] < 0 for one in predicted)
    for many, what in ((strangers, "of other images"), (flat, "of no size"), (others, "of other classes")):
        if many:
            notes.append(f"{many:,} boxes {what} were left out")
    known = sorted({label for label in columns.values() if label >= 0})
    mapped = sorted((label, str(key)) for key, label in columns.items() if label >= 0)
    shown = ", ".join(f"{key} = {dataset.classes[label]}" for label, key in mapped)
    notes += [*start, f"class map: {shown}"]
    unknown = tuple(label for label in range(len(dataset.classes)) if label not in known)
    if unknown:
        missing = ", ".join(dataset.classes[label] for label in unknown)
        notes.append(f"it says nothing of {missing}: the student learns that from the true boxes alone")
    found = {
        split: _columns([one for one in predicted if one.place[0] == split], columns, source)
        for split, source in dataset.splits.items()
    }
    digest = sha256_of([hashlib.sha256(path.read_bytes()).hexdigest(), list(map(str, columns.items()))])
    return GivenTeacher(found, name=path.stem, classes=dataset.classes, unknown=unknown, digest=digest, notes=notes)


def _coverage(seen: set[Place], entries: list[Any], dataset: Dataset, path: Path) -> list[str]:
    """Say how many of the training images it has boxes in; where it has none, that teaches that nothing is there.

    Raises:
        PocketError: It lacks too many for that to be meant.
    """
    train, count = sum(split == "train" for split, _ in seen), len(dataset.train)
    if 2 * train < count:
        raise PocketError(
            f"--teacher-labels {path} has boxes in {train:,} of {count:,} training images. Its image_id must be the id "
            "in the COCO annotations, or the name of the image's file (with or without its ending)."
        )
    notes = [f"{len(entries):,} boxes of {path.name}, in {train:,} of {count:,} training images"]
    truth = dataset.train.targets
    shows = np.flatnonzero(truth.where(~truth.ignored).counts)
    bare = [int(row) for row in shows if ("train", int(row)) not in seen]
    if len(bare) > MISSED * len(shows):
        raise PocketError(
            f"--teacher-labels {path} has no box in {len(bare):,} of {len(shows):,} training images with true boxes "
            f"({dataset.train.names[bare[0]]} first), and would teach that nothing is there. Predict these too; where "
            "the teacher did look and found nothing, list every image that it saw as `images` (id, file_name), and its "
            "boxes as `annotations`."
        )
    if train < count:
        notes.append(f"the other {count - train:,} are taken as seen, with nothing found")
    if bare:
        notes.append(f"{len(bare):,} of these have true boxes ({dataset.train.names[bare[0]]} first)")
    return notes


def _entries(path: Path) -> tuple[list[Any], dict[Any, set[str]], dict[Any, str]]:
    """Return the boxes of a file, and the names of its own images and categories by their ids."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise PocketError(f"--teacher-labels {path} cannot be read as JSON ({error}).") from error
    categories: dict[Any, str] = {}
    images: dict[Any, set[str]] = {}
    if isinstance(document, dict):
        listed = document.get("categories") or []
        categories = {one.get("id"): str(one.get("name")) for one in listed if isinstance(one, dict)}
        for one in document.get("images") or []:
            if isinstance(one, dict) and one.get("file_name"):
                images.setdefault(one.get("id"), set()).add(str(one["file_name"]))
        document = document.get("annotations")
    if not isinstance(document, list) or not document:
        raise PocketError(
            f"--teacher-labels {path} is not in COCO's results format: a list of image_id, category_id, bbox and score."
        )
    return document, images, categories


def _class_maps(
    used: list[Any], categories: Mapping[Any, str], order: Sequence[str], classes: Sequence[str], path: Path
) -> dict[int | None, dict[Any, int]]:
    """Return what category ids may mean, by where they start: our class by id, -1 for what is none of ours.

    Ids with names are matched by these, wherever they start (None).
    """
    maps: dict[int | None, dict[Any, int]] = {}
    if categories:
        ours = {normalize_name(name): number for number, name in enumerate(classes)}
        maps[None] = {key: ours.get(normalize_name(str(categories.get(key, ""))), -1) for key in used}
    else:
        numbers = {name: number for number, name in enumerate(classes)}
        for start in (0, 1):  # YOLO counts from 0; its trainers write results from 1 for some data, from 0 for other
            keys = {key: key - start for key in used if isinstance(key, int) and start <= key < start + len(order)}
            maps[start] = {key: numbers.get(order[keys[key]], -1) if key in keys else -1 for key in used}
    maps = {start: columns for start, columns in maps.items() if any(label >= 0 for label in columns.values())}
    if not maps:
        raise PocketError(
            f"--teacher-labels {path}: none of its categories ({', '.join(map(str, used[:5]))}) is one of the images' "
            f"classes ({', '.join(classes[:5])}). Give it `categories` with these names, or numbers from 0 on."
        )
    return maps


def _chosen(
    maps: dict[int | None, dict[Any, int]], predicted: Sequence[_Predicted], dataset: Dataset, path: Path
) -> tuple[dict[Any, int], list[str]]:
    """Choose what category ids mean by the true boxes under the predicted ones, and say so.

    Boxes count by their scores: detectors write many unsure ones of other classes.

    Raises:
        PocketError: Most boxes have another class than the true ones under them, wherever the ids start; or hardly one
            lies where a true one does.
    """
    by_place: dict[Place, list[_Predicted]] = {}
    for one in predicted:
        by_place.setdefault(one.place, []).append(one)
    total, beside, fitting = 0.0, 0.0, dict.fromkeys(maps, 0.0)
    for (split, row), some in by_place.items():
        truth = dataset.splits[split].targets[row]
        if not len(truth.labels):
            continue
        boxes = torch.tensor([one.corners for one in some], dtype=torch.float32)
        over = box_iou(boxes, torch.from_numpy(truth.corners)).numpy() >= _OVER
        scores = np.array([one.score for one in some])
        total += float(scores[over.any(1)].sum())
        beside += float(scores.sum())
        for start, columns in maps.items():
            meant = np.array([columns[one.category] for one in some])
            fitting[start] += float(scores[(over & (meant[:, None] == truth.labels)).any(1)].sum())
    if len(predicted) >= _FEW and total < _SHARE_OVER * beside:
        sides = max(side for one in predicted for side in one.corners)
        cause = (
            "They are shares of the image, it seems: multiply them by its width and height."
            if sides <= 2
            else "A bbox is left, top, width and height, in pixels of the original image."
        )
        raise PocketError(
            f"--teacher-labels {path}: {total / beside:.0%} of its boxes (by score) lie on a true one. {cause}"
        )
    if None in maps:
        return maps[None], []
    start = max(maps, key=lambda one: fitting[one])
    if 2 * fitting[start] < total:
        raise PocketError(
            f"--teacher-labels {path}: of its boxes over true ones {fitting[start] / total:.0%} have the true class, "
            "whether its category ids start at 0 or at 1. Give it `categories` (id, name) with the names of the "
            f"images' classes ({', '.join(dataset.classes[:5])})."
        )
    why = "" if beside else ", as no true box says otherwise"
    return maps[start], [f"category ids are taken to start at {start}{why}"]


def _read(entry: Any, number: int, path: Path) -> tuple[Any, Any, list[float], float]:
    try:
        box, score = [float(side) for side in entry["bbox"]], float(entry["score"])
        image, category = entry["image_id"], entry["category_id"]
        hash((image, category))
        if category is None:
            raise KeyError("category_id")
        good = len(box) == 4 and 0 <= score <= 1 and not any(abs(side) > _FAR for side in box)
    except (TypeError, KeyError, ValueError) as error:
        what = f"entry {number} lacks image_id, category_id, bbox or score: {entry!r:.150}"
        raise PocketError(f"--teacher-labels {path}: {what}") from error
    if not good:
        raise PocketError(
            f"--teacher-labels {path}: entry {number} needs four numbers as bbox and a score of 0 to 1: {entry!r:.150}"
        )
    return image, category, box, score


def _file_of(image: Any, files: Mapping[Any, set[str]], places: Mapping[str, list[Place]], path: Path) -> str:
    """Return what the file of an image id is called: the id itself where that is a name."""
    if isinstance(image, str) and (image not in files or _key(image) in places):
        return image
    found = files.get(image, {str(image)})
    if len(found) > 1:
        raise PocketError(
            f"--teacher-labels {path}: the image id {image} is that of {' and of '.join(sorted(found)[:2])}, as each "
            "split numbers its images anew. Give the names of the files as image_id, or list the images that were seen "
            "as `images` (id, file_name)."
        )
    return next(iter(found))


def _find(name: str, places: Mapping[str, list[Place]]) -> list[Place]:
    """Return split and position of images of a name: of its path where that is known, else of its file."""
    return places.get(_path(name)) or places.get(_key(name)) or []


def _place(name: str, places: Mapping[str, list[Place]], path: Path) -> Place | None:
    """Return split and position of the one image of a name; None where there is none."""
    found = _find(name, places)
    if len(found) > 1:
        shown = " and ".join(split for split, _ in found[:2])
        raise PocketError(
            f"--teacher-labels {path}: {name} is the name of {len(found)} images ({shown}). Give the path of each as "
            "image_id, from the folder of the images on."
        )
    return found[0] if found else None


def _key(name: Any) -> str:
    """What an image is known by: the name of its file without folders and ending; numbers without leading zeros."""
    stem = _path(name).rsplit("/", 1)[-1]
    return str(int(stem)) if stem.isdecimal() else stem


def _path(name: Any) -> str:
    """A path without its ending. A name without ending can have dots: a_jpg.rf.0123abc."""
    name = normalized(str(name).replace("\\", "/"))
    return name.rsplit(".", 1)[0] if is_image(name) else name


def _places(dataset: Dataset) -> dict[str, list[Place]]:
    """Return split and position by `_key` and by `_path`; several where images share a name."""
    places: dict[str, list[Place]] = {}
    for split, source in dataset.splits.items():
        for position, name in enumerate(source.names):
            for key in {_key(name), _path(name)}:
                places.setdefault(key, []).append((split, position))
    return places


def _columns(predicted: Sequence[_Predicted], columns: Mapping[Any, int], source: Source) -> Detections:
    rows = [(one.place[1], one.corners, columns[one.category], one.score) for one in predicted]
    rows = sorted((row for row in rows if row[2] >= 0), key=lambda row: row[0])
    sizes = source.targets.sizes
    owner = np.array([row[0] for row in rows], np.int64)
    corners = np.array([row[1] for row in rows], np.float32).reshape(-1, 4)
    limits = sizes[owner][:, [1, 0, 1, 0]].astype(np.float32)
    return Detections(
        offsets=offsets_of(np.bincount(owner, minlength=len(source))),
        corners=np.clip(corners, 0, limits),
        labels=np.array([row[2] for row in rows], np.int64),
        scores=np.array([row[3] for row in rows], np.float32),
    )
