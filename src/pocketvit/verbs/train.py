"""`pocketvit train IMAGES --model NAME`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import PocketError
from ..rundir import Run
from ..settings import Train, verb


@verb(Train)
def train(settings: Train) -> Run:
    """Train a teacher, or any other model, on labelled images: from scratch, or from weights that are there."""
    from ..road import Open, Report, Score, Ship
    from ..road.begin import check_network, go
    from ..road.fit import Fit

    if settings.model != "auto":
        check_network(str(settings.model), "--model")
    return go(settings, (Open(), Fit(), Ship(), Score(), Report()), decide_all=decide_model, of=_named)


def _named(settings: Train) -> str:
    return f"-{Path(settings.model).name.replace(':', '_')}"


def decide_model(settings: Train, dataset: Any, teachers: Sequence[Any] = ()) -> tuple[Train, Any]:
    """Return the settings with every open choice made, and what they come down to."""
    from ..config import LossConfig, NetworkConfig, RunConfig
    from ..models.norms import ENOUGH_IMAGES
    from ..road.decide import class_weights, decide_training, decide_view
    from ..tasks import task_named

    if not dataset.classes:
        raise PocketError(
            f"{dataset.name} has no labels to train on. Sort the images into one folder per class, or give --table."
        )
    task = task_named(dataset.task)
    if settings.model == "auto":
        settings = dataclasses.replace(settings, model=task.light[0])
    task.refuse(settings, len(dataset.classes))
    side = settings.size
    settings, training = decide_training(settings, dataset, name=str(settings.model), side=side)
    if training.batch_size < ENOUGH_IMAGES <= len(dataset.train):  # for BatchNorm, which most models have
        settings = dataclasses.replace(settings, batch_size=ENOUGH_IMAGES)
        training = dataclasses.replace(training, batch_size=ENOUGH_IMAGES)
    settings, view = decide_view(settings, dataset, training.epochs)
    smoothing = task.smoothing if settings.label_smoothing is None else settings.label_smoothing
    loss = LossConfig(
        weight=0.0, label_smoothing=smoothing, class_weights=class_weights(dataset.train, settings.balance)
    )
    network = NetworkConfig(str(settings.model), replace_norm=settings.replace_norm)
    return settings, RunConfig(network=network, view=view, loss=loss, train=training)
