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
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import PocketError
from ..files import sha256_of
from ..sources import Dataset
from ..sources.base import Source
from ..sources.boxes import Boxes, Detections, offsets_of
from ..sources.coco import coco_names
from ..sources.folders import is_image
from ..views.geometry import CUT, carried, placements
from .classes import normalize_name
from .detector_forms import NOTHING
from .teacher import Teacher

_SURE = 1e-4  # a score is kept so far from 0 and 1, whose logits are infinite
_MOST = 100  # boxes of an image, as COCO counts


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
        path: COCO results, a JSON list; or an object with that list as ``annotations`` (and ``categories`` of its own).
        dataset: Whose images and classes they are matched with.
        images: Where it was opened from: COCO files say which image an id is of.

    Raises:
        PocketError: It is something else, or hardly fits the images.
    """
    path = Path(path)
    entries, categories = _entries(path)
    if dataset.task != "detection":
        raise PocketError(f"--teacher-labels {path} holds boxes, and {dataset.name} has none: give images with boxes.")
    ids, names = coco_names(images)
    categories = categories or names
    columns = _class_map(entries, categories, dataset.classes, path)
    places = _places(dataset)
    kept: dict[str, list[tuple[int, list[float], int, float]]] = {split: [] for split in dataset.splits}
    strangers, flat, others = 0, 0, 0
    seen: set[tuple[str, int]] = set()
    for number, entry in enumerate(entries):
        image, label, box, score = _read(entry, number, path, columns)
        place = places.get(_key(ids.get(image, image)))
        strangers += place is None
        others += label < 0
        if place is None:
            continue
        seen.add(place)
        left, top, width, height = box
        if not all(map(math.isfinite, box)) or width <= 0 or height <= 0:
            flat += 1
        elif label >= 0:
            kept[place[0]].append((place[1], [left, top, left + width, top + height], label, score))
    train = sum(split == "train" for split, _ in seen)
    count = len(dataset.splits["train"])
    if 2 * train < count:
        raise PocketError(
            f"--teacher-labels {path} has boxes in {train:,} of {count:,} training images. Its image_id must be the id "
            "in the COCO annotations, or the name of the image's file (with or without its ending)."
        )
    notes = [f"{len(entries):,} boxes of {path.name}, in {train:,} of {count:,} training images"]
    if train < count:
        notes.append(f"the other {count - train:,} are taken as seen, with nothing found")
    for many, what in ((strangers, "of other images"), (flat, "of no size"), (others, "of other classes")):
        if many:
            notes.append(f"{many:,} boxes {what} were left out")
    known = sorted({label for label in columns.values() if label >= 0})
    mapped = sorted((label, str(key)) for key, label in columns.items() if label >= 0)
    shown = ", ".join(f"{key} = {dataset.classes[label]}" for label, key in mapped)
    notes.append(f"class map: {shown}")
    unknown = tuple(label for label in range(len(dataset.classes)) if label not in known)
    if unknown:
        missing = ", ".join(dataset.classes[label] for label in unknown)
        notes.append(f"it says nothing of {missing}: the student learns that from the true boxes alone")
    found = {split: _columns(rows, dataset.splits[split]) for split, rows in kept.items()}
    digest = sha256_of([hashlib.sha256(path.read_bytes()).hexdigest(), list(map(str, columns.items()))])
    return GivenTeacher(found, name=path.stem, classes=dataset.classes, unknown=unknown, digest=digest, notes=notes)


def _entries(path: Path) -> tuple[list[Any], dict[Any, str]]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise PocketError(f"--teacher-labels {path} cannot be read as JSON ({error}).") from error
    categories: dict[Any, str] = {}
    if isinstance(document, dict):
        listed = document.get("categories") or []
        categories = {one.get("id"): str(one.get("name")) for one in listed if isinstance(one, dict)}
        document = document.get("annotations")
    if not isinstance(document, list) or not document:
        raise PocketError(
            f"--teacher-labels {path} is not in COCO's results format: a list of image_id, category_id, bbox and score."
        )
    return document, categories


def _class_map(entries: list[Any], categories: Mapping[Any, str], classes: Sequence[str], path: Path) -> dict[Any, int]:
    """Return our class by category id (by name, else by position), -1 for what is none of ours."""
    used = list(dict.fromkeys(one.get("category_id") for one in entries if isinstance(one, dict)))
    ours = {normalize_name(name): number for number, name in enumerate(classes)}
    if categories:
        columns = {key: ours.get(normalize_name(str(categories.get(key, ""))), -1) for key in used}
    else:
        columns = {key: key if isinstance(key, int) and 0 <= key < len(classes) else -1 for key in used}
    if not any(label >= 0 for label in columns.values()):
        raise PocketError(
            f"--teacher-labels {path}: none of its categories ({', '.join(map(str, used[:5]))}) is one of the images' "
            f"classes ({', '.join(classes[:5])}). Give it `categories` with these names, or numbers from 0 on."
        )
    return columns


def _read(entry: Any, number: int, path: Path, columns: Mapping[Any, int]) -> tuple[Any, int, list[float], float]:
    try:
        box, score = [float(side) for side in entry["bbox"]], float(entry["score"])
        image, label = entry["image_id"], columns[entry["category_id"]]
        good = len(box) == 4 and 0 <= score <= 1
    except (TypeError, KeyError, ValueError) as error:
        what = f"entry {number} lacks image_id, category_id, bbox or score: {entry!r:.150}"
        raise PocketError(f"--teacher-labels {path}: {what}") from error
    if not good:
        raise PocketError(
            f"--teacher-labels {path}: entry {number} needs four numbers as bbox and a score of 0 to 1: {entry!r:.150}"
        )
    return image, label, box, score


def _key(name: Any) -> str:
    """What an image is known by: the name of its file without folders and ending; numbers without leading zeros."""
    stem = PurePosixPath(str(name).replace("\\", "/")).name
    stem = stem.rsplit(".", 1)[0] if is_image(stem) else stem  # a_jpg.rf.0123abc has no ending, but dots
    return str(int(stem)) if stem.isdigit() else stem


def _places(dataset: Dataset) -> dict[str, tuple[str, int]]:
    """Return split and position by `_key`; names that two images share are left out."""
    places: dict[str, tuple[str, int]] = {}
    twice = set()
    for split, source in dataset.splits.items():
        for position, name in enumerate(source.names):
            key = _key(name)
            if key in places:
                twice.add(key)
            places[key] = (split, position)
    return {key: place for key, place in places.items() if key not in twice}


def _columns(rows: list[tuple[int, list[float], int, float]], source: Source) -> Detections:
    rows = sorted(rows, key=lambda row: row[0])
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
