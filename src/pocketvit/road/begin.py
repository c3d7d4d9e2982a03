"""From a verb's settings to the start of a walk: cheap mistakes told, teachers and images opened, choices made."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from ..config import RunConfig
from ..deployment.budget import Budget, choose
from ..errors import PocketError
from ..files import human_bytes, human_time, write_text
from ..models import LADDER
from ..models.cifar_resnet import IMAGENET_MEAN, IMAGENET_STD
from ..models.names import is_pretrained, published_tags
from ..models.registry import LADDER_STEMS, suggest
from ..models.variants import is_vision_transformer
from ..reporting.page import write_report
from ..rundir import Outcome, Run
from ..settings import Distill, Label, Settings, Train, dump, listed
from ..settings.verbs import Distilling
from ..sources import Dataset
from ..sources.targets import class_counts
from ..sources.unlabelled import unlabelled_as
from ..synthesis.bank import find_bank
from ..tasks import task_for, task_named
from ..teachers import load_teacher
from ..teachers.given import given_teacher
from ..training.distributed import Processes
from ..views import Views
from ..views.preprocessing import Preprocessing
from .adapt import given_teachers, load_teachers, plan_teachers, with_classes
from .base import Stage, Walk, plan, walk
from .baselines import with_weights
from .decide import class_count, decide, labels_of
from .fit import PUBLISHED
from .folds import check_folds
from .hours import as_before, fill, given_more, reopened
from .images import VIEW_SEED, Road, known, open_dataset, scored_of
from .leaks import leak
from .matched import check_match
from .mirrors import with_safe_flips
from .promised import for_bank, promised
from .statistics import check_card
from .stems import words_on_stem
from .students import check_start, choose_student
from .synthesize import check_controls
from .viewing import words_on_aspect

Decide = Callable[[Any, Dataset, Sequence[Any]], "tuple[Any, RunConfig]"]


def check_device(device: str | None) -> None:
    """Refuse a device that torch does not know or this machine does not have."""
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise PocketError(
            f"--device {device} cannot be used here ({reason}). Give cpu or cuda, or leave it away."
        ) from error


def check_network(name: str, option: str = "--student") -> None:
    """Refuse a network that nobody knows, rather than after the teachers' work."""
    if name in LADDER or is_pretrained(name) or timm.is_model(name):
        if not is_pretrained(name) or ":" in name or Path(name).expanduser().exists():
            return
        base, tag = name.split(".", 1)
        tags = published_tags(base)
        if timm.is_model(base) and tag in tags:
            return
        if timm.is_model(base):
            raise PocketError(
                f"{option} {name}: timm has no weights {tag!r} of {base}; it has {', '.join(tags) or 'none'}."
            )
    raise PocketError(f"{option}: unknown model {name!r}.{suggest(name)} The sizes are {', '.join(LADDER)}.")


def check_student(settings: Distilling | Train, option: str = "--student") -> None:
    """Refuse a student, or a stem or attention that it cannot have, before anything is read."""
    name, stem, attention = str(getattr(settings, option[2:])), settings.stem, settings.attention
    if name != "auto":
        check_network(name, option)
    if stem == "teacher":
        if not listed(getattr(settings, "teacher", None)):
            raise settings.refused("stem", "no teacher is named whose first layers it could have. Give --teacher")
        if getattr(settings, "assistant", None):
            raise settings.refused("stem", "with --assistant the student's teacher is not the one that is named. Leave "
                                   "one away")  # fmt: skip
    if name != "auto" and is_pretrained(name):
        for one, usual in (("patch", None), ("tokens", 0)):
            if getattr(settings, one) != usual:
                raise settings.refused(one, f"the weights of {name} say what shape it has. Leave one of the two away")
    changed = stem not in ("auto", "patch") or attention != "plain"
    if not changed or name in LADDER or name == "auto":
        return
    if stem in LADDER_STEMS:
        raise PocketError(f"--stem {stem} needs a student of the ladder ({', '.join(LADDER)}), not {name}.")
    if is_pretrained(name) or not is_vision_transformer(name):
        raise PocketError(
            f"--stem {stem} --attention {attention}: {name} is no plain ViT to be trained from scratch, whose patches "
            f"and attention could be exchanged. Choose {', '.join(LADDER)}, or a vit_ or deit_ model of timm."
        )


def check_published(settings: Train) -> None:
    """Refuse ``train --init pretrained`` of a model whose published weights cannot be had, before anything is read."""
    if settings.init != PUBLISHED:
        return
    if settings.model == "auto":
        raise settings.refused("init", "name the model of timm whose published weights are meant, with --model")
    try:
        load_teacher(str(settings.model))
    except PocketError as error:
        raise PocketError(f"--init {PUBLISHED}: {error}") from error


def check_against(name: str) -> None:
    """Refuse a comparison whose weights cannot be had, rather than after the student's training."""
    try:
        load_teacher(with_weights(name))
    except PocketError as error:
        raise PocketError(f"--against {name}: {error} Or leave --against away.") from error


def check_assistant(name: str) -> None:
    """Refuse an assistant that nobody knows, or whose weights cannot be had, rather than after the teachers' work."""
    check_network(name, "--assistant")
    if is_pretrained(name):
        try:
            load_teacher(name)
        except PocketError as error:
            raise PocketError(f"--assistant {name}: {error} Or take one of {', '.join(LADDER)}.") from error


def check_classes(settings: Settings, dataset: Dataset, specs: Sequence[Any]) -> None:
    """Refuse images that nothing can be learned from: without labels or a teacher, or all of one class."""
    if not known(dataset.train) and not specs and hasattr(settings, "teacher"):
        raise PocketError(
            "the images have no labels and no teacher is named: there is nothing to learn from. Name one with "
            "--teacher, or sort the images into one folder per class."
        )
    if len(dataset.classes) == 1 and dataset.task in ("classification", "ordinal"):
        raise PocketError(
            f"all images of {dataset.name} are of one class, {dataset.classes[0]!r}: two or more are needed. Add the "
            "others; or, if that is a folder too many, give the folder inside."
        )


@dataclasses.dataclass
class Begun:
    """What a verb has in hand before it starts: every choice made, nothing written."""

    settings: Any
    config: RunConfig
    dataset: Dataset
    specs: list[Any]
    notes: list[str]

    def walk(self, folder: Path) -> Walk:
        """Return the start of a walk into a folder."""
        return Walk(
            self.settings, self.config, folder, self.dataset, self.specs, self.settings.device, notes=list(self.notes)
        )


def begin(
    settings: Any,
    decide_all: Decide = decide,
    *,
    chosen: bool = False,
    stages: Sequence[Stage] = (),
    of: str = "",
) -> Begun:
    """Load the teachers, open the images, and make every choice; the student too, unless it is ``chosen``.

    Args:
        settings: Of the verb.
        decide_all: Makes the choices.
        chosen: Whether the student is chosen.
        stages: What a budget of time is to be spent on.
        of: See `go`.
    """
    _check_names(settings, chosen)
    dataset, specs = _opened(settings)
    check_classes(settings, dataset, specs)
    check_folds(settings, dataset)
    check_controls(settings, dataset)
    if getattr(settings, "against", None):
        if not known(dataset.train):
            raise settings.refused("against", "it is fine-tuned on labels, and the images have none. Leave it away")
        check_against(settings.against)
    notes: list[str] = []
    if not chosen:
        settings, notes = _with_flips(settings, dataset, of)
        settings, told = _fitted(settings, dataset, specs)
        notes = [*notes, *told]
    open_ = getattr(settings, "student", None) == "auto" and not getattr(settings, "fit", None)
    if hasattr(settings, "student"):
        settings, told = choose_student(settings, dataset, specs)
        notes = [*notes, *told]
    if getattr(settings, "time", None) is not None:
        sized = open_ and settings.student in LADDER
        settings, told = _timed(settings, stages, dataset, specs, decide_all, sized=sized, of=of)
        notes = [*notes, *told]
    settings, config = decide_all(settings, dataset, specs)
    notes += check_start(config, dataset, specs)
    notes += words_on_stem(config.network, settings, specs, dataset)
    notes += check_match(config, dataset, specs)
    check_card(settings, config, dataset)
    notes += few_words(settings, dataset)
    notes += words_on_aspect(dataset.train, config.view) if task_named(dataset.task).finetunes else []
    notes += task_named(dataset.task).warnings(dataset.train, config.view)
    return Begun(settings, config, dataset, specs, notes)


def _check_names(settings: Any, chosen: bool) -> None:
    """Refuse devices and networks that are not there, before anything is loaded or read."""
    check_device(settings.device)
    if not chosen and getattr(settings, "fit", None) and settings.student != "auto":
        raise settings.refused(
            "fit", f"it chooses the student, and --student {settings.student} names one. Leave one away"
        )
    if hasattr(settings, "student"):
        check_student(settings)
    if getattr(settings, "against", None):
        check_network(settings.against, "--against")
    if getattr(settings, "assistant", None):
        check_assistant(settings.assistant)


def _opened(settings: Any) -> tuple[Dataset, list[Any]]:
    """Open the images, or what stands for those that will be made, and the teachers: a mistyped one is told first."""
    specs = list(load_teachers(settings, given_teachers(settings))) if hasattr(settings, "teacher") else []
    if getattr(settings, "data_free", False):
        dataset, specs = promised(settings, specs)
    else:
        dataset = open_dataset(settings)
        bank = find_bank(getattr(settings, "images", None))
        if bank is not None and specs:
            specs = for_bank(bank, dataset, specs)
    if getattr(settings, "teacher_labels", None):
        specs = [given_teacher(settings.teacher_labels, dataset, settings.images)]
    if not dataset.classes and len({teacher.kind for teacher in specs}) == 1:
        # what is asked of the images is what their teachers answer
        dataset = unlabelled_as(dataset, task_for(specs[0].kind).name, specs[0].num_outputs)
    return with_leaks(dataset, getattr(settings, "teacher", ())), specs


def _timed(
    settings: Distill | Train,
    stages: Sequence[Stage],
    dataset: Dataset,
    specs: list[Any],
    decide_all: Decide,
    *,
    sized: bool,
    of: str,
) -> tuple[Distill | Train, list[str]]:
    """Spend a budget of time: the settings that fill it, or those of the run that goes on, and what is to be said."""
    if settings.resume:
        return as_before(settings, Run.newest(settings, settings.name or dataset.name + of)), []
    if settings.epochs is not None:
        return settings, [f"the length is that of --hours {settings.hours}, not of --epochs {settings.epochs}"]

    def state_of(trial: Any) -> Walk:
        return _trial(trial, dataset, specs, decide_all)

    return fill(settings, stages, state_of, dataset, open_student=sized)


def few_words(settings: Settings, dataset: Dataset) -> list[str]:
    """Say which classes few labels leave without one, so that only teachers know them."""
    few = getattr(settings, "few_labels", 0)
    if not few:
        return []
    counts = class_counts(labels_of(settings, dataset).targets, len(dataset.classes))
    none = [name for name, count in zip(dataset.classes, counts, strict=True) if not count]
    if not none:
        return []
    named = f"{', '.join(none[:5])}{', ...' if len(none) > 5 else ''}"
    return [f"labels   no label of {named} ({len(none)} of {len(counts)} classes) is among the {few}"]


def with_leaks(dataset: Dataset, teachers: Any) -> Dataset:
    """Return images that say which of their teachers have learned from those that are to be scored."""
    scored = scored_of(dataset)
    given = [] if scored is None else listed(teachers)
    told = [leak(str(one), one, scored) for one in given if isinstance(one, str | Path) and scored is not None]
    return dataclasses.replace(dataset, notes=(*dataset.notes, *filter(None, told)))


def _with_flips(settings: Any, dataset: Dataset, of: str) -> tuple[Any, list[str]]:
    """Decide whether images are mirrored; a run that goes on with ``--resume`` does as it did."""
    if not getattr(settings, "resume", False):
        return with_safe_flips(settings, dataset)
    old = Run.newest(settings, settings.name or dataset.name + of).settings
    open_ = [name for name in ("flip", "vertical_flip") if getattr(settings, name) is None]
    return dataclasses.replace(settings, **{name: getattr(old, name, None) for name in open_}), []


def _trial(settings: Any, dataset: Dataset, specs: list[Any], decide_all: Decide) -> Walk:
    """Return a walk that is only asked what it would cost: the images open, the teachers loaded, nothing written."""
    settings, config = decide_all(settings, dataset, specs)
    device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    state = Begun(settings, config, dataset, specs, []).walk(Path(settings.out) / "plan")
    views = Views(dataset.train, config.view, seed=VIEW_SEED)
    state.road = Road(dataset, views, Path(settings.out) / "shared", Processes(0, 1, device))
    if hasattr(settings, "teacher"):
        state.teachers = plan_teachers(settings, specs, dataset, config.view.view_size, str(device))
    if not dataset.classes and state.teachers:
        state.road = with_classes(state.road, list(state.teachers))
    return state


def _fitted(settings: Any, dataset: Dataset, teachers: Sequence[Any]) -> tuple[Any, list[str]]:
    """Choose the student that fits a budget."""
    if not getattr(settings, "fit", None):
        return settings, []
    _, config = decide(settings, dataset, teachers)
    classes = dataset.classes or tuple(map(str, range(class_count(dataset, teachers) or 1)))
    about = Preprocessing.of(config.view, (config.view.view_size, IMAGENET_MEAN, IMAGENET_STD))
    choice = choose(
        Budget(**vars(settings.budget)),
        config.network,
        classes=classes,
        preprocessing=about,
        task=task_named(dataset.task),
    )
    return dataclasses.replace(settings, student=choice.candidate.name), list(choice.notes)


def go(settings: Distill | Train, stages: Sequence[Stage], *, decide_all: Decide = decide, of: str = "") -> Run:
    """Walk the stages into a new run folder, or go on with an unfinished one; return the run.

    Args:
        settings: Of the verb.
        stages: To walk.
        decide_all: Makes the choices.
        of: What stands in the run's name behind that of the images.
    """
    began = time.monotonic()
    old = None if isinstance(settings.resume, bool) else Run(settings.resume)  # whose settings these are
    if old is not None and old.finished and not given_more(settings, old):
        return as_shown(old, settings)
    begun = begin(settings, decide_all, chosen=old is not None, stages=stages, of=of)
    run = Run.begin(settings.name or begun.dataset.name + of, begun.settings)
    more = begun.settings.time is not None and begun.settings.hours != run.settings.hours
    if more or not run.finished:
        with run.alone(), run.logging(), reopened(run, dump(begun.settings)) if more else contextlib.nullcontext():
            run.say(begun.notes)
            walk(stages, dataclasses.replace(begun.walk(run.folder), began=began))
        return run
    return as_shown(run, settings)


def as_shown(run: Run, settings: Any) -> Run:
    """Return a finished run; without the pictures in its report where they are no longer wanted."""
    own = run.settings
    if settings.no_images and not own.no_images:
        with run.alone():
            write_report(run.folder, images=False)
            write_text(run.folder / "config.yaml", dump(dataclasses.replace(own, no_images=True)))
    return run


def plan_of(settings: Distill | Label, stages: Sequence[Stage], decide_all: Decide = decide) -> Outcome:
    """Return images, split, hours and bytes of a walk; write nothing."""
    begun = begin(settings, decide_all, stages=stages)
    dataset = begun.dataset
    costs = plan(stages, _trial(begun.settings, dataset, begun.specs, decide_all))
    seconds = {name: cost.seconds for name, cost in costs.items() if cost.seconds}
    total, size = sum(seconds.values()), sum(cost.bytes for cost in costs.values())
    number = f"{total / 3600:.2g}"
    hours = f"{number} hour{'' if number == '1' else 's'}"
    spent = ", ".join(f"{name} {human_time(one)}" for name, one in seconds.items())
    lines = [
        *(line for cost in costs.values() for line in cost.told),
        *begun.notes,
        f"time     {spent}: about {hours if total >= 3600 else f'{human_time(total)} ({hours})'} on this machine",
        f"disk     about {human_bytes(size)}",
        "nothing was written",
    ]
    data = {
        "counts": {split: len(source) for split, source in dataset.splits.items()},
        "broken": [list(item) for item in dataset.checks.broken],
        "duplicates": [list(item) for item in dataset.checks.duplicates],
        "seconds": seconds,
        "hours": total / 3600,
        "bytes": size,
    }
    return Outcome("\n".join(lines), data)
