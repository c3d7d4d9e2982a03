"""The stage of soft labels: every view of the training images answered by every teacher, once."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import LabelConfig
from ..files import human_time, read_json, write_json
from ..labels import LabelStore, is_complete, plan_labels, teacher_key, verify, write_labels
from ..teachers import Teacher
from ..teachers.layer import LayerTeacher
from ..training.distributed import from_rank_zero
from .adapt import answering_plan
from .base import Cost, Stage, Walk
from .features import stored_layers
from .images import Road

REPLAYED = 8  # records of each teacher

log = logging.getLogger("pocketvit")


def label_road(
    road: Road,
    teachers: Sequence[Teacher],
    labels: LabelConfig,
    *,
    layers: Sequence[LayerTeacher] = (),
    folder: Path | None = None,
) -> LabelStore:
    """Label the training views with every teacher, or reuse what is there, and say which.

    Args:
        road: Images and views.
        teachers: Live.
        labels: How many views, and what is kept of them.
        layers: Of these teachers, stored from the same forward pass (see `stored_layers`).
        folder: The store; None for the road's own.
    """
    folder = folder or road.store_folder(labels)
    teachers = with_layers(teachers, layers)
    ledger = folder / "cost.json"  # seconds that each record set took, to say what reuse saves
    costs = read_json(ledger) if ledger.is_file() else {}
    before = _begun(folder, teachers)
    who = road.processes
    if before:
        _replay(road, folder, before)
    complete = from_rank_zero(is_complete(folder, teachers, labels.views), who.world)
    start = time.monotonic()
    store = write_labels(
        folder, road.dataset.train, road.views, teachers, labels.views,
        k=labels.top_k, progress=not complete, rank=who.rank, world=who.world,
    )  # fmt: skip
    seconds = time.monotonic() - start
    names = [store.key(teacher) for teacher in teachers]
    if complete:
        saved = sum(costs.get(name, 0.0) for name in names)
        log.info("labels   reused from %s%s", folder, f", which saved about {human_time(saved)}" if saved else "")
    elif who.rank == 0:
        share = seconds / len(names)
        write_json(ledger, costs | {name: costs.get(name, 0.0) + share for name in names})
        log.info(
            "labels   stored in %s in %s%s",
            folder,
            human_time(seconds),
            " (resumed)" if len(before) == len(teachers) else "",
        )
    return store


def with_layers(teachers: Sequence[Teacher], layers: Sequence[LayerTeacher]) -> list[Any]:
    """Return the teachers and those of their layers that are stored, so that one forward pass answers for both."""
    heard = {id(layer.teacher.teacher): layer.teacher for layer in layers}
    return [*(heard.get(id(teacher), teacher) for teacher in teachers), *layers]


def _begun(folder: Path, teachers: Sequence[Any]) -> list[Any]:
    """Those of the teachers of which some shard is there."""
    return [one for one in teachers if next((folder / teacher_key(one)).glob("view-*/*.safetensors"), None)]


def _replay(road: Road, folder: Path, teachers: Sequence[Any]) -> None:
    """Ask the teachers a few of what is stored again.

    A store knows a teacher by its weights; what its code makes of them (another ``forward``, another ``read`` of a
    detector) only its answers tell, and then nearly all of them.
    """
    store = LabelStore(folder)
    held = [teacher for teacher in teachers if store.views(store.key(teacher))]
    verify(store, road.dataset.train, road.views, held, REPLAYED, beyond=0.5)


class Label(Stage):
    """Teachers' answers to every view, stored."""

    name = "label"
    reads = ("images", "teachers")
    writes = ("labels",)

    def done(self, walk: Walk) -> bool:
        if walk.untaught:
            return True
        folder = walk.road.store_folder(walk.config.labels)
        asked = with_layers(walk.teachers, stored_layers(walk.road, walk.config, walk.teachers))
        return is_complete(folder, asked, walk.config.labels.views)

    def cost(self, walk: Walk) -> Cost:
        if walk.untaught:  # folds ask it, done or not
            return Cost()
        road, labels, teachers = walk.road, walk.config.labels, answering_plan(walk)
        asked = with_layers(teachers, stored_layers(road, walk.config, teachers))
        planned = plan_labels(len(road.dataset.train), asked, road.views, labels.views, k=labels.top_k)
        return Cost(planned.seconds or 0.0, planned.bytes)

    def run(self, walk: Walk) -> None:
        if walk.untaught:
            return
        layers = stored_layers(walk.road, walk.config, walk.teachers)
        walk.store = label_road(walk.road, walk.teachers, walk.config.labels, layers=layers)
        walk.extra["labels"] = [
            walk.store.key(teacher) for teacher in walk.teachers
        ]  # for `compress`, which loads none
