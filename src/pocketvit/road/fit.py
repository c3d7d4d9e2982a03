"""The stage of `train`: any network, from scratch or from weights that are there, on the labels of the images."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import torch

from ..models.names import is_pretrained
from ..models.saving import recipe_of
from ..teachers import load_teacher
from ..teachers.finetune import new_head
from .base import Cost, Stage, Walk
from .convert import converted
from .probe import adapt, gentle_loss, has_linear_head
from .rates import training_seconds
from .students import input_of
from .train import describe, train_network

log = logging.getLogger("pocketvit")

PUBLISHED = "pretrained"  # what --init calls the weights that are published for the model


class Fit(Stage):
    """A network that learned the images' labels."""

    name = "fit"
    reads = ("images",)
    writes = ("student",)

    def cost(self, walk: Walk) -> Cost:
        seconds, weights = training_seconds(walk)
        return Cost(seconds, 7 * weights, (f"model    {describe(walk.config)}",))

    def trains(self, walk: Walk) -> int:
        return 1

    def run(self, walk: Walk) -> None:
        settings, road, config = walk.settings, walk.road, walk.config
        pretrained = is_pretrained(config.network.name)
        if (settings.init is None and not pretrained) or not road.task.finetunes:
            student = train_network(road, config, walk.folder)
            walk.networks["student"], walk.input = student, input_of(config.network, student, road)
            walk.notes.append(
                "trained from its own weights, under a new head" if pretrained else "trained from scratch"
            )
            return
        published = settings.init in (None, PUBLISHED)
        start = config.network.name if published else settings.init
        if Path(start).is_dir() or published:  # it says itself what network it holds
            side = settings.size if Path(start).is_dir() else None
            teacher = load_teacher(start, input_size=side, device=str(road.device))
            if not published:  # and is called by that, whatever --model says
                walk.names["student"] = teacher.name
        else:
            teacher = load_teacher(config.network.name, weights=start, device=str(road.device))
        if config.network.replace_norm is not None:
            teacher = converted(teacher, config.network.replace_norm, road)  # type: ignore[arg-type]
        loss = config.loss
        if settings.label_smoothing is None:  # gently, for the network has learned already
            loss = dataclasses.replace(loss, label_smoothing=gentle_loss(road.task).label_smoothing)
        walk.input = (teacher.input_size, teacher.mean, teacher.std)
        if not has_linear_head(teacher):  # a probe on its features would be a network that timm cannot make again
            recipe_of(teacher.module)  # nor can it all: told now, and not after the training
            if settings.freeze:
                raise settings.refused("freeze", f"the head of {teacher.name} is no linear layer. Leave it away")
            config = dataclasses.replace(config, loss=loss)
            torch.manual_seed(config.train.seed)
            model = new_head(teacher, len(road.dataset.classes))
            walk.networks["student"] = train_network(road, config, walk.folder, model=model, input=walk.input)
            walk.notes.append("trained from its own weights, under a new head")
            return
        learned = adapt(
            teacher, road, walk.folder / "adapted", fine_tune=not settings.freeze, train=config.train, loss=loss
        )
        walk.networks["student"] = learned.module
        walk.notes.append(learned.method)
