"""Images that are still to be made: what stands for them meanwhile, and in which classes teachers will answer them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PocketError
from ..files import counted, sha256_of
from ..settings import Distill
from ..sources import Checks, Dataset, Source
from ..sources.subset import shared_images
from ..sources.unlabelled import unlabelled_as
from ..synthesis import Candidates, open_bank
from ..synthesis.methods import check_request
from ..tasks import task_for
from ..teachers import Teacher, align
from ..teachers.classes import match_classes, without_background
from .adapt import in_common
from .images import open_test
from .synthesize import request_of

FEW_OF = 20  # classes of a teacher for each that is asked for, from which made pictures teach little
DRAWN = 8  # pictures that stand for all of them, before these are made


class Promised(Source):
    """Images that are still to be made: it stands for them in plans and choices, and shows a few unchosen pictures.

    They are drawn once, for they will lie ready when what is timed with them is done.
    """

    def __init__(self, row: Candidates, count: int, name: str) -> None:
        self.row = row
        self._drawn: np.ndarray | None = None
        super().__init__(
            name=name, split="train", classes=(), ids=np.arange(count, dtype=np.uint64),
            targets=np.full(count, -1, np.int64), names=[str(number) for number in range(count)], window=None,
            size=(row.size, row.size), fingerprint=sha256_of([row.provenance, count]),
        )  # fmt: skip

    def described(self) -> tuple[np.ndarray, np.ndarray]:
        shape = np.array([self.row.size, self.row.size, 3], np.int32)
        return np.tile(shape, (len(self), 1)), np.zeros(len(self), np.uint8)

    def __getitem__(self, position: int) -> tuple[np.ndarray, Any]:
        if self._drawn is None:
            self._drawn = self.row.take(np.arange(DRAWN)).transpose(0, 2, 3, 1)
        return self._drawn[position % DRAWN], -1


def promised(settings: Distill, teachers: Sequence[Teacher]) -> tuple[Dataset, list[Teacher]]:
    """Return what will be learned from before it is made, and the teachers in its classes.

    The classes are those of the test images, where these were given and labelled: matched by name, or by number or in
    order where the teacher does not name its own. Else they are the teacher's.

    Raises:
        PocketError: There is no teacher, or none of its classes are those of the test images, or of the other teachers.
    """
    settings.require_teacher()
    kinds = {teacher.kind for teacher in teachers}
    if len(kinds) > 1:
        raise PocketError("the teachers answer different questions (one class, several labels, boxes): name one kind.")
    test = open_test(settings, teachers[0].kind)
    classes = test.classes if test is not None else ()
    mapped = [_of_classes(one, test) if test is not None and classes else without_background(one) for one in teachers]
    if not classes:
        in_common(mapped)  # told now, and not when the images are made
    request = request_of(settings, mapped[0])
    check_request(mapped[0], request)
    count, size = request.images, mapped[0].input_size
    train = Promised(request.row(size), count, mapped[0].name)
    assisted = "" if request.card is None else f", statistics-assisted, NOT data-free: with {request.card.words}"
    real = "" if request.data is None else f", NOT data-free: with {counted(len(request.data), 'real image')}"
    notes = [f"the images are made from the teacher {mapped[0].name} ({request.method}){assisted}{real}"]
    if settings.method == "auto" and request.method != "drawn":
        notes.append("--method drawn takes a fraction of the time, and teaches detectors far less (docs/datafree.md)")
    if len(mapped) > 1:
        notes.append("the first teacher chooses the images, all of them answer")
    if test is not None:
        notes += _left_out(mapped[0])
        few = mapped[0].kind == "softmax" and mapped[0].raw_outputs >= FEW_OF * mapped[0].num_outputs
        if few and request.data is None:  # recipes/datafree_photos.md
            notes.append(
                "made pictures hardly show so few of a teacher's classes: a hundred photographs of these, without "
                "labels, teach far more (--data FOLDER)"
            )
        notes.append(f"test: {len(test.test or ()):,} images of {test.name}, looked at when all is trained")
        twice = shared_images(request.data, test.test) if request.data is not None and test.test is not None else 0
        if twice:
            notes.append(f"{twice:,} of the images of --data are test images, too: the score will be too good by that")
    else:
        notes.append("no test images (--test FOLDER): how good the student is on real ones stays unknown")
    checks = Checks({"train": {"": count}}, sizes={(size, size): count}, modes={"RGB": count})
    name = f"{mapped[0].name}-{'no' if request.data is None else 'few'}-images"
    dataset = Dataset(
        name, classes, train, None, None if test is None else test.test, tuple(notes), checks,
        synthetic=request.method,
    )  # fmt: skip
    task = test.task if test is not None else task_for(mapped[0].kind).name
    return unlabelled_as(dataset, task, mapped[0].num_outputs), mapped


def _left_out(teacher: Teacher) -> list[str]:
    """Say which classes of a teacher the student will not know, for the test images have none of them."""
    if teacher.columns is None or teacher.num_outputs >= teacher.raw_outputs:
        return []
    kept = set(teacher.columns.tolist())
    left = [name.split(",")[0] for at, name in enumerate(teacher.classes or ()) if at not in kept]
    named = f" (not {', '.join(left[:5])}{', ...' if len(left) > 5 else ''})" if left else ""
    return [
        f"the student learns the {teacher.num_outputs} classes of the test images, of the {teacher.raw_outputs} that "
        f"{teacher.name} knows{named}"
    ]


def _of_classes(teacher: Teacher, dataset: Dataset) -> Teacher:
    """Return a teacher that answers in the classes of the test images."""
    classes = dataset.classes
    if len(classes) < 2 and teacher.kind == "softmax":
        raise PocketError(f"the test images have a single class ({classes[0]}): give images of two classes or more.")
    numbers = [int(name) for name in classes if name.isdecimal()]
    numbered = len(numbers) == len(classes) and max(numbers) < teacher.num_outputs
    # Numbers mean numbers, unless the teacher's own names are numbers. (What names assume, the next stage says.)
    aligned = None if numbered and teacher.classes is None else align(teacher, classes, dataset.numbers)
    if aligned is not None:
        return teacher.with_columns(aligned.columns)
    if numbered:
        part = f": those {len(classes)} of its {teacher.num_outputs}" if len(classes) < teacher.num_outputs else ""
        mapped = teacher.with_columns(np.array(numbers), f"{teacher.name}: its classes were matched by number{part}.")
        mapped.classes = None  # its names, if any, are none of the images'
        return mapped
    named = ", ".join((teacher.classes or ())[:5]) or "without names"
    missing = [name for name in classes if match_classes(teacher.classes or (), [name]) is None] or classes
    raise PocketError(
        f"{len(missing)} of the {len(classes)} classes of the test images ({', '.join(missing[:5])}) are not among the "
        f"{teacher.num_outputs} of {teacher.name} ({named}). Name their folders as the teacher names its classes, or "
        "by its numbers from 0."
    )


def for_bank(file: Path, dataset: Dataset, teachers: Sequence[Teacher]) -> list[Teacher]:
    """Return teachers that answer in the classes of the test images, or else in those that a bank was made for."""
    if dataset.classes:
        return [_of_classes(teacher, dataset) for teacher in teachers]
    columns = open_bank(file.parent).provenance["provenance"]["teacher"].get("columns")
    if columns is None:
        return list(teachers)
    told = f"the images were made for {len(columns)} of its classes"
    return [
        teacher.with_columns(np.array(columns), f"{teacher.name}: {told}")
        if teacher.columns is None and max(columns) < teacher.num_outputs
        else teacher
        for teacher in teachers
    ]
