"""Does complementarity pay, or only a second teacher? Convolution + involution against convolution + convolution.

Shows   the same 1 M-parameter ViT alone, with a convolution teacher, with an involution teacher, with convolution +
        involution, and, as the control, with convolution + a second convolution that is as good as the involution.
Paper   Co-advise (Ren et al., CVPR 2022) and LIB-KD (arXiv 2310.00369) claim that inductive biases add up; a second
        teacher of the same kind is what such a claim has to beat.
Data    CIFAR-10 as a MedMNIST-layout .npz or as torchvision lays it out.
Cost    about 50 minutes on one processor core (no AVX-512) in all; --small: about 10 minutes.
Command pocketvit run recipes/complementary_teachers.py --images data/cifar10.npz
Result  recipes/complementary_teachers.md
"""

from __future__ import annotations

from pathlib import Path

from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.road.images import Road, open_road
from pocketvit.road.label import label_road
from pocketvit.road.light import train_teacher
from pocketvit.teachers import Teacher

VIEW = ViewConfig(view_size=32, crop="padded", flip=0.5, randaugment_ops=1, randaugment_magnitude=7.0, erase=0.25)
LIGHT = ViewConfig(view_size=32, crop="padded", flip=0.5)
# Name in tables -> architecture, seed, epochs. The second convolution network is trained until it is as good as the
# involution network, so that what it adds beside the first can be compared with what that one adds.
TEACHERS = {"conv": ("cifar_resnet20", 0, 6), "conv2": ("cifar_resnet20", 1, 5), "inv": ("cifar_rednet20", 0, 6)}
ARMS = {
    "alone": ("student alone", ()),
    "conv": ("+ convolution", ("conv",)),
    "inv": ("+ involution", ("inv",)),
    "conv-conv": ("+ convolution + convolution", ("conv", "conv2")),
    "conv-inv": ("+ convolution + involution", ("conv", "inv")),
}


def config(small: bool = False) -> RunConfig:
    """The student of every arm; only its teachers change. Patches of 8 pixels: four times as many images per hour.

    It is measured with plain patches and AdamW; `distill` takes a convolution before the patches, and Muon.
    """
    epochs = 4 if small else 5
    return RunConfig(
        network=NetworkConfig("pocket_s", patch=8, stem="patch"),
        labels=LabelConfig(views=epochs),
        view=VIEW,
        loss=LossConfig(objective="zscore", temperature=2.0, weight=0.9),
        train=TrainConfig(
            epochs=epochs,
            batch_size=128,
            optimizer="adamw",
            learning_rate=1e-3,
            warmup=1 / epochs,
            precision="fp32",
        ),
    )


def teachers_of(road: Road, small: bool, keys: tuple[str, ...]) -> dict[str, Teacher]:
    """Train these teachers on the road's images, or reuse them."""
    teachers = {}
    for key in keys:
        name, seed, epochs = TEACHERS[key]
        epochs = 2 if small else epochs
        teaching = TrainConfig(epochs=epochs, batch_size=128, warmup=0.1, precision="fp32", seed=seed)
        teachers[key] = train_teacher(road, name, teaching, input_size=32, view=LIGHT)
        teachers[key].name = key
    return teachers


def recipe(images: str | None, folder: Path, small: bool) -> str:
    """Train the teachers on 20,000 images, label 6,000 of them once, train 5 arms x 3 seeds on those."""
    road = open_road(images or "data/cifar10.npz", config(small).view, folder.parent / "shared")
    road = road.reduced(4000 if small else 20000)
    teachers = teachers_of(road, small, tuple(TEACHERS))
    road = road.reduced(1000 if small else 6000)
    store = label_road(road, list(teachers.values()), config(small).labels)
    arms = [
        Arm(key, name, config(small), tuple(teachers[one] for one in keys), store if keys else None)
        for key, (name, keys) in ARMS.items()
    ]
    found = run_arms(road, arms, range(3), folder)
    return report_arms(road, arms, found, folder, against="conv-conv", teachers=list(teachers.values()), title=__doc__)
