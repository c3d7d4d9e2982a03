"""What light teachers hand to a small ViT, at a budget where it has learned: convolution, involution, and both.

Shows   a ViT of half a million parameters that reaches more than nine in ten, by its labels alone and beside the stored
        answers of a convolution, of an involution, of both - and of two convolutions, the control: what is claimed of
        teachers that complement each other must beat a second teacher of the same kind. The second convolution learns
        for fewer epochs, so that it is no better than the involution.
Paper   Co-advise (Ren et al., CVPR 2022) and LIB-KD (arXiv 2310.00369): inductive biases add up.
Data    a MedMNIST-layout .npz of 28 px (blood cells); any other set of images works.
Cost    an hour and a half of one processor core; --small: about 10 minutes.
Command pocketvit run recipes/light_teachers.py --images data/blood_28.npz
Result  recipes/light_teachers.md
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.road.images import Road, open_road
from pocketvit.road.label import label_road
from pocketvit.road.light import train_teacher
from pocketvit.teachers import Teacher

SIDE = 28  # pixels
EPOCHS = 10
# key -> (architecture, seed, epochs)
TEACHERS = {"conv": ("cifar_resnet20", 0, 8), "conv2": ("cifar_resnet20", 1, 5), "inv": ("cifar_rednet11", 0, 8)}
# key -> (name in the table, its teachers)
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "alone": ("student alone", ()),
    "conv": ("+ convolution", ("conv",)),
    "inv": ("+ involution", ("inv",)),
    "conv-conv": ("+ convolution + convolution", ("conv", "conv2")),
    "conv-inv": ("+ convolution + involution", ("conv", "inv")),
}
VIEW = ViewConfig(view_size=SIDE, crop="padded", flip=0.5, vertical_flip=0.5)


def config(small: bool = False) -> RunConfig:
    """The student of every arm; only its teachers change."""
    return RunConfig(
        network=NetworkConfig("pocket_xs", stem="conv"),
        labels=LabelConfig(views=EPOCHS),
        view=VIEW,
        loss=LossConfig(objective="zscore", temperature=2.0, weight=0.9),
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
        found[key] = train_teacher(road, name, train, input_size=SIDE)
        found[key].name = f"{key} ({name}, {train.epochs} epochs)"
    return found


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(ARMS), seeds: int = 3) -> str:
    """The teachers once, their labels once, then every arm over paired seeds."""
    road = open_road(images or "data/blood_28.npz", VIEW, folder.parent / "shared")
    if small:
        road = road.reduced(1_000)
    teachers = teachers_of(road, small, sorted({key for arm in only for key in ARMS[arm][1]}))
    chosen = config(small)
    store = label_road(road, list(teachers.values()), chosen.labels) if teachers else None
    arms = []
    for key in only:
        name, keys = ARMS[key]
        arms.append(Arm(key, name, chosen, tuple(teachers[one] for one in keys), store if keys else None))
    found = run_arms(road, arms, range(seeds), folder)
    return report_arms(road, arms, found, folder, against=only[0], teachers=list(teachers.values()), title=__doc__)
