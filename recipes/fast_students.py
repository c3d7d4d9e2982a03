"""A small ViT by the clock: stems and labels compared at equal training time, on all of CIFAR-10.

Shows   what a ViT of 0.9 M parameters reaches on CIFAR-10 in 5 to 60 minutes of one processor core, with a
        convolution before its patches (hybrid, stock timm), with a residual convolutional stem (conv) and with its
        teacher's first layers (teacher), by the stored answers of a published network, by its stored features, too
        (matched), and by the labels alone; and what remains of it where 5,000, 1,000 or 250 images have labels, and
        the others only the teacher's answers.
Paper   Muon (Jordan et al. 2024); Early Convolutions Help Transformers See Better (arXiv 2106.14881).
Data    a folder with CIFAR-10 as cifar10.npz (MedMNIST layout; its test split is scored) and the weights of a CIFAR
        ResNet (cifar10_resnet56-4bfd9763.th of akamaster's repository).
Cost    as many minutes of one processor core as the arms' names say (ten hours in all), and half an hour for the
        labels; --small: about 5 minutes.
Command pocketvit run recipes/fast_students.py --images data/
Result  recipes/fast_students.md
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from _cifar import open_cifar

from pocketvit.config import (
    LabelConfig,
    LossConfig,
    NetworkConfig,
    RunConfig,
    Stem,
    TermConfig,
    TrainConfig,
    ViewConfig,
)
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.road.images import open_road
from pocketvit.road.label import label_road
from pocketvit.road.stems import with_stem

FIVE, SHORT, LONG, HOUR = 5, 10, 30, 60  # minutes
SMALLER = 0.6


class Kind(NamedTuple):
    """What a student is made of, how long it learns, and from what."""

    stem: Stem
    minutes: int
    taught: bool = True  # by the teacher's answers; else by the labels alone
    labels: int = 0  # that are known; without a teacher nothing else is seen (0: all)
    matched: bool = False  # by its features, too
    smaller: float = 0.0  # share of the time, its beginning, in smaller pictures

    @property
    def name(self) -> str:
        """Return it in the words of the table."""
        few = f"{self.labels:,} " if self.labels else ""
        teacher = "the teacher, its features" if self.matched else "the teacher"
        by = f"{teacher} and {few}labels" if self.taught else f"{few}labels alone"
        smaller = ", smaller pictures first" if self.smaller else ""
        return f"{self.stem}, {self.minutes} minutes, {by}{smaller}"


ARMS = {
    "conv-long-alone": Kind("conv", LONG, taught=False),
    "conv-short": Kind("conv", SHORT),
    "hybrid-short": Kind("hybrid", SHORT),
    "conv-long": Kind("conv", LONG),
    "hybrid-long": Kind("hybrid", LONG),
    "conv-five-alone": Kind("conv", FIVE, taught=False),
    "conv-short-alone": Kind("conv", SHORT, taught=False),
    "conv-hour": Kind("conv", HOUR),
    "teacher-five": Kind("teacher", FIVE),
    "teacher-short": Kind("teacher", SHORT),
    "teacher-long": Kind("teacher", LONG),
    **{f"few-{count}-alone": Kind("conv", SHORT, taught=False, labels=count) for count in (5_000, 1_000, 250)},
    **{f"few-{count}": Kind("conv", SHORT, labels=count) for count in (5_000, 1_000, 250)},
    "few-250-teacher": Kind("teacher", SHORT, labels=250),
    "smaller-alone": Kind("conv", SHORT, taught=False, smaller=SMALLER),
    "smaller": Kind("conv", SHORT, smaller=SMALLER),
    "matched": Kind("conv", SHORT, matched=True, smaller=SMALLER),
    "matched-teacher": Kind("teacher", SHORT, matched=True),
    "matched-long": Kind("conv", LONG, matched=True, smaller=SMALLER),
    "smaller-long-alone": Kind("conv", LONG, taught=False, smaller=SMALLER),
    "smaller-hour-alone": Kind("conv", HOUR, taught=False, smaller=SMALLER),
    "matched-hour": Kind("conv", HOUR, matched=True, smaller=SMALLER),
}


def config(small: bool = False, kind: Kind = ARMS["conv-short"]) -> RunConfig:
    """A student that learns for so long; the clock ends it, and its learning rate goes down by the clock too."""
    minutes = kind.minutes
    return RunConfig(
        network=NetworkConfig("pocket_s", stem=kind.stem),
        view=ViewConfig(view_size=32, crop="padded", flip=0.5),
        labels=LabelConfig(views=1 if small else 2, store_features="2GB"),
        loss=LossConfig(terms=(TermConfig("fitnets"),) if kind.matched else ()),
        train=TrainConfig(
            epochs=4,  # about
            seconds=minutes if small else 60 * minutes,
            batch_size=64,
            optimizer="muon",
            learning_rate=5e-3,
            schedule="wsd",
            progressive=kind.smaller,
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
    kinds = {key: ARMS[key] for key in only}
    taught = any(kind.taught for kind in kinds.values())
    store = label_road(road, [teacher], chosen.labels) if taught else None
    arms: list[Arm] = []
    found: dict[str, list[dict[str, Any]]] = {}
    for key, kind in kinds.items():
        chosen = config(small, kind)
        if kind.stem == "teacher":
            chosen = dataclasses.replace(chosen, network=with_stem(chosen.network, teacher, 32))
        by = (teacher,) if kind.taught else ()
        arms.append(Arm(key, kind.name, chosen, by, store if by else None))
        seen = road.with_few_labels(kind.labels) if kind.labels else road
        found |= run_arms(seen, arms[-1:], range(seeds), folder)
    return report_arms(road, arms, found, folder, against=only[0], teachers=[teacher], title=__doc__ or "")
