"""The trap and the curve: stored labels pay only if the very same view is replayed; how many views are enough?

Shows   a student trained from stored labels of V views per image, V = 1, 5 and one per epoch, replayed, against V = 1
        and 5 with *other* augmentations than those that were labelled (the trap), against live teachers, and alone.
Paper   the trap: a public replication of LIB-KD (arXiv 2310.00369) lost 17 points by it; replay as in TinyViT (ECCV
        2022) and "A good teacher is patient and consistent" (Beyer et al., CVPR 2022).
Data    CIFAR-10, and the published ResNet-56 for it (0.85 M parameters, 93.39 %), given as --images DATA,WEIGHTS.
Cost    about 15 minutes on two processor cores; --small: about 4 minutes.
Command pocketvit run recipes/replayed_views.py --images data/cifar10.npz,cifar10_resnet56-4bfd9763.th
Result  recipes/replayed_views.md
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.errors import PocketError
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.labels import LabelStore
from pocketvit.road.images import open_road
from pocketvit.road.label import label_road
from pocketvit.teachers import load_teacher

EPOCHS = 8


def config(views: int, small: bool = False) -> RunConfig:
    """The student of every arm; only the number of stored views changes.

    It is measured with plain patches and AdamW; `distill` takes a convolution before the patches, and Muon.
    """
    epochs = 5 if small else EPOCHS
    return RunConfig(
        network=NetworkConfig("pocket_xs", stem="patch"),
        labels=LabelConfig(views=min(views, epochs)),
        view=ViewConfig(
            view_size=32, crop="padded", flip=0.5, randaugment_ops=2, randaugment_magnitude=7.0, erase=0.25
        ),
        loss=LossConfig(objective="zscore", temperature=2.0, weight=1.0),
        train=TrainConfig(
            epochs=epochs,
            batch_size=128,
            optimizer="adamw",
            learning_rate=1e-3,
            warmup=1 / epochs,
            precision="bf16",
        ),
    )


class Unreplayed(LabelStore):
    """The trap: the labels of a store's first ``count`` views, shown beside a fresh augmentation every epoch."""

    def __init__(self, store: LabelStore, count: int) -> None:
        super().__init__(store.folder)
        self.count = count

    def read(self, teacher: str, view: int, rows: np.ndarray | None = None) -> Any:
        return super().read(teacher, view % self.count, rows)


def recipe(images: str | None, folder: Path, small: bool) -> str:
    """Label the views of a part of CIFAR-10 once, then train 7 arms x 3 seeds (one seed of the live arm)."""
    data, _, weights = (images or "data/cifar10.npz,cifar10_resnet56-4bfd9763.th").partition(",")
    if not weights:
        raise PocketError("name the data and the teacher's weights: --images data/cifar10.npz,cifar10_resnet56.th")
    whole = config(EPOCHS, small)
    road = open_road(data, whole.view, folder.parent / "shared").reduced(1000 if small else 3000)
    teacher = load_teacher(weights, arch="cifar_resnet56", input_size=32, norm="imagenet")
    store = label_road(road, [teacher], whole.labels)

    def arm(key: str, name: str, views: int, **options: Any) -> Arm:
        return Arm(key, name, config(views, small), (teacher,), **{"store": store, **options})

    every = whole.train.epochs
    trap = {count: arm(f"trap-{count}", f"V = {count}, not replayed", every) for count in (1, 5)}
    arms = [
        Arm("alone", "no teacher, labels alone", dataclasses.replace(whole, loss=LossConfig(weight=0.0))),
        *(dataclasses.replace(one, store=Unreplayed(store, count)) for count, one in trap.items()),
        arm("replay-1", "V = 1, replayed", 1),
        arm("replay-5", "V = 5, replayed", 5),
        arm("replay-all", "V = epochs, replayed", every),
    ]
    found = run_arms(road, arms, range(3), folder)
    live = arm("live", "live teacher", every, store=None, live=True)
    found |= run_arms(road, [live], range(1), folder)
    return report_arms(road, [*arms, live], found, folder, against="replay-all", teachers=[teacher], title=__doc__)
