"""A small ViT by the clock: stems and labels compared at equal training time, on all of CIFAR-10.

Shows   what a ViT of 0.9 M parameters reaches on CIFAR-10 in 10 and in 30 minutes of one processor core, with a
        convolution before its patches (hybrid, stock timm), with a residual convolutional stem (conv) and with its
        teacher's first layers (teacher), by the stored answers of a published network and by the labels alone.
Paper   Muon (Jordan et al. 2024); Early Convolutions Help Transformers See Better (arXiv 2106.14881).
Data    a folder with CIFAR-10 as cifar10.npz (MedMNIST layout; its test split is scored) and the weights of a CIFAR
        ResNet (cifar10_resnet56-4bfd9763.th of akamaster's repository).
Cost    three hours of one processor core for the students, and half an hour for the labels; --small: about 5 minutes.
Command pocketvit run recipes/fast_students.py --images data/
Result  recipes/fast_students.md
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from _cifar import open_cifar

from pocketvit.config import LabelConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.road.images import open_road
from pocketvit.road.label import label_road
from pocketvit.road.stems import with_stem

SHORT, LONG = 10, 30  # minutes
# key -> (stem, minutes, whether it learns the teacher's answers)
ARMS = {
    "conv-long-alone": ("conv", LONG, False),
    "conv-short": ("conv", SHORT, True),
    "hybrid-short": ("hybrid", SHORT, True),
    "conv-long": ("conv", LONG, True),
    "hybrid-long": ("hybrid", LONG, True),
    "teacher-short": ("teacher", SHORT, True),
    "teacher-long": ("teacher", LONG, True),
}


def config(small: bool = False, stem: str = "conv", minutes: float = SHORT) -> RunConfig:
    """A student that learns for so long; the clock ends it, and its learning rate goes down by the clock too."""
    return RunConfig(
        network=NetworkConfig("pocket_s", stem=stem),  # type: ignore[arg-type]
        view=ViewConfig(view_size=32, crop="padded", flip=0.5),
        labels=LabelConfig(views=1 if small else 2),
        train=TrainConfig(
            epochs=4,  # about
            seconds=minutes if small else 60 * minutes,
            batch_size=64,
            optimizer="muon",
            learning_rate=5e-3,
            schedule="wsd",
            precision="fp32",
        ),
    )


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(ARMS), seeds: int = 1) -> str:
    """Label all training images once, then train every arm by the clock."""
    dataset, teacher = open_cifar(images)
    chosen = config(small)
    # Nothing is chosen on validation images, so that all 50,000 are learned.
    road = open_road(dataset, chosen.view, folder.parent / "shared")
    if small:
        road = road.reduced(1_000)
    taught = any(ARMS[key][2] for key in only)
    store = label_road(road, [teacher], chosen.labels) if taught else None
    arms = []
    for key in only:
        stem, minutes, by_teacher = ARMS[key]
        name = f"{stem}, {minutes} minutes, {'the teacher and labels' if by_teacher else 'labels alone'}"
        chosen = config(small, stem, minutes)
        if stem == "teacher":
            chosen = dataclasses.replace(chosen, network=with_stem(chosen.network, teacher, 32))
        arm = Arm(key, name, chosen)
        arms.append(dataclasses.replace(arm, teachers=(teacher,), store=store) if by_teacher else arm)
    found: dict[str, list[dict[str, Any]]] = run_arms(road, arms, range(seeds), folder)
    return report_arms(road, arms, found, folder, against=only[0], teachers=[teacher], title=__doc__ or "")
