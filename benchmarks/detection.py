"""A detector's distillation step from stored boxes over a plain supervised step of the same detector.

    python benchmarks/detection.py [--json]

The student of `demo --task detection` on drawn scenes of 64 px, with the same views and optimizer; only what it learns
from differs: the true boxes, or a teacher's stored boxes and the true ones. A step includes waiting for its batch.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from _steps import BLOCK, block
from _timing import alternate, print_table, run

from pocketvit.config import LabelConfig, LossConfig, TrainConfig, ViewConfig
from pocketvit.road.images import open_road
from pocketvit.road.label import label_road
from pocketvit.sources import open_images
from pocketvit.sources.subset import Subset
from pocketvit.teachers import load_teacher
from pocketvit.training import Feed, Stepper

BATCH, IMAGES = 16, 256
VIEW = ViewConfig(view_size=64, fit="pad", crop="zoom", flip=0.5, color_jitter=0.2)
STUDENT, TEACHER = "pocket_xs", "pocket_m"


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print the rates and return the ratio."""
    with tempfile.TemporaryDirectory() as folder:
        road = open_road(open_images("scenes", progress=False), VIEW, Path(folder), device="cpu")
        road = road.with_train(Subset(road.dataset.train, np.arange(IMAGES)))
        side, task, classes = road.view.view_size, road.task, road.dataset.classes
        network = task.light_network(TEACHER, classes=len(classes), side=side)
        teacher = load_teacher(network, input_size=side, norm="half", classes=classes).with_kind(task.kind)
        store = label_road(road, [teacher], LabelConfig(views=1))

        def steps(loss: LossConfig) -> Stepper:
            student = task.light_network(STUDENT, classes=len(classes), side=side)
            config = TrainConfig(batch_size=BATCH, optimizer="muon", learning_rate=2e-3, precision="fp32")
            return Stepper(student, road.input, task.loss(loss, model=student), config, 1000, task=task)

        def endless(**learned):
            feed = Feed(road.views, BATCH, task=task, **learned)
            for epoch in range(1_000_000):
                yield from feed.epoch(epoch)

        medians = alternate(
            {
                "true boxes": block(steps(LossConfig(weight=0.0)), endless()),
                "stored boxes and true ones": block(
                    steps(LossConfig(objective="boxes", weight=0.5)),
                    endless(labels=store, teachers=store.teachers(), view_count=1),
                ),
            },
            arguments.seconds,
        )
    plain, stored = medians.values()
    rows = [(name, 1000 * one / BLOCK, BLOCK * BATCH / one) for name, one in medians.items()]
    print(f"a step of {BATCH} images of {VIEW.view_size} px in fp32")
    print_table(("learning from", "ms per step", "images/s"), rows)
    return {"stored_boxes_over_plain": stored / plain}


if __name__ == "__main__":
    run(measure, __doc__, seconds=20.0)
