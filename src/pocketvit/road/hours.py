"""A budget of time, which counts the whole command: from opening the images to the report.

Beforehand steps and labels are timed, and epochs and views chosen that fill the time (`fill_hours`): they decide how
much views vary, and how many are labelled. What ends a training is the clock. Once the labels are there, what is left
less what the figures will take is divided evenly: every network of the table learns for as long (`Hours`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import PocketError
from ..files import atomic, human_time, read_json, write_json, write_text
from ..rundir import Run
from ..settings import NO_TEACHER, Distill, Train
from ..sources import Dataset
from ..sources.targets import labelled
from ..tasks import task_named
from ..training.distributed import from_rank_zero, join_processes
from ..training.schedule import DECAY
from .base import Stage, Walk, plan
from .decide import ENOUGH, MOST_EPOCHS, SMALL, USUAL_STUDENT, VIEWS, images_for
from .viewing import view_size

LEDGER = "hours.json"  # in a run's folder: the hours that it was given, and what of them each network had
SMALLER = ("pocket_xs", "pocket_xxs")  # students for short times
_LABELS = 0.3  # share of the time that labelling may take, unless views are asked for
_LEAST = 60.0  # seconds for each network, in the advice that is given where there are none
_TRIAL = 10  # epochs and views whose cost is asked of the stages
_BEFORE = ("synthesize", "ship", "score", "report")  # stages whose cost does not depend on epochs and views


def fill_hours(settings: Any, stages: Sequence[Stage], state_of: Callable[[Any], Walk]) -> Any:
    """Return the settings with the epochs and views that fill their time, as far as they were left open.

    Args:
        settings: With ``time``.
        stages: To be walked; say what they cost.
        state_of: Makes the start of a walk with settings, every choice made.

    Raises:
        PocketError: There is not even time for one epoch and one view.
    """
    has_views = hasattr(settings, "views")
    if getattr(settings, "folds", 0) is None:
        settings = dataclasses.replace(settings, folds=0)  # students more, which nobody asked for
    trial = {"epochs": _TRIAL} | ({"views": settings.views or VIEWS} if has_views else {})
    state = state_of(dataclasses.replace(settings, **trial))
    seconds = {name: cost.seconds for name, cost in plan(stages, state).items()}
    views_of_trial = state.config.labels.views
    view = seconds.pop("label", 0.0) / views_of_trial
    # Light teachers learn from scratch, for as many more epochs as the student does; others in a few of their own.
    before = sum(seconds.pop(name, 0.0) for name in (*_BEFORE, *(["adapt"] if state.specs else [])))
    for stage in stages if state.specs else ():
        if stage.name in seconds:
            beside = min(seconds[stage.name], stage.beside(state))
            before, seconds[stage.name] = before + beside, seconds[stage.name] - beside
    epoch = sum(seconds.values()) / _TRIAL
    left = 3600 * settings.time.hours - before
    views = (settings.views if has_views else None) or max(1, min(VIEWS, int(_LABELS * left / view) if view else VIEWS))
    epochs = int((left - views * view) / epoch) if epoch else 1
    if epochs < 1:
        least = math.ceil((before + views * view + epoch) / 3.6) / 1000
        beside = getattr(settings, "baseline", False) and not state.untaught
        baseline = ", or leave the baseline out (--no-baseline)" if beside else ""
        labelling = f"labelling {views} view{'s' * (views > 1)} of every image takes about {human_time(views * view)}, "
        raise PocketError(
            f"--hours {settings.time.hours:.3g} is too short: {labelling if view else ''}an epoch of all that is "
            f"trained about {human_time(epoch)}, the rest about {human_time(before)}. Give more time (--hours "
            f"{least:g} at least), fewer images, or a smaller student{baseline}."
        )
    chosen = {"epochs": epochs} | ({"views": min(views, epochs)} if has_views else {})
    who = join_processes(settings.device or "auto")
    return dataclasses.replace(settings, **from_rank_zero(chosen, who.world))


def fill_with_student(
    settings: Distill, stages: Sequence[Stage], state_of: Callable[[Any], Walk], images: int, side: int
) -> tuple[Distill, list[str]]:
    """Fill the time as `fill_hours` does, with the size of student that learns most in it; say where that is another.

    A small student sees more images in the same time, and where they are few that counts for more than its size: after
    five minutes of CIFAR-10 on a processor's core pocket_xs has 80.7 %, pocket_s 76.7 (recipes/ladder.md).

    Args:
        settings: Of `distill`, whose student is open.
        stages, state_of: As for `fill_hours`.
        images: For training.
        side: Of the views in pixels; small ones alone were measured.
    """
    usual = USUAL_STUDENT if settings.student == "auto" else settings.student
    smaller = SMALLER[SMALLER.index(usual) + 1 :] if usual in SMALLER else SMALLER
    sizes = (usual, *smaller) if side <= SMALL else (usual,)
    refused, filled = None, None
    for name in sizes:
        try:
            filled = fill_hours(dataclasses.replace(settings, student=name), stages, state_of)
        except PocketError as error:
            refused = error
            continue
        if filled.epochs * images >= ENOUGH * images_for(side):
            break
    if filled is None:
        assert refused is not None
        raise refused
    if filled.student == usual:
        return filled, []
    return filled, [
        f"student  {filled.student}: in so short a time it learns more than {usual} (--student names another)"
    ]


def fill(
    settings: Distill | Train,
    stages: Sequence[Stage],
    state_of: Callable[[Any], Walk],
    dataset: Dataset,
    *,
    open_student: bool,
) -> tuple[Any, list[str]]:
    """Fill the time as `fill_hours` does; leave out what would not pay in it, and say so.

    Light teachers, which nobody named, are left out where with them the student would see less than `ENOUGH` images:
    they take most of the time, and have learned little themselves. 600 drawn tiles of 64 px, pocket_s: 95.2 % with them
    after 144 seconds, 96.2 by the labels alone after 72. 864 letters of 36 classes: 86.6 % alone after 72 seconds; five
    epochs of teachers, which answered 5.6 and 2.5 % rightly, left no time for a student.

    Args:
        settings: Of a verb, whose length is open.
        stages, state_of: As for `fill_hours`.
        dataset: Opened.
        open_student: Whether the student's size is, too.
    """
    images, side = len(dataset.train), settings.size or view_size(dataset.train)

    def filled(settings: Any) -> tuple[Any, list[str]]:
        if open_student:
            return fill_with_student(settings, stages, state_of, images, side)
        return fill_hours(settings, stages, state_of), []

    alone = _without_light(settings, dataset)
    if alone is None:
        return filled(settings)
    enough = ENOUGH * min(images_for(side), MOST_EPOCHS * images)
    fewer, notes = filled(alone)
    if fewer.epochs * images >= enough:  # else with teachers it sees still less, and asking takes seconds
        with contextlib.suppress(PocketError):  # too short for teachers is not too short for a student
            taught, told = filled(settings)
            if taught.epochs * images >= enough:
                return taught, told
    why = "teacher  none: in so short a time the student learns more from the labels alone (--teacher names one)"
    return fewer, [why, *notes]


def _without_light(settings: Distill | Train, dataset: Dataset) -> Distill | None:
    """Return the settings without any teacher; None where one is named or needed, or was not asked about."""
    task, targets = task_named(dataset.task), dataset.train.targets
    if not isinstance(settings, Distill) or settings.teacher or settings.views or settings.few_labels:
        return None
    if not task.finetunes or not labelled(targets).all():
        return None
    try:
        return dataclasses.replace(settings, teacher=NO_TEACHER)
    except PocketError:  # something is asked for that needs teachers
        return None


class Hours(Stage):
    """How long each training may take; nothing without a budget of time.

    A finished run that is given more goes on from before the decay: that its end is trained anew counts as well.

    Args:
        after: The stages that follow. Networks that they train share what the others leave.
    """

    name = "hours"
    reads = ("images",)

    def __init__(self, *after: Stage) -> None:
        self.after = after

    def run(self, walk: Walk) -> None:
        if walk.settings.time is None:
            return
        hours, ledger = walk.settings.time.hours, walk.folder / LEDGER
        kept = read_json(ledger) if ledger.is_file() else {}
        if kept.get("hours") != hours:
            networks = {stage: stage.trains(walk) for stage in self.after}
            rest = sum(stage.beside(walk) if count else stage.cost(walk).seconds for stage, count in networks.items())
            here = time.monotonic() - walk.began
            spent = here if kept else max(here, sum(walk.spent().values()))
            # Who has begun its decay goes on from before it: that much is trained anew.
            decayed = len(list(walk.folder.glob("**/checkpoints/stable.safetensors")))
            anew = decayed * DECAY * kept.get("each", 0.0)
            more = (3600 * (hours - kept.get("hours", 0.0)) - spent - anew - rest) / sum(networks.values())
            if more <= 0:
                least = kept.get("hours", 0.0) + (spent + anew + rest + sum(networks.values()) * _LEAST) / 3600
                decay = f", going on from before the decay takes about {human_time(anew)}" if anew else ""
                raise PocketError(
                    f"--hours {hours:.3g} leaves no time to train: {human_time(spent)} are gone{decay} and the figures "
                    f"take about {human_time(rest)}. Give more in all: --hours {math.ceil(1000 * least) / 1000:g} at "
                    "least."
                )
            kept = {"hours": hours, "each": round(kept.get("each", 0.0) + more, 3)}
            kept = from_rank_zero(kept, walk.road.processes.world)
            if walk.road.processes.rank == 0:
                write_json(ledger, kept)
        train = dataclasses.replace(walk.config.train, seconds=kept["each"])
        walk.config = dataclasses.replace(walk.config, train=train)
        walk.notes.append(
            f"{human_time(3600 * hours)} for everything, of which each network learned for {human_time(kept['each'])}"
        )


def given_more(settings: Distill | Train, run: Run) -> bool:
    """Whether a run is given another budget of time than it had."""
    return settings.time is not None and (settings.time.more or settings.hours != run.settings.hours)


def as_before(settings: Any, run: Run) -> Any:
    """Return settings that go on with a run by the clock: what was left open is as the run chose it.

    Hours with a + come on top of those that a finished run had; one that is not finished uses up its own first.

    Raises:
        PocketError: The run did not go by the clock, or had more hours already.
    """
    old = run.settings
    had = getattr(old, "time", None)
    if had is None:
        raise PocketError(
            f"{run.folder} was planned in epochs, and its learning rate has gone down for these: it cannot be given "
            "more time. Train anew with --hours, which can."
        )
    hours = settings.time.hours
    if settings.time.more:
        ledger = run.folder / LEDGER
        begun = read_json(ledger).get("hours") == had.hours if ledger.is_file() else False
        hours = had.hours + (hours if run.finished or not begun else 0.0)  # what was refused was never given
    if hours < had.hours:
        raise PocketError(f"{run.folder} was given {had.hours:.3g} hours; it can be given more (+X), not less.")
    open_ = {
        field.name: getattr(old, field.name)
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) == field.default and hasattr(old, field.name)
    }
    return dataclasses.replace(settings, **{**open_, "hours": hours})


@contextlib.contextmanager
def reopened(run: Run, text: str) -> Iterator[None]:
    """Let a run go on whose ``config.yaml`` is ``text`` within: its student and figures stay until there are new ones.

    Where the new time is refused, before anything is trained, the run is what it was.
    """
    config, ledger, report = (run.folder / name for name in ("config.yaml", LEDGER, run.report.name))
    before = [(file, file.read_bytes() if file.is_file() else None) for file in (config, ledger, report)]
    write_text(config, text)
    report.unlink(missing_ok=True)
    try:
        yield
    except PocketError:
        if before[1][1] == (ledger.read_bytes() if ledger.is_file() else None):
            for file, data in before:
                if data is not None:
                    with atomic(file) as temporary:
                        temporary.write_bytes(data)
        raise
