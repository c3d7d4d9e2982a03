"""The stage of a teacher that is far larger than its student, trained here: what `demo` has instead of a user's own."""

from __future__ import annotations

import logging

from ..config import TrainConfig
from .adapt import judge_teachers
from .base import Stage, Walk
from .light import train_teacher

log = logging.getLogger("pocketvit")


class LargeTeacher(Stage):
    """A convolutional network trained on all labels of the images.

    Args:
        network: Its name.
        train: How it learns; with Muon.
    """

    name = "adapt"
    reads = ("images",)
    writes = ("teachers",)

    def __init__(self, network: str, train: TrainConfig) -> None:
        self.network, self.train = network, train

    def run(self, walk: Walk) -> None:
        log.info("teacher  a large one is trained on all labels")
        side = walk.road.view.view_size
        walk.teachers = [train_teacher(walk.road, self.network, self.train, input_size=side)]
        if walk.road.processes.rank == 0:
            walk.entries = judge_teachers(walk.teachers, walk.road)
