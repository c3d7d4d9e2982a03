"""The trap and the curve: stored labels pay only if the very same view is replayed; how many views are enough?

Shows   a student trained from stored labels of V views per image, V = 1, 2, 4 and one per epoch, replayed, against V =
        1 and 4 with *other* augmentations than those that were labelled (the trap), and alone; where views are few, an
        even share of the labels and a third of the epochs on the ground truth alone (soft, hard, soft); and KL, at one
        temperature and at one that is annealed.
Paper   the trap: a public replication of LIB-KD (arXiv 2310.00369) lost 17 points by it; replay as in TinyViT (ECCV
        2022) and "A good teacher is patient and consistent" (Beyer et al., CVPR 2022); HALD (arXiv 2512.15647); LPQLD
        (Xiao & He, TPAMI 2025).
Data    a folder with CIFAR-10 as cifar10.npz (MedMNIST layout; 10,000 of its training images are learned, its test
        split is scored) and the weights of a CIFAR ResNet (cifar10_resnet20-12fca82f.th of akamaster's repository).
Cost    about two hours of one processor core; --small: about 4 minutes.
Command pocketvit run recipes/replayed_views.py --images data/
Result  recipes/replayed_views.md
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _cifar import open_cifar

from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.labels import LabelStore
from pocketvit.road.images import open_road
from pocketvit.road.label import label_road

EPOCHS, IMAGES = 12, 10_000
VIEW = ViewConfig(view_size=32, crop="padded", flip=0.5)


class Kind(NamedTuple):
    """What a student learns from."""

    name: str
    views: int = EPOCHS
    loss: LossConfig = LossConfig("zscore", 2.0, weight=0.9)
    replayed: bool = True


ARMS = {
    "all": Kind("V = epochs, replayed"),
    "alone": Kind("no teacher, labels alone", loss=LossConfig(weight=0.0)),
    "replayed-1": Kind("V = 1, replayed", 1),
    "trap-1": Kind("V = 1, not replayed", 1, replayed=False),
    "replayed-2": Kind("V = 2, replayed", 2),
    "replayed-4": Kind("V = 4, replayed", 4),
    "trap-4": Kind("V = 4, not replayed", 4, replayed=False),
    "hard-1": Kind("V = 1, four epochs in the middle by labels alone", 1, LossConfig(hard_share=1 / 3)),
    "half-1": Kind("V = 1, half of the loss by labels", 1, LossConfig(weight=0.5)),
    "hard-2": Kind("V = 2, four epochs in the middle by labels alone", 2, LossConfig(hard_share=1 / 3)),
    "hard-4": Kind("V = 4, four epochs in the middle by labels alone", 4, LossConfig(hard_share=1 / 3)),
    "kl-4": Kind("V = 4, KL T=2", 4, LossConfig("kl", 2.0)),
    "annealed-4": Kind("V = 4, KL, T from 4 to 1", 4, LossConfig("kl", 4.0, last_temperature=1.0)),
}


def config(kind: Kind = ARMS["all"], small: bool = False) -> RunConfig:
    """The student of every arm; only its labels and what is made of them change."""
    epochs = 4 if small else EPOCHS
    return RunConfig(
        network=NetworkConfig("pocket_xs", stem="conv"),
        labels=LabelConfig(views=min(kind.views, epochs)),
        view=VIEW,
        loss=kind.loss,
        train=TrainConfig(
            epochs=epochs, batch_size=64, optimizer="muon", learning_rate=5e-3, schedule="wsd", precision="fp32"
        ),
    )


class Unreplayed(LabelStore):
    """The trap: the labels of a store's first ``count`` views, shown beside a fresh augmentation every epoch."""

    def __init__(self, store: LabelStore, count: int) -> None:
        super().__init__(store.folder)
        self.count = count

    def read(self, teacher: str, view: int, rows: np.ndarray | None = None) -> Any:
        return super().read(teacher, view % self.count, rows)


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(ARMS), seeds: int = 1) -> str:
    """Label the views of a part of CIFAR-10 once, then train every arm over paired seeds."""
    dataset, teacher = open_cifar(images)
    whole = config(small=small)
    # Nothing is chosen on validation images: the last weights count.
    road = open_road(dataset, whole.view, folder.parent / "shared").reduced(1_000 if small else IMAGES)
    store = label_road(road, [teacher], whole.labels)
    arms = []
    for key in only:
        kind = ARMS[key]
        chosen = config(kind, small)
        labels: LabelStore = store if kind.replayed else Unreplayed(store, chosen.labels.views)
        if not kind.replayed:  # a fresh view each epoch, beside labels of others
            chosen = dataclasses.replace(chosen, labels=whole.labels)
        taught = kind.loss.weight > 0
        arms.append(Arm(key, kind.name, chosen, (teacher,) if taught else (), labels if taught else None))
    found = run_arms(road, arms, range(seeds), folder)
    return report_arms(road, arms, found, folder, against=only[0], teachers=[teacher], title=__doc__ or "")
