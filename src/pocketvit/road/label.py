"""The stage of soft labels: every view of the training images answered by every teacher, once."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from ..config import LabelConfig
from ..errors import PocketError
from ..files import human_time, read_json, write_json
from ..labels import LabelStore, plan_labels, teacher_key, verify, write_labels
from ..teachers import Teacher
from ..training.distributed import from_rank_zero
from .adapt import answering_plan
from .base import Cost, Stage, Walk
from .images import Road

REPLAYED = 8  # records of each teacher

log = logging.getLogger("pocketvit")


def label_road(
    road: Road, teachers: Sequence[Teacher], labels: LabelConfig, *, folder: Path | None = None
) -> LabelStore:
    """Label the training views with every teacher, or reuse what is there, and say which."""
    folder = folder or road.store_folder(labels)
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


def is_complete(folder: Path, teachers: Sequence[Teacher], views: int) -> bool:
    """Whether a store holds these views by these teachers."""
    try:
        store = LabelStore(folder)
        return all(set(range(views)) <= set(store.views(store.key(teacher))) for teacher in teachers)
    except PocketError:
        return False


def _begun(folder: Path, teachers: Sequence[Teacher]) -> list[Teacher]:
    """Those of the teachers of which some shard is there."""
    return [one for one in teachers if next((folder / teacher_key(one)).glob("view-*/*.safetensors"), None)]


def _replay(road: Road, folder: Path, teachers: Sequence[Teacher]) -> None:
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
        return is_complete(folder, walk.teachers, walk.config.labels.views)

    def cost(self, walk: Walk) -> Cost:
        road, labels = walk.road, walk.config.labels
        teachers = answering_plan(walk)
        planned = plan_labels(len(road.dataset.train), teachers, road.views, labels.views, k=labels.top_k)
        return Cost(planned.seconds or 0.0, planned.bytes)

    def run(self, walk: Walk) -> None:
        if walk.untaught:
            return
        walk.store = label_road(walk.road, walk.teachers, walk.config.labels)
        walk.extra["labels"] = [
            walk.store.key(teacher) for teacher in walk.teachers
        ]  # for `compress`, which loads none
