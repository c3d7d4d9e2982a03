"""What light teachers hand to a small ViT, at a budget where it has learned: convolution, involution, and both.

Shows   a ViT of half a million parameters that reaches more than nine in ten, by its labels alone and beside the stored
        answers of a convolution, of an involution, of both - and of two convolutions, the control: what is claimed of
        teachers that complement each other must beat a second teacher of the same kind. The second convolution learns
        for fewer epochs, so that it is no better than the involution. The same again where the student has 400 labels
        and the other images without; and there with the teachers' last features, too.
Paper   Co-advise (Ren et al., CVPR 2022) and LIB-KD (arXiv 2310.00369): inductive biases add up.
Data    a MedMNIST-layout .npz (blood cells, CIFAR-10); any other set of images of up to 32 pixels works.
Cost    two to three hours of one processor core with one seed; --small: about 10 minutes.
Command pocketvit run recipes/light_teachers.py --images data/blood_28.npz, then data/cifar10.npz
Result  recipes/light_teachers.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TermConfig, TrainConfig, ViewConfig
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.road.images import Road, open_road
from pocketvit.road.label import label_road
from pocketvit.road.light import train_teacher
from pocketvit.road.viewing import view_size
from pocketvit.sources import open_images
from pocketvit.teachers import Teacher

LIMIT = 20_000  # training images
EPOCHS = 10
# key -> (architecture, seed, epochs)
TEACHERS = {"conv": ("cifar_resnet20", 0, 12), "conv2": ("cifar_resnet20", 1, 8), "inv": ("cifar_rednet20", 0, 12)}
TAUGHT_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "alone": ("student alone", ()),
    "conv": ("+ convolution", ("conv",)),
    "inv": ("+ involution", ("inv",)),
    "conv-conv": ("+ convolution + convolution", ("conv", "conv2")),
    "conv-inv": ("+ convolution + involution", ("conv", "inv")),
}
FEW = 400  # labels
SHARE = 0.9  # of the teachers in the loss; the rest is the labels'


@dataclass(frozen=True)
class Kind:
    """What a student learns from."""

    name: str
    teachers: tuple[str, ...]
    few: bool = False  # 400 labels; the other images only where a teacher answers them
    share: float = SHARE
    matched: bool = False  # by the teachers' features, too


ARMS = {
    **{key: Kind(name, by) for key, (name, by) in TAUGHT_BY.items()},
    "conv-inv-half": Kind("+ convolution + involution, whose share is half", ("conv", "inv"), share=0.5),
    **{f"few-{key}": Kind(f"{FEW} labels: {name}", by, few=True) for key, (name, by) in TAUGHT_BY.items()},
    **{
        f"matched-{key}": Kind(f"{FEW} labels: {name}, and features", by, few=True, matched=True)
        for key, (name, by) in TAUGHT_BY.items()
        if by
    },
}
CELLS = ViewConfig(view_size=28, crop="padded", flip=0.5, vertical_flip=0.5)
THINGS = ViewConfig(view_size=32, crop="padded", flip=0.5)


def config(small: bool = False, kind: Kind = ARMS["alone"], view: ViewConfig = CELLS) -> RunConfig:
    """The student of every arm; only its teachers change."""
    return RunConfig(
        network=NetworkConfig("pocket_xs", stem="conv"),
        labels=LabelConfig(views=EPOCHS, store_features="4GB" if kind.matched else None),
        view=view,
        loss=LossConfig(
            objective="zscore",
            temperature=2.0,
            weight=kind.share,
            terms=(TermConfig("fitnets"),) if kind.matched else (),
        ),
        train=TrainConfig(
            epochs=EPOCHS, batch_size=64, optimizer="muon", learning_rate=5e-3, schedule="wsd", precision="fp32"
        ),
    )


def teachers_of(road: Road, small: bool, keys: Sequence[str]) -> dict[str, Teacher]:
    """Train these teachers on the road's labels, or read those that are there."""
    found = {}
    for key in keys:
        name, seed, epochs = TEACHERS[key]
        train = TrainConfig(
            epochs=2 if small else epochs, batch_size=128, schedule="cosine", precision="fp32", seed=seed
        )
        found[key] = train_teacher(road, name, train, input_size=road.view.view_size)
        found[key].name = f"{key} ({name}, {train.epochs} epochs)"
    return found


def seen(road: Road, kind: Kind) -> Road:
    """What a student learns from; without teachers that is the labelled images, in as many steps."""
    return road.with_few_labels(FEW) if kind.few else road


def opened(images: str, folder: Path, small: bool) -> Road:
    """Open a set as every arm sees it."""
    dataset = open_images(images)
    view = CELLS if view_size(dataset.train) == CELLS.view_size else THINGS
    road = open_road(dataset, view, folder.parent / "shared")
    return road.reduced(1_000 if small else min(LIMIT, len(road.dataset.train)))


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(ARMS), seeds: int = 1) -> str:
    """The teachers once, their labels once, then every arm over paired seeds."""
    road = opened(images or "data/blood_28.npz", folder, small)
    view = road.view
    kinds = {key: ARMS[key] for key in only}
    teachers = teachers_of(road, small, sorted({one for kind in kinds.values() for one in kind.teachers}))
    store = label_road(road, list(teachers.values()), config(view=view).labels) if teachers else None
    arms: list[Arm] = []
    found: dict[str, list[dict[str, Any]]] = {}
    for key, kind in kinds.items():
        by = tuple(teachers[one] for one in kind.teachers)
        arms.append(Arm(key, kind.name, config(small, kind, view), by, store if by else None))
        found |= run_arms(seen(road, kind), arms[-1:], range(seeds), folder)
    return report_arms(road, arms, found, folder, against=only[0], teachers=list(teachers.values()), title=__doc__)
