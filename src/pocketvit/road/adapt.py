"""The stage of teachers: loaded, their classes matched to the user's, adapted where they do not match."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config import changed
from ..errors import PocketError
from ..files import human_time, sha256_of
from ..metrics import wilson_interval
from ..settings import listed
from ..settings.teachers import Adapting, Teachers
from ..sources import Dataset
from ..sources.targets import labelled
from ..tasks import task_named
from ..teachers import Teacher, align, load_teacher
from .arithmetic import in_fast_arithmetic
from .assumed import as_labels_say, may_be_otherwise
from .base import Cost, Stage, Walk
from .class_order import in_labelled_order, may_be_in_another
from .images import Road, known
from .light import learned_from, light_side, light_training, told_of_light, train_light_teachers
from .measuring import Entry, teacher_entry
from .probe import PATIENCE, adapt, tuning_epochs
from .rates import forward_seconds, step_rate

log = logging.getLogger("pocketvit")

_HARDLY = 0.02  # AP50 on which a detector is warned of: random weights, and classes in a wrong order, have less
METHOD = 4  # of probing and fine-tuning: what an older version adapted in another way is not taken for ours


def given_teachers(settings: Teachers) -> list[Any]:
    """Return the teachers as settings name them, one after the other."""
    return [] if settings.untaught else list(listed(settings.teacher))


def load_teachers(settings: Teachers, specs: Sequence[Any], device: str = "cpu") -> list[Teacher]:
    """Load every teacher as the settings say; one that was loaded before is only moved to ``device``."""
    teachers: list[Teacher] = []
    for spec in specs:
        if isinstance(spec, str) and spec.startswith("("):  # as a config writes a module down
            raise PocketError(
                f"the teacher of this run was a {spec[1:-1]} given in Python. Give it again: "
                "pocketvit.distill(resume=FOLDER, teacher=MODULE)."
            )
        teacher = load_teacher(
            spec,
            arch=settings.arch,
            weights=settings.weights,
            input_size=settings.teacher_size,
            norm=settings.teacher_norm,
            device=device,
        ).to(device)
        if any(teacher.fingerprint == other.fingerprint for other in teachers):
            raise PocketError(f"the teacher {teacher.name} is named twice. Name different ones, or the same one once.")
        names = {other.name for other in teachers}
        if teacher.name in names:  # two networks of one class, or of one folder's name
            free = next(number for number in itertools.count(2) if f"{teacher.name}-{number}" not in names)
            teacher = teacher.with_columns(teacher.columns)  # a copy: the caller's keeps its name
            teacher.name += f"-{free}"
        teachers.append(teacher)
    return teachers


def ready_teachers(walk: Walk) -> list[Teacher]:
    """Load the teachers, say what is assumed of them, and make each answer in the user's classes."""
    road = walk.road
    if walk.untaught:
        return []
    if not walk.specs:
        return train_light_teachers(road, walk.config)
    teachers: list[Teacher] = []
    for teacher in load_teachers(walk.settings, walk.specs, str(road.device)):
        log.info("teacher  %s", teacher.described)
        for note in teacher.notes:
            log.info("         %s", note)
        teachers.append(answering(teacher, road, _wanted(walk.settings)))
    return teachers


def _wanted(settings: Adapting) -> bool | None:
    """Whether to fine-tune: True where it was asked for, False for a probe, None to decide."""
    return True if settings.fine_tune else False if settings.freeze else None


def answering(teacher: Teacher, road: Road, fine_tune: bool | None) -> Teacher:
    """Return a teacher whose outputs are the dataset's classes: mapped by name, taken in order, or adapted.

    Where the task reads outputs otherwise than the teacher was trained to give them, it is read so where that is sound
    (a softmax's logits as independent labels), and learns the task where it is not.
    """
    classes, kind = road.dataset.classes, road.task.kind
    aligned = road.task.aligned(teacher, road.dataset) if classes else (teacher if teacher.num_outputs else None)
    if _asked_anew(teacher, classes, fine_tune):
        aligned = None
    if aligned is not None and aligned.kind != kind and road.task.reads(aligned.kind):
        aligned = aligned.with_kind(kind, f"{teacher.name}: each output is read by itself (a {kind}).")
    if aligned is not None and aligned.kind != kind and not classes:
        raise PocketError(
            f"the teacher {teacher.name} answers several labels per image, and these images have none, which would say "
            "that there may be several. Give some with --table FILE.csv, a column of 0 and 1 per label."
        )
    if aligned is not None and not classes and aligned.num_outputs == 1:
        raise PocketError(
            f"the teacher {teacher.name} has a single output, and one class says nothing. If that is the logit z of "
            "yes against no, let it return two: torch.cat([0 * z, z], 1)."
        )
    if aligned is not None and aligned.kind == kind:
        aligned = in_labelled_order(as_labels_say(aligned, road), road)
        for note in aligned.notes[len(teacher.notes) :]:
            log.info("         %s", note)
        return aligned
    if not classes:
        raise PocketError(
            f"the teacher {teacher.name} has no classes for these images, and they have no labels. Sort them into one "
            "folder per class (or give --table FILE.csv), or name a teacher that was trained on your classes."
        )
    has = f"{len(teacher.classes)} classes of its own" if teacher.classes else _outputs(teacher)
    if teacher.num_outputs == 0:
        has, fine_tune = "features and no classes", bool(fine_tune)
    what = "a linear probe learns them from its features" if fine_tune is False else "it is fine-tuned on your images"
    log.info("         it has %s, the images have %d: %s", has, len(classes), what)
    asked = [teacher.fingerprint, learned_from(road.dataset), changed(road.view), fine_tune]
    key = sha256_of([*asked, METHOD])[:10]
    folder = road.shared / "teachers" / f"{plain_name(teacher.name)}-{key}"
    adapted = adapt(teacher, road, folder, fine_tune=fine_tune)
    score = f", {adapted.score} on validation" if adapted.score else ""
    verb = "reused from an earlier run, saved" if adapted.reused else "done in"
    log.info("         %s%s (%s %s)", adapted.method, score, verb, human_time(adapted.seconds))
    result = load_teacher(
        adapted.module,
        input_size=teacher.input_size,
        norm=(teacher.mean, teacher.std),
        classes=classes,
        device=str(road.device),
    )
    result.name, result.notes = teacher.name, (f"{adapted.method} on your classes",)
    return result if result.kind == kind else result.with_kind(kind)


def _asked_anew(teacher: Teacher, classes: Sequence[str], fine_tune: bool | None) -> bool:
    """Whether outputs without names, though as many as the classes, are to be learned: somebody asked for just that."""
    nameless = teacher.classes is None and teacher.columns is None and teacher.kind != "boxes"
    return fine_tune is not None and bool(classes) and nameless


def in_common(teachers: Sequence[Teacher]) -> tuple[tuple[str, ...], list[Teacher]]:
    """Return the classes of teachers whose images name none, and the teachers in these.

    They are those of the first teacher that knows their names, else numbers. Other teachers are matched to them, by
    name where they know theirs.

    Raises:
        PocketError: They have different classes.
    """
    numbers = tuple(f"class {number}" for number in range(teachers[0].num_outputs))
    classes = next((teacher.class_names for teacher in teachers if teacher.class_names), numbers)
    matched = []
    for teacher in teachers:
        aligned = teacher if teacher.class_names == classes else align(teacher, classes)
        if aligned is None:
            raise PocketError(
                f"the teachers {teachers[0].name} and {teacher.name} have different classes, and the images have no "
                "labels to learn common ones from. Name teachers of the same classes, or label the images."
            )
        if classes is numbers:
            note = f"{teacher.name}: its classes have no names; they are called {numbers[0]} to {numbers[-1]}."
            aligned = teacher.with_columns(aligned.columns, note)
        matched.append(aligned)
    return classes, matched


def with_classes(road: Road, teachers: list[Teacher]) -> Road:
    """Return the road with the `in_common` classes where the images have no labels, and so no classes.

    The teachers are matched to them in place.
    """
    if road.dataset.classes:
        return road
    classes, matched = in_common(teachers)
    for before, after in zip(teachers, matched, strict=True):
        for note in after.notes[len(before.notes) :]:
            log.info("         %s", note)
    teachers[:] = matched
    return dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, classes=classes))


class Adapt(Stage):
    """Teachers that answer in the user's classes, and what each is worth on the scored split."""

    name = "adapt"
    reads = ("images",)
    writes = ("teachers",)

    def cost(self, walk: Walk) -> Cost:
        road, config = walk.road, walk.config
        if walk.untaught:
            return Cost(told=("teacher  none",))
        if not walk.specs:
            train, side = light_training(road, config), light_side(road.task, road.view.view_size)
            shown = len(road.dataset.train) * train.epochs
            rates = [step_rate(teacher.module, road.views, train, side) for teacher in walk.teachers]
            return Cost(sum(shown / rate for rate in rates), told=(f"teacher  {told_of_light(road)}",))
        seconds = sum(_adapting(teacher, road, _wanted(walk.settings)) for teacher in walk.teachers)
        return Cost(
            seconds,
            told=tuple(
                line
                for teacher in walk.teachers
                for line in _told(teacher, road.dataset, _wanted(walk.settings), road.view.view_size)
            ),
        )

    def run(self, walk: Walk) -> None:
        walk.teachers = ready_teachers(walk)
        walk.road = with_classes(walk.road, walk.teachers)
        if walk.road.processes.rank == 0:
            walk.entries = judge_teachers(walk.teachers, walk.road)
        walk.teachers = in_fast_arithmetic(walk.teachers, walk.road, walk.config)


def judge_teachers(teachers: Sequence[Teacher], road: Road) -> list[Entry]:
    """Score the teachers before anything is learned from them; warn of one that hardly beats guessing."""
    entries = []
    source = road.scored
    for number, teacher in enumerate(teachers, 1):
        entry = teacher_entry(teacher, road, number)
        entries.append(entry)
        if source is None or not known(source) or entry.probabilities is None:
            continue
        scores = road.task.validate(entry.probabilities, source.targets)
        log.info("         %s: %s on %s", teacher.name, road.task.said(scores), source.split)
        if scores.get("val_map_50", 1.0) < _HARDLY:
            log.warning(
                "warning  %s finds hardly a box. Are its weights, its normalization (--teacher-norm), its input size "
                "(--teacher-size) and the order of its classes right?",
                teacher.name,
            )
        chance = road.task.chance(source.targets)
        n = int(labelled(source.targets).sum())
        if chance is not None and wilson_interval(round(scores["val_accuracy"] * n), n)[1] <= chance:
            log.warning(
                "warning  %s is worse than always answering the commonest class. Are its normalization "
                "(--teacher-norm), its input size (--teacher-size) and the order of its classes right? (A function, "
                "--teacher MODULE:FUNCTION, may return pocketvit.teachers.load_teacher(network, classes=[...]).)",
                teacher.name,
            )
        elif chance is not None and scores["val_accuracy"] <= chance:
            log.warning("warning  %s is no better than always answering the commonest class (n = %d).", teacher.name, n)
        if road.task.kind == "sigmoid":  # whose commonest answer is no label, and right on most of them
            auc = road.task.judge(entry.probabilities, source.targets, source.classes).fields().get("auc_interval")
            if auc is not None and auc[0] <= 0.5:
                log.warning(
                    "warning  %s cannot be told from guessing: its AUC has the interval %.2f to %.2f, and 0.5 is "
                    "chance.", teacher.name, *auc,
                )  # fmt: skip
    return entries


def plan_teachers(settings: Teachers, specs: Sequence[Any], dataset: Dataset, side: int, device: str) -> list[Teacher]:
    """Return the teachers as far as a plan needs them: loaded, or untrained light ones."""
    if specs:
        return load_teachers(settings, specs, device)
    teachers, task = [], task_named(dataset.task)
    for name in () if settings.untaught else task.light:
        size = light_side(task, side)
        model = task.light_network(name, classes=max(2, len(dataset.classes)), side=size)
        teacher = load_teacher(model, input_size=size, norm="imagenet", device=device)
        teacher.name = name
        teachers.append(teacher)
    return teachers


def answering_plan(walk: Walk) -> list[Teacher]:
    """Return the teachers as they will be once they answer in the dataset's classes."""
    classes = len(walk.road.dataset.classes)
    result = []
    for teacher in walk.teachers:
        aligned = walk.road.task.aligned(teacher, walk.road.dataset) if classes else teacher
        if aligned is None:  # any columns do: only their number and the network's speed count here
            teacher.raw_outputs = max(1, teacher.raw_outputs)
            aligned = teacher.with_columns(np.zeros(classes, np.int64))
        result.append(aligned)
    return in_fast_arithmetic(result, walk.road, walk.config, tell=False)


def _told(teacher: Teacher, dataset: Dataset, wanted: bool | None, side: int) -> list[str]:
    """Say what the teacher is taken for, and whether it has to learn the classes first."""
    lines = [f"teacher  {teacher.described}", *teacher.notes]
    aligned = task_named(dataset.task).aligned(teacher, dataset) if dataset.classes else teacher
    if _asked_anew(teacher, dataset.classes, wanted):
        aligned = None
    if aligned is None:
        has = _outputs(teacher) if teacher.num_outputs else "features and no classes"
        return [*lines, f"it has {has}, the images have {len(dataset.classes)} classes: it will learn them first"]
    if dataset.classes and known(dataset.train) and may_be_otherwise(aligned, side):
        lines.append(f"{teacher.name}: the run tries what was assumed of it on labelled images")
    lines += aligned.notes[len(teacher.notes) :]
    if dataset.classes and may_be_in_another(aligned, dataset.train):
        lines.append(f"{teacher.name}: the run tries that on labelled images, and takes the order they plainly say")
    return lines


def _adapting(teacher: Teacher, road: Road, wanted: bool | None) -> float:
    """Seconds of a probe and, where it would be done, of fine-tuning."""
    dataset = road.dataset
    known_to_it = road.task.aligned(teacher, dataset) is not None
    if not dataset.classes or (known_to_it and not _asked_anew(teacher, dataset.classes, wanted)):
        return 0.0
    forward = forward_seconds(teacher, road.views)
    seen = [source for split, source in dataset.splits.items() if split != "test"]
    probe = forward * sum(map(len, seen))
    images = int(labelled(dataset.train.targets).sum())
    each = 3.5 * forward * images
    tuning = each * tuning_epochs(images, each)
    tunes = wanted if wanted is not None else tuning <= PATIENCE
    return probe + (tuning if tunes else 0.0)


def _outputs(teacher: Teacher) -> str:
    return f"{teacher.num_outputs} output{'' if teacher.num_outputs == 1 else 's'}"


def plain_name(name: str) -> str:
    """Return a teacher's name as a part of a folder's."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[-60:]
