"""Two light teachers of different inductive bias, their labels stored once, one small ViT.

Shows   what a convolution teacher, an involution teacher and both together are worth to a ViT of 1 M parameters, beside
        the same student trained alone for as many steps. One store serves all students.
Paper   Distilling Inductive Bias / LIB-KD (arXiv 2310.00369), after Co-advise (Ren et al., CVPR 2022).
Data    CIFAR-10 as a MedMNIST-layout .npz or as torchvision lays it out.
Cost    about 30 minutes on two processor cores in all; --small: about 10 minutes.
Command pocketvit run recipes/ensemble_cifar10.py --images data/cifar10.npz
Result  recipes/ensemble_cifar10.md
"""

from __future__ import annotations

from pathlib import Path

from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.road.images import open_road
from pocketvit.road.label import label_road
from pocketvit.road.light import train_teacher

VIEW = ViewConfig(view_size=32, crop="padded", flip=0.5, randaugment_ops=2, randaugment_magnitude=7.0, erase=0.25)
TEACHERS = {"conv": "cifar_resnet20", "inv": "cifar_rednet20"}


def config(small: bool = False) -> RunConfig:
    """The student of every arm; only its teachers change.

    It is measured with plain patches and AdamW; `distill` takes a convolution before the patches, and Muon.
    """
    epochs = 4 if small else 8
    return RunConfig(
        network=NetworkConfig("pocket_xs" if small else "pocket_s", stem="patch"),
        labels=LabelConfig(views=epochs),
        view=VIEW,
        loss=LossConfig(objective="zscore", temperature=2.0, weight=0.9),
        train=TrainConfig(
            epochs=epochs,
            batch_size=128,
            optimizer="adamw",
            learning_rate=1e-3,
            warmup=1 / epochs,
            precision="bf16",
        ),
    )


def recipe(images: str | None, folder: Path, small: bool) -> str:
    """Train the teachers on 15,000 images, label 3,000 of them once, train 4 arms x 3 seeds on those."""
    road = open_road(images or "data/cifar10.npz", config(small).view, folder.parent / "shared")
    teaching = TrainConfig(epochs=2 if small else 6, batch_size=128, warmup=0.1, precision="bf16")
    light = ViewConfig(view_size=32, crop="padded", flip=0.5)
    road = road.reduced(4000 if small else 15000)
    teachers = {key: train_teacher(road, name, teaching, input_size=32, view=light) for key, name in TEACHERS.items()}
    road = road.reduced(1000 if small else 3000)
    store = label_road(road, list(teachers.values()), config(small).labels)
    chosen = {
        "alone": ("student alone", ()),
        "conv": ("+ convolution teacher", ("conv",)),
        "inv": ("+ involution teacher", ("inv",)),
        "both": ("+ both teachers", ("conv", "inv")),
    }
    arms = [
        Arm(key, name, config(small), tuple(teachers[one] for one in keys), store if keys else None)
        for key, (name, keys) in chosen.items()
    ]
    found = run_arms(road, arms, range(3), folder)
    return report_arms(road, arms, found, folder, against="alone", teachers=list(teachers.values()), title=__doc__)
