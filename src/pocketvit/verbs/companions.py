"""What a student is compared with: itself without a teacher, and what one might ship otherwise."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
from torch import nn

from ..config import LossConfig, RunConfig
from ..errors import PocketError
from ..models import create_model
from ..models.inputs import input_stats
from ..objectives import student_loss
from ..sources.subset import repeated
from ..sources.targets import labelled
from ..training.feed import Feed
from ..training.loop import fit
from ..views import Views
from .measure import Entry, answers, point_source
from .stages import VIEW_SEED, Road, train_student, validation

log = logging.getLogger("pocketvit")


def train_alone(road: Road, config: RunConfig, folder: Path) -> nn.Module | None:
    """The same student on an equal budget, with the ground truth alone and a fresh view every epoch."""
    source = road.dataset.train
    known = np.flatnonzero(labelled(source.targets))
    if not config.baseline or not len(known):
        return None
    log.info("baseline the same student without a teacher, %d labels", len(known))
    if len(known) == len(source):
        return train_student(road, config, folder, resume=True)
    # As many steps, on the labelled images alone, each in as many augmentations as that takes.
    few = repeated(source, known, len(source))
    pupils = dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, train=few))
    return train_student(pupils, config, folder, resume=True, source_views=Views(few, road.view, seed=VIEW_SEED))


def against(road: Road, config: RunConfig, folder: Path) -> Entry:
    """Another network, pretrained where its weights can be had, fine-tuned on the labels for as many epochs."""
    name = config.against or ""
    if not (np.asarray(road.dataset.train.targets) >= 0).any():
        raise PocketError(f"{name} would be fine-tuned on labels, and the images have none.")
    log.info("against  %s, pretrained, fine-tuned for %d epochs", name, config.train.epochs)
    model = create_model(name, num_classes=len(road.dataset.classes), pretrained=True)
    stats = input_stats(model)
    side = (road.view.view_size, stats.mean, stats.std)
    seed = config.train.seed
    feed = Feed(
        Views(road.dataset.train, road.view, seed=1),
        config.train.batch_size,
        balance=config.train.balance == "sampling",
        seed=seed,
        device=road.device,
    )
    loss = student_loss(LossConfig(class_weights=config.loss.class_weights))
    train = dataclasses.replace(config.train, learning_rate=config.train.learning_rate / 2)
    model = fit(
        model.to(road.device), feed, loss, train, folder / "against",
        evaluate=validation(road, input=side), input=side, resume=True,
    )  # fmt: skip
    given, checked = (answers(model, source, road.view, side) for source in (road.scored, point_source(road)))
    return Entry(
        "against", f"{name}, pretrained", "baseline", side[0], model.cpu(), None, given, False, validation=checked
    )
