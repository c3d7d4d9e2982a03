"""An assistant between teacher and student: a network of a size between theirs, which learns from the one and teaches
the other (Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020, arXiv 1902.03393).

A student far smaller than its teacher cannot follow it; it can follow one that is half-way, which followed the teacher.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from ..config import RunConfig
from ..labels import plan_labels
from ..models.names import is_pretrained
from ..settings.verbs import Distilling
from ..teachers import Teacher
from .answering import teacher_answers
from .base import Cost, Stage, Walk
from .decide import learning_rate_for, network_of
from .features import stored_layers
from .images import known
from .label import label_road
from .light import as_teacher
from .measuring import Entry
from .rates import training_seconds
from .students import input_of, make_network
from .train import describe, pupils, train_network

log = logging.getLogger("pocketvit")


def assistant_config(settings: Distilling, config: RunConfig) -> RunConfig:
    """Return how the assistant is trained: as the student is, in its own shape, without a match of features.

    Args:
        settings: Name it; every choice made.
        config: Of the student.
    """
    name = str(settings.assistant)
    plain = dataclasses.replace(
        settings, stem="auto", attention="plain", patch=None, tokens=0, detector="fcos", init_from=None
    )
    network = network_of(plain, name, config.view.view_size)
    train, pretrained = config.train, is_pretrained(name)
    if pretrained != is_pretrained(config.network.name):
        optimizer: Any = "adamw" if pretrained else "muon"
        rate = learning_rate_for(optimizer, train.batch_size, pretrained=pretrained)
        share = 0.0 if pretrained else train.progressive
        train = dataclasses.replace(train, optimizer=optimizer, learning_rate=rate, progressive=share)
    loss = dataclasses.replace(config.loss, terms=())
    return dataclasses.replace(config, network=network, loss=loss, train=train)


class Assist(Stage):
    """The assistant, trained from the teachers' stored labels."""

    name = "assistant"
    reads = ("images", "teachers", "labels")

    def cost(self, walk: Walk) -> Cost:
        if walk.settings.assistant is None:
            return Cost()
        config = assistant_config(walk.settings, walk.config)
        seconds, weights = training_seconds(dataclasses.replace(walk, config=config))
        return Cost(seconds, 7 * weights, (self._told(walk, config),))

    def trains(self, walk: Walk) -> int:
        return int(walk.settings.assistant is not None)

    def run(self, walk: Walk) -> None:
        name = walk.settings.assistant
        if name is None:
            return
        config = assistant_config(walk.settings, walk.config)
        log.info("%s", self._told(walk, config))
        folder = walk.folder / "assistant"
        model = train_network(pupils(walk), config, folder, teachers=walk.teachers, store=walk.store)
        side = input_of(config.network, model, walk.road)
        walk.assistant = as_teacher(model, walk.road, side, f"assistant {name}", "learned from the teachers")

    def _told(self, walk: Walk, config: RunConfig) -> str:
        return f"assist   {describe(config, labelled=known(walk.road.dataset.train))}"


class LabelAgain(Stage):
    """The assistant's own answers to every view, stored beside the teachers'."""

    name = "assistant-labels"
    reads = ("images", "labels")
    writes = ("labels",)

    def cost(self, walk: Walk) -> Cost:
        if walk.settings.assistant is None:
            return Cost()
        road, labels = walk.road, walk.config.labels
        network = assistant_config(walk.settings, walk.config).network
        model = make_network(network, road)
        untrained = as_teacher(model, road, input_of(network, model, road), f"assistant {network.name}", "")
        planned = plan_labels(len(road.dataset.train), [untrained], road.views, labels.views, k=labels.top_k)
        return Cost(planned.seconds or 0.0, planned.bytes)

    def run(self, walk: Walk) -> None:
        if walk.assistant is None:
            return
        layers = stored_layers(walk.road, walk.config, walk.tutors)
        walk.store = label_road(walk.road, walk.tutors, walk.config.labels, layers=layers)
        walk.extra["labels"] = [walk.store.key(walk.assistant)]  # what `compress` recovers a student from
        walk.names["student"] = f"student, distilled by way of {walk.settings.assistant}"
        walk.beside.append(assistant_entry(walk.assistant, walk))


def assistant_entry(assistant: Teacher, walk: Walk) -> Entry:
    """The assistant's row of the table."""
    return Entry(
        "assistant", f"assistant: {walk.settings.assistant}", "other", assistant.input_size,
        answer=teacher_answers(assistant, walk.road.task), model=assistant.module, calibrated=False,
        note="learned from the teachers and taught the student",
    )  # fmt: skip
