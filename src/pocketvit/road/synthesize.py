"""Without images: the stage that makes them from the teacher, before all others, and the one that says what for.

Training never sees a real image, unless some were given for that (``--data``): the test images are judged at the end.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PocketError
from ..files import counted, locked, sha256_of
from ..settings import listed
from ..sources import Checks, Dataset, Source, open_images, pack_dataset
from ..sources.subset import shared_images
from ..sources.unlabelled import unlabelled_as
from ..synthesis import Bank, Candidates, Rival, StatisticsCard, gallery, open_bank, read_card
from ..synthesis.card import FILE
from ..synthesis.methods import BEST, SAID, Request, bank_cost, check_request, make_bank, words
from ..tasks import task_for
from ..teachers import Teacher, align, load_teacher
from ..teachers.classes import match_classes, without_background
from ..training.distributed import join_processes, lead_first
from .adapt import in_common
from .base import Cost, Stage, Walk
from .features import stored_layers
from .images import open_test, shared_folder
from .label import Label, label_road
from .rates import training_seconds
from .students import input_of
from .train import follow_teachers, train_network

log = logging.getLogger("pocketvit")

COUNT = 20_000  # images of 32 px that are made by default
A_CLASS = 5  # at least, however large they are
LAYOUTS = 200  # that are optimized for layouts of boxes: each takes long, and shows many objects
FEW_OF = 20  # classes of a teacher for each that is asked for, from which made pictures teach little
DRAWN = 8  # pictures that stand for all of them, before these are made
SEED = 0  # of the images, so that students of every seed share a bank


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


def method_for(settings: Any, teacher: Teacher) -> str:
    """How they are made: as was said, else as teachers of its kind teach most."""
    return BEST.get(teacher.kind, "drawn") if settings.method == "auto" else settings.method


def count_for(settings: Any, teacher: Teacher) -> int:
    """How many images are made: as many as was said, else `COUNT` of 32 px, fewer of larger ones."""
    if settings.count:
        return settings.count
    least = A_CLASS * teacher.num_outputs
    if teacher.kind == "boxes" and method_for(settings, teacher) == "inverted":
        return max(LAYOUTS, least)
    return max(1000, least, round(COUNT * min(1.0, 32 / teacher.input_size)))


def request_of(settings: Any, teacher: Teacher, *, data: bool = True) -> Request:
    """Return what the settings ask for, with their real images or without."""
    few = None
    if data and settings.data is not None:
        window = getattr(settings, "window", None)
        few = open_images(settings.data, window=window, val_fraction=0, progress=False).train
    return Request(
        method_for(settings, teacher), count_for(settings, teacher), few, seed=SEED, generator=settings.generator,
        prune_ratio=settings.prune_ratio, card=card_of(settings, teacher),
    )  # fmt: skip


def card_of(settings: Any, teacher: Teacher) -> StatisticsCard | None:
    """Return the statistics card that the settings name, or the one in the teacher's folder; None where none is asked.

    Raises:
        PocketError: There is none, or it is not of this teacher.
    """
    if not settings.statistics:
        return None
    path = settings.statistics
    if path is True:
        given = listed(settings.teacher)[0]
        folder = Path(str(given).removeprefix("local-dir:")).expanduser() if isinstance(given, str | Path) else None
        places = [folder / FILE, folder / "student" / FILE] if folder is not None else []
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            where = (
                f"no {FILE} in {folder}" if folder is not None and folder.is_dir() else f"{teacher.name} is no folder"
            )
            raise PocketError(
                f"--statistics: {where}. Name the card, --statistics FILE, or train the teacher with --statistics-card."
            )
    card = read_card(path)
    card.check(teacher)
    return card


def promised(settings: Any, teachers: Sequence[Teacher]) -> tuple[Dataset, list[Teacher]]:
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


def rival_of(given: Any, teacher: Teacher) -> Rival | None:
    """Return the student that pictures are made against, in the teacher's classes; None where none is named.

    Raises:
        PocketError: It cannot be loaded, or knows other classes.
    """
    if given is None:
        return None
    student = load_teacher(given)
    try:
        return Rival(align(student, teacher.class_names) or student, teacher)
    except PocketError as error:
        raise PocketError(f"--rival: {error}") from None


def chosen_classes(teacher: Teacher, wanted: Sequence[str] | None) -> Teacher:
    """Return a teacher that answers in the classes that were asked for, by name or number; all of them without any."""
    if not wanted:
        return without_background(teacher)
    numbers = [int(name) for name in wanted if name.isdecimal()]
    if len(numbers) == len(wanted):
        if max(numbers) >= teacher.num_outputs or len(set(numbers)) < max(2, len(numbers)):
            raise PocketError(f"--classes: give two or more different numbers below {teacher.num_outputs}.")
        return teacher.with_columns(np.array(numbers))
    columns = match_classes(teacher.classes or (), wanted)
    if columns is None:
        known = f"it names {', '.join(teacher.classes[:8])}" if teacher.classes else "its classes have no names"
        raise PocketError(
            f"--classes {','.join(wanted)}: not classes of {teacher.name} ({known}). Give these, or numbers alone."
        )
    return teacher.with_columns(columns)


def bank_folder(shared: Path, teacher: Teacher, request: Request) -> Path:
    """Where a bank lies that runs beside each other share."""
    asked = dataclasses.asdict(dataclasses.replace(request, data=None, card=None, rival=None))
    del asked["generator"], asked["card"], asked["rival"]  # its network is part of how it learns
    if not request.sparse:  # so that banks of before are found
        del asked["prune_ratio"]
    if request.card is not None:
        asked |= request.card.record
    few = None if request.data is None else request.data.fingerprint
    if request.method == "generated":
        asked |= {"chosen": dataclasses.asdict(request.generation())}
    else:
        asked |= {"chosen": vars(request.config()), "row": request.row(teacher.input_size).provenance}
        if request.method == "inverted" and teacher.kind == "boxes":
            asked |= {"inversion": request.inversion(teacher.kind).record}
    name = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in teacher.name)[-60:]
    return shared / "banks" / f"{name}-{request.method}-{sha256_of([asked, few, teacher.fingerprint])[:10]}"


class Synthesize(Stage):
    """Images made from the teacher: the training split of everything that follows."""

    name = "synthesize"
    writes = ("bank",)

    def cost(self, walk: Walk) -> Cost:
        seconds, size = bank_cost(walk.specs[0], request_of(walk.settings, walk.specs[0]))
        return Cost(seconds, size)

    def run(self, walk: Walk) -> None:
        request = request_of(walk.settings, walk.specs[0])
        bank = _made(walk, request)
        for line in words(bank):
            log.info("         %s", line)
        walk.notes += words(bank)
        if len(bank) < request.images:
            walk.notes.append(f"{request.images - len(bank):,} of {request.images:,} images were rejected")
        walk.images = _dataset(walk.images, bank)
        walk.extra["bank"] = str(bank.folder)  # for `compress`


def _made(walk: Walk, request: Request) -> Bank:
    """Make a bank in the folder that runs share, or open it there."""
    processes = join_processes(walk.device or "auto")
    teacher: Teacher = walk.specs[0].to(processes.device)
    folder = bank_folder(shared_folder(walk), teacher, request)
    log.info("make     %s images (%s) from %s in %s", f"{request.images:,}", request.method, teacher.name, folder)
    with lead_first(processes), locked(folder, waiting=f"         another run makes the bank {folder}: waiting for it"):
        bank = make_bank(folder, teacher, request)
        if not (folder / "gallery.png").is_file():
            gallery(bank, folder / "gallery.png", words(bank))
    return bank


def _dataset(asked: Dataset, bank: Bank) -> Dataset:
    """Return a bank's images in place of the promised ones."""
    made = unlabelled_as(bank.dataset(), asked.task, bank.logits.shape[1])
    return dataclasses.replace(
        made, name=asked.name, classes=asked.classes, test=asked.test, notes=(*made.notes, *asked.notes)
    )


def check_controls(settings: Any, dataset: Dataset) -> None:
    """Refuse controls that would be taught otherwise than the student that they stand beside."""
    assisted = getattr(settings, "assistant", None) is not None and hasattr(settings, "controls")
    if assisted and dataset.synthetic and dataset.test is not None and settings.baseline and settings.controls:
        raise settings.refused(
            "assistant",
            "the controls beside a student of synthetic images learn from the teacher itself. Leave it away, or give "
            "--controls none",
        )


class Controls(Stage):
    """The same student at equal steps on images made otherwise, and without the real ones where a few were given."""

    name = "controls"
    reads = ("images", "teachers", "student")
    writes = ("controls",)

    def cost(self, walk: Walk) -> Cost:
        wanted = self._wanted(walk)
        if not wanted:
            return Cost()
        seconds, weights = training_seconds(walk)
        others, size = self._others(walk)
        return Cost(others + len(wanted) * seconds, size + len(wanted) * 7 * weights)

    def beside(self, walk: Walk) -> float:
        return self._others(walk)[0]

    def _others(self, walk: Walk) -> tuple[float, float]:
        """Seconds and bytes of the controls' pictures, and of their labels."""
        wanted = self._wanted(walk)
        if not wanted:
            return 0.0, 0.0
        labels = Label().cost(walk)
        banks = [bank_cost(walk.specs[0], request) for _, request in wanted.values()]
        return (
            sum(one[0] for one in banks) + len(wanted) * labels.seconds,
            sum(one[1] for one in banks) + len(wanted) * labels.bytes,
        )

    def trains(self, walk: Walk) -> int:
        return len(self._wanted(walk))

    def run(self, walk: Walk) -> None:
        for key, (name, request) in self._wanted(walk).items():
            log.info("control  %s", name)
            try:
                bank = _made(walk, request)
            except PocketError as error:  # the student is trained: its table is not lost for a row beside it
                log.warning("warning  %s cannot be made, and is left out: %s", name, error)
                walk.notes.append(f"{name}: not run ({error})")
                continue
            packed = pack_dataset(_dataset(walk.images, bank), walk.road.shared / "packs")
            road = walk.road.with_train(packed.train)
            # As many steps as the student had, should fewer images have been kept.
            shown = len(walk.road.dataset.train) * walk.config.train.epochs
            train = dataclasses.replace(walk.config.train, epochs=max(1, round(shown / len(bank))))
            labels = dataclasses.replace(walk.config.labels, views=min(walk.config.labels.views, train.epochs))
            config = dataclasses.replace(walk.config, train=train, labels=labels)
            layers = stored_layers(road, config, walk.teachers)
            store = label_road(road, walk.teachers, labels, layers=layers)
            model = train_network(road, config, walk.folder / key, teachers=walk.teachers, store=store)
            follow_teachers(model, road, input_of(config.network, model, road), walk.teachers)
            walk.networks[key] = model
            walk.controls[key] = name

    @staticmethod
    def _wanted(walk: Walk) -> dict[str, tuple[str, Request]]:
        """Controls by key: what is said of each, and its images. Without test images nothing could be compared."""
        settings = walk.settings
        if not walk.images.synthetic or walk.images.test is None or not settings.baseline or not walk.specs:
            return {}
        bare = request_of(settings, walk.specs[0], data=False)
        bare = dataclasses.replace(bare, images=len(walk.images.train))
        wanted = {"without": ("student, without the real images", bare)} if settings.data is not None else {}
        for method in settings.controls:
            # What is optimized without the card, beside the student with it, shows what the card is worth.
            other = dataclasses.replace(bare, method=method, card=None)
            wanted[method] = (f"student, from {SAID[method]} alone", other)
        return wanted
