"""No image at all: a small ViT from a published CIFAR-10 network, by each way of making images out of it.

Shows   what a ViT of half a million parameters learns from a convolutional teacher without seeing a real image: from
        noise, from one photograph cropped, from drawn pictures that the teacher chose, from these moved or optimized
        for it; beside the same student on real images at equal steps and under the same views, the ceiling.
Paper   What Makes a Good Dataset for Knowledge Distillation? (arXiv 2411.12817); DeepInversion (arXiv 1912.08795).
Data    a folder with CIFAR-10 as cifar10.npz (MedMNIST layout; its test split is scored, the ceiling sees 12,000 of its
        training images) and the weights of a CIFAR ResNet (cifar10_resnet20-12fca82f.th of akamaster's repository).
Cost    about an hour of one processor core, most of it the teacher's; --small: about 5 minutes.
Command pocketvit run recipes/datafree_cnn.py --images data/
Result  recipes/datafree_cnn.md
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from pocketvit.config import LabelConfig, NetworkConfig, RunConfig, TrainConfig
from pocketvit.errors import PocketError
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.road.images import Road, open_road
from pocketvit.road.label import label_road
from pocketvit.sources import open_images
from pocketvit.synthesis import (
    Bank,
    DrawnConfig,
    InversionConfig,
    Noise,
    Photograph,
    draw_bank,
    invert_bank,
    sample_photograph,
)
from pocketvit.teachers import Teacher, load_teacher
from pocketvit.views.synthetic import hard_views

ARMS = {
    "real": "real images (the ceiling)",
    "noise": "noise",
    "photograph": "one photograph",
    "drawn": "drawn, chosen by the teacher",
    "pushed": "drawn, chosen and pushed",
    "inverted": "inverted, starting from these",
}


def config(small: bool = False, images: int = 12_000) -> RunConfig:
    """The student of every arm: 96,000 views, however many images they show."""
    epochs = (6_000 if small else 96_000) // images
    return RunConfig(
        network=NetworkConfig("pocket_xs", stem="hybrid"),
        view=hard_views(32),
        labels=LabelConfig(views=min(epochs, 10)),
        train=TrainConfig(epochs=epochs, batch_size=64, optimizer="muon", learning_rate=5e-3, precision="fp32"),
    )


def bank_of(key: str, teacher: Teacher, folder: Path, small: bool) -> Bank:
    """Make the images of an arm, or open them."""
    count = 1_200 if small else 12_000
    place = folder / "banks" / key
    if key == "noise":
        return draw_bank(place, teacher, DrawnConfig(count, looked_at=1), candidates=Noise(0, teacher.input_size))
    if key == "photograph":
        picture, name = sample_photograph(teacher.input_size)
        crops = Photograph(picture, 0, teacher.input_size, name)
        return draw_bank(place, teacher, DrawnConfig(count, looked_at=4), candidates=crops)
    if key == "drawn":
        return draw_bank(place, teacher, DrawnConfig(count, looked_at=4))
    if key == "pushed":
        return draw_bank(place, teacher, DrawnConfig(count, looked_at=4, steps=8))
    start = bank_of("drawn", teacher, folder, small)
    return invert_bank(place, teacher, InversionConfig(count // 4, steps=15), start=start)


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(ARMS), seeds: int = 1) -> str:
    """Six arms at equal steps, one seed."""
    place = Path(images or "data")
    weights = sorted(place.glob("cifar10_resnet*.th"))
    if not (place / "cifar10.npz").is_file() or not weights:
        raise PocketError(f"{place} should hold cifar10.npz and cifar10_resnetN-*.th: see the recipe's text.")
    arch = f"cifar_{re.findall(r'resnet[0-9]+', weights[0].name)[0]}"
    teacher = load_teacher(weights[0], arch=arch, input_size=32, norm="imagenet")
    shared = folder.parent / "shared"
    real = open_road(open_images(place / "cifar10.npz", val_fraction=0), config(small).view, shared)
    real = real.reduced(1_200 if small else 12_000)
    arms: list[Arm] = []
    found: dict[str, list[dict[str, Any]]] = {}
    for key in only:
        road = real if key == "real" else without_images(real, bank_of(key, teacher, folder, small), shared)
        chosen = config(small, images=len(road.dataset.train))
        # The ground truth has no part in any arm: a bank has none.
        chosen = dataclasses.replace(chosen, loss=dataclasses.replace(chosen.loss, weight=1.0))
        store = label_road(road, [teacher], chosen.labels)
        arm = Arm(key, ARMS[key], chosen, (teacher,), store)
        arms.append(arm)
        found |= run_arms(road, [arm], range(seeds), folder)
    return report_arms(real, arms, found, folder, against=only[0], teachers=[teacher], title=__doc__ or "")


def without_images(real: Road, bank: Bank, shared: Path) -> Road:
    """A bank's pictures in place of the training images; of the real ones the test split is left, to be scored."""
    made = dataclasses.replace(bank.dataset(), classes=real.dataset.classes, test=real.dataset.test)
    return open_road(made, real.view, shared)
