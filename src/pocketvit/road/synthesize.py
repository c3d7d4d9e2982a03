"""Without images: the stage that makes them from the teacher, before all others, and the one that trains controls.

Training never sees a real image, unless some were given for that (``--data``): the test images are judged at the end.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import PocketError
from ..files import locked, sha256_of
from ..settings import Settings, listed, verbs
from ..settings.groups import Synthesis
from ..sources import Dataset, open_images, pack_dataset
from ..sources.unlabelled import unlabelled_as
from ..synthesis import Bank, Rival, StatisticsCard, gallery, read_card
from ..synthesis.card import FILE
from ..synthesis.methods import BEST, SAID, Request, bank_cost, make_bank, words
from ..teachers import Teacher, align, load_teacher
from ..teachers.classes import match_classes, without_background
from ..training.distributed import join_processes, lead_first
from .adapt import plain_name
from .arithmetic import faster
from .base import Cost, Stage, Walk
from .features import stored_layers
from .images import shared_folder
from .label import Label, label_road
from .rates import training_seconds
from .students import input_of
from .train import follow_teachers, train_network

log = logging.getLogger("pocketvit")

COUNT = 20_000  # images of 32 px that are made by default
A_CLASS = 5  # at least, however large they are
LAYOUTS = 200  # that are optimized for layouts of boxes: each takes long, and shows many objects
SEED = 0  # of the images, so that students of every seed share a bank


def method_for(settings: Synthesis, teacher: Teacher) -> str:
    """How they are made: as was said, else as teachers of its kind teach most."""
    return BEST.get(teacher.kind, "drawn") if settings.method == "auto" else settings.method


def count_for(settings: Synthesis, teacher: Teacher) -> int:
    """How many images are made: as many as was said, else `COUNT` of 32 px, fewer of larger ones."""
    if settings.count:
        return settings.count
    least = A_CLASS * teacher.num_outputs
    if teacher.kind == "boxes" and method_for(settings, teacher) == "inverted":
        return max(LAYOUTS, least)
    return max(1000, least, round(COUNT * min(1.0, 32 / teacher.input_size)))


def request_of(settings: verbs.Distill | verbs.Synthesize, teacher: Teacher, *, data: bool = True) -> Request:
    """Return what the settings ask for, with their real images or without."""
    few = None
    if data and settings.data is not None:
        window = getattr(settings, "window", None)
        few = open_images(settings.data, window=window, val_fraction=0, progress=False).train
    return Request(
        method_for(settings, teacher), count_for(settings, teacher), few, seed=SEED, generator=settings.generator,
        prune_ratio=settings.prune_ratio, card=card_of(settings, teacher),
    )  # fmt: skip


def card_of(settings: verbs.Distill | verbs.Synthesize, teacher: Teacher) -> StatisticsCard | None:
    """Return the statistics card that the settings name, or the one in the teacher's folder; None where none is asked.

    Raises:
        PocketError: There is none, or it is not of this teacher.
    """
    if not settings.statistics:
        return None
    path = None if settings.statistics is True else settings.statistics
    if path is None:
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
    made = sha256_of([asked, few, teacher.fingerprint])[:10]
    return shared / "banks" / f"{plain_name(teacher.name)}-{request.method}-{made}"


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
    shared = shared_folder(walk)
    if request.method == "drawn" and getattr(walk.settings, "precision", "auto") != "fp32":  # what moves is exact
        row, chosen = request.row(teacher.input_size), request.config()
        teacher = faster(
            teacher, lambda one: bank_folder(shared, one, request).is_dir(),
            lambda: (torch.from_numpy(row.take(np.arange(32))), chosen.candidates), processes, "it chooses pictures",
        )  # fmt: skip
    folder = bank_folder(shared, teacher, request)
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


def check_controls(settings: Settings, dataset: Dataset) -> None:
    """Refuse controls that would be taught otherwise than the student that they stand beside."""
    if not isinstance(settings, verbs.Distill) or settings.assistant is None:
        return
    if dataset.synthetic and dataset.test is not None and settings.baseline and settings.controls:
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
