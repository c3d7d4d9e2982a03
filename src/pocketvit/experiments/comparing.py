"""Methods of distillation compared: the same student, images, steps and seeds."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import LossConfig, RunConfig
from ..errors import PocketError
from ..files import counted, read_json, write_json, write_text
from ..labels.record import choose_k
from ..road import Adapt, Assist, LabelAgain, Open, Walk, walk
from ..road.answering import probabilities_of
from ..road.baselines import without_teachers
from ..road.begin import Begun, begin
from ..road.decide import check_share, decide
from ..road.images import Road, known
from ..road.label import label_road
from ..road.train import describe
from ..rundir import Outcome, Run
from ..settings import differences, dump
from ..sources import Dataset
from ..tasks import task_named
from .arms import Arm, run_arms
from .methods import ALONE, ASSISTANT, Method, parse_methods, served, why_not
from .tables import report_arms

log = logging.getLogger("pocketvit")


def compare_methods(settings: Any) -> Outcome:
    """Train every method with every seed, or read what is there; return the table."""
    begun = begin(settings, decide_comparison)
    settings, config, dataset = begun.settings, begun.config, begun.dataset
    methods = _methods(begun)
    folder = _folder(settings.name or f"{dataset.name}-compare", begun)
    log.info("compare  %s with %d seeds, in %s", ", ".join(one.name for one in methods), settings.seeds, folder)
    for note in begun.notes:
        log.info("%s", note)
    plain = dataclasses.replace(config, loss=dataclasses.replace(config.loss, weight=0.0))  # each method has its own
    log.info("student  %s", describe(plain))
    state = begun.walk(folder)
    walk((Open(),), state)
    limit = settings.images_limit
    if limit and limit < len(state.road.dataset.train):
        state.road = state.road.reduced(limit)
    if any(method.taught for method in methods):
        walk((Adapt(),), state, have=("images",))
    assisted = any(method.assisted for method in methods)
    if assisted or any(method.taught and not method.live for method in methods):
        state.store = label_road(state.road, state.teachers, config.labels)
    if assisted:
        walk((Assist(), LabelAgain()), state, have=("images", "teachers", "labels"))
    arms = [
        Arm(
            method.name,
            method.shown,
            dataclasses.replace(config, loss=_loss(method, config, state.road)),
            tuple(state.tutors if method.assisted else state.teachers) if method.taught else (),
            state.store if method.taught and not method.live else None,
            method.live,
            method.mutual,
        )
        for method in methods
    ]
    against = next((arm.key for arm in arms if arm.key == ALONE), arms[0].key)
    found = run_arms(state.road, arms, range(settings.seeds), folder, teachers=state.teachers)
    notes = []
    if assisted:
        notes.append(_assistant_note(state))
    if config.labels.views < config.train.epochs:
        notes.append(
            f"Stored labels have {counted(config.labels.views, 'view')} per image for "
            f"{counted(config.train.epochs, 'epoch')}; the student "
            "alone and live teachers see a fresh one every epoch."
        )
    untaught = [arm.name for arm in arms if not arm.teachers]
    if untaught and len(untaught) < len(arms) and "teacher" in (config.network.init_from, config.network.stem):
        notes.append(f"Weights of the teacher are where the others start, and not {' or '.join(untaught)}.")
    seeds = f"{settings.seeds} seed{'s' * (settings.seeds > 1)}"
    text = report_arms(
        state.road, arms, found, folder, against=against, teachers=state.teachers, notes=notes,
        images=not settings.no_images,
        title=f"{dataset.name}: {config.network.name}, {len(arms)} methods compared over {seeds}",
    )  # fmt: skip
    files = {"folder": str(folder), "report": str(folder / "report.html"), "plot": str(folder / "differences.svg")}
    data = {**files, "against": against, "table": text, "methods": read_json(folder / "results.json")["comparison"]}
    return Outcome(f"{text}\n\nplot    {files['plot']}\nreport  {files['report']}", data)


def decide_comparison(settings: Any, dataset: Dataset, teachers: Sequence[Any] = ()) -> tuple[Any, RunConfig]:
    """As `decide`, with a view per epoch, so that all methods see the same pictures."""
    if not task_named(dataset.task).compares:
        raise PocketError(
            f"compare knows methods for one class per image, and {dataset.name} is a {dataset.task} set. Run "
            "`pocketvit distill` on it."
        )
    scored = [source for source in (dataset.test, dataset.val) if source is not None and len(source)]
    if not known(dataset.train) or not any(known(source) for source in scored):
        raise PocketError(
            f"{dataset.name} has no labels, and methods are compared by their accuracy. Sort the images into one "
            "folder per class, or give --table."
        )
    if settings.views is None:
        settings = dataclasses.replace(settings, views=10_000)  # `decide` takes the epochs where they are fewer
    return decide(settings, dataset, teachers)


def _loss(method: Method, config: RunConfig, road: Road) -> LossConfig:
    """What an arm minimizes; alone that is the loss of the baseline of `distill`, with what the method adds to it."""
    if method.taught or method.mutual:
        return method.loss
    return dataclasses.replace(without_teachers(config, road).loss, terms=method.loss.terms)


def _methods(begun: Begun) -> list[Method]:
    """The methods that were asked for, or all that the labels serve."""
    settings, config, classes = begun.settings, begun.config, len(begun.dataset.classes)
    whole = choose_k(classes, settings.top_k) == 0 or settings.approximate_tail
    heat = config.loss.temperature
    asked = settings.methods or [*served(classes, whole, heat), *[ASSISTANT] * (settings.assistant is not None)]
    chosen = parse_methods(asked, config.loss, teachers=len(begun.specs) or 2)
    for method in chosen:
        if method.taught:
            check_share(method.loss, settings, begun.dataset)
        reason = why_not(method.loss.objective, classes, whole or method.live, heat)
        if method.taught and reason:
            raise PocketError(f"--methods {method.name}: {method.loss.objective} cannot be learned here: {reason}.")
    return chosen


def _assistant_note(state: Walk) -> str:
    """Say who the assistant was, and how good: one for all seeds, as the teachers are."""
    source, assistant = state.road.scored, state.assistant
    assert assistant is not None
    assert source is not None
    scores = state.road.task.validate(probabilities_of(assistant, state.road, source), source.targets)
    return (
        f"One assistant for all seeds, {state.settings.assistant}, trained as long as a student is: "
        f"{state.road.task.said(scores)}."
    )


def _folder(name: str, begun: Begun) -> Path:
    """Return the comparison's folder, new or to go on with; one of other choices is an error that names them."""
    folder = Path(begun.settings.out) / name
    seen: dict[str, Any] = {  # as a path or a module may come to hold others
        "images": {split: source.fingerprint for split, source in begun.dataset.splits.items()},
        "teachers": [teacher.fingerprint for teacher in begun.specs],
    }
    if (folder / "config.yaml").is_file():
        old, new = Run(folder).settings, begun.settings
        joins = old.assistant is None and new.assistant is not None
        if joins or new.assistant is None:  # the methods that have none stay as they are
            old, new = (dataclasses.replace(one, assistant=None) for one in (old, new))
        changes = differences(old, new)
        if changes:
            raise PocketError(
                f"{folder} holds a comparison of other choices ({'; '.join(changes[:4])}). Give the same options to go "
                "on with it, or --name another one."
            )
        other = [what for what, held in read_json(folder / "inputs.json").items() if held != seen[what]]
        if other:
            raise PocketError(
                f"{folder} holds a comparison with other {' and '.join(other)} under the same name. --name another one."
            )
        if joins:
            write_text(folder / "config.yaml", dump(begun.settings))
    else:
        write_json(folder / "inputs.json", seen)
        write_text(folder / "config.yaml", dump(begun.settings))
    return folder
