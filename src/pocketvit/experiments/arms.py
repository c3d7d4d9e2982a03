"""Arms of an experiment over paired seeds: trained one after the other, resumable, compared with intervals."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import RunConfig
from ..files import human_time, read_json, write_json
from ..labels import LabelStore
from ..models.flops import count_flops, count_parameters
from ..road.answering import network_answers, probabilities_of, road_answers
from ..road.images import Road
from ..road.mutual import train_mutual
from ..road.students import input_of
from ..road.train import calibrate, follow_teachers, train_network
from ..sources.tiles import whole
from ..teachers import Teacher
from ..training.metrics import read_metrics

log = logging.getLogger("pocketvit")


@dataclass(frozen=True)
class Arm:
    """One way of training the same student.

    Attributes:
        key: Short name of its folder.
        name: As the table shows it.
        config: Its choices; the seed is replaced. Arms may see different views.
        teachers: Whose labels it learns.
        store: Where these are; None with live teachers or none.
        live: Run the teachers on every batch.
        mutual: Train two students that learn from each other; the better one counts.
    """

    key: str
    name: str
    config: RunConfig
    teachers: tuple[Teacher, ...] = ()
    store: LabelStore | None = None
    live: bool = False
    mutual: bool = False


def run_arms(
    road: Road, arms: Sequence[Arm], seeds: Sequence[int], folder: Path, *, teachers: Sequence[Teacher] = ()
) -> dict[str, list[dict[str, Any]]]:
    """Train every arm with every seed, or read what is there; return {arm: [accuracy, seconds, ... a seed]}.

    Seeds are the outer loop, so that an interrupted experiment has whole sets of arms, and a machine that slows down
    does so for all of them.

    Args:
        road: Images and views.
        arms: In the order in which they are trained.
        seeds: Of the students.
        folder: Of the experiment.
        teachers: Agreement with these is measured; with all that teach an arm where none are named.
    """
    consensus = functools.cache(lambda: _consensus(road, teachers or [one for arm in arms for one in arm.teachers]))
    found: dict[str, list[dict[str, Any]]] = {arm.key: [] for arm in arms}
    for seed in seeds:
        for arm in arms:
            place = folder / arm.key / f"seed-{seed}"
            result = place / "result.json"
            if not result.is_file():
                write_json(result, _train(road, arm, seed, place, consensus))
            record = read_json(result)
            found[arm.key].append(record)
            log.info(
                "%s, seed %d: %.2f %% (%s)", arm.name, seed, 100 * record["accuracy"], human_time(record["seconds"])
            )
    return found


def _consensus(road: Road, teachers: Sequence[Teacher]) -> np.ndarray | None:
    """Mean probabilities of all teachers of an experiment on the scored split: what agreement is measured with."""
    assert road.scored is not None
    distinct = {id(teacher): teacher for teacher in teachers}.values()
    given = [whole(road.scored).per_image(probabilities_of(teacher, road, road.scored)) for teacher in distinct]
    return road.task.merged(given) if given else None


def _train(road: Road, arm: Arm, seed: int, place: Path, consensus: Callable[[], np.ndarray | None]) -> dict[str, Any]:
    train = dataclasses.replace(arm.config.train, seed=seed)
    config = dataclasses.replace(arm.config, train=train)
    road = road.viewed(config.view)
    if arm.mutual:
        model = train_mutual(road.labelled_alone(), config, place)
    elif not arm.teachers:
        model = train_network(road.labelled_alone(), config, place)
    else:
        model = train_network(road, config, place, teachers=arm.teachers, store=arm.store, live=arm.live)
    lines = read_metrics(place / "metrics.jsonl")
    side = input_of(config.network, model, road)
    calibrated = calibrate(model, road, side)
    if not calibrated:
        follow_teachers(model, road, side, arm.teachers)
    source = road.scored
    assert source is not None
    tested = whole(source)
    given = tested.per_image(road_answers({"": network_answers(model, side, road.task)}, road, source)[""])
    judgement = road.task.judge(given, tested.targets, tested.classes, teacher=consensus(), groups=tested.groups)
    scores = judgement.scores
    return {
        "accuracy": scores.accuracy,
        "auc": judgement.screening.auc,
        "n": scores.n,
        "parameters": count_parameters(model),
        "flops": count_flops(model, side[0]),
        "ece": scores.ece,
        "calibrated": calibrated,
        "min_class": scores.min_class[1] if scores.min_class else None,
        "agreement": scores.agreement,
        "seconds": lines[-1]["elapsed"] if lines else 0.0,  # over all interruptions
        "step_ms": _step_ms(lines),
        "steps": lines[-1]["step"] if lines else 0,
    }


def _step_ms(lines: Sequence[dict[str, Any]]) -> float | None:
    """Milliseconds of a training step: the median over epochs, so that neither a pause nor a resumption counts."""
    steps = np.diff([0, *(line["step"] for line in lines)])
    return (
        float(np.median([1000 * line["seconds"] / n for line, n in zip(lines, steps, strict=True)])) if lines else None
    )
