"""No image at all, and the teacher has GroupNorm: what is lost without running statistics, and what a card gives back.

Shows   what a ViT of half a million parameters learns from a convolutional teacher that keeps no moments of its data:
        from drawn pictures, from these inverted by the priors that are left, and inverted with a statistics card (means
        and variances of its layers over its training images: statistics-assisted, not data-free); beside real images
        at equal steps, the ceiling.
Paper   DeepInversion (arXiv 1912.08795), whose prior needs BatchNorm; Group Normalization (arXiv 1803.08494).
Data    a folder with CIFAR-10 as cifar10.npz (MedMNIST layout; its test split is scored) and the weights of a CIFAR
        ResNet (cifar10_resnet20-12fca82f.th of akamaster's repository), whose BatchNorm is replaced by GroupNorm and
        which then learns 20,000 training images for two epochs more; the card is of these 20,000.
Cost    about an hour and a half of one processor core; --small: a sixteenth of the images.
Command pocketvit run recipes/datafree_groupnorm.py --images data/
Result  recipes/datafree_groupnorm.md
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from _cifar import open_cifar
from datafree_cnn import IMAGES, LIGHT, Kind, bank_of, run_kinds

from pocketvit.config import RunConfig, TrainConfig
from pocketvit.road.answering import batches
from pocketvit.road.convert import converted
from pocketvit.road.images import Road, open_road
from pocketvit.road.train import train_network
from pocketvit.sources import Dataset
from pocketvit.synthesis import Bank, InversionConfig, StatisticsCard, invert_bank, measure_card, read_card
from pocketvit.synthesis.card import FILE
from pocketvit.teachers import Teacher, load_teacher

TAUGHT = 20_000  # real images that the teacher learns, and that its card is of
STEPS = 15  # of inversion, as in datafree_cnn
_AS_A_RUN: dict[str, Any] = {"stem": "teacher", "schedule": "wsd"}
ARMS = {
    "real": Kind("real images, light views (the ceiling)", "real", view=LIGHT),
    "drawn": Kind("drawn, chosen by the teacher", "drawn"),
    "real-matched": Kind(
        "as a run has it unasked (first layers, features): real images", "real", view=LIGHT, **_AS_A_RUN, matched=1.0
    ),
    "drawn-matched": Kind("as a run has it unasked: drawn", "drawn", 12_000, **_AS_A_RUN, matched=3.0),
    "inverted": Kind("inverted, data-free", "inverted", count=3_000),
    "card": Kind("inverted with the card, statistics-assisted", "card", count=3_000),
}


def teaching(small: bool = False) -> RunConfig:
    """How the converted network learns what it lost."""
    train = TrainConfig(
        epochs=1 if small else 2, batch_size=64, optimizer="adamw", learning_rate=1e-3, weight_decay=0.01,
        precision="fp32",
    )  # fmt: skip
    return RunConfig(view=LIGHT, train=train)


def group_norm(published: Teacher, road: Road, folder: Path, small: bool) -> Teacher:
    """Make the teacher, or read the one that is there."""
    start = converted(published, "group", road)
    network, side = copy.deepcopy(start.module).requires_grad_(True), (start.input_size, start.mean, start.std)
    model = train_network(road, teaching(small), folder, model=network, input=side)
    teacher = load_teacher(model, input_size=side[0], norm=side[1:], classes=road.dataset.classes)
    teacher.name = "resnet20 with GroupNorm"
    return teacher


def card_of(teacher: Teacher, road: Road, folder: Path) -> StatisticsCard:
    """Measure the teacher's card on what it learned, or read the one that is there."""
    if not (folder / FILE).is_file():
        measure_card(teacher, batches(road.dataset.train, road.view), len(road.dataset.train)).write(folder / FILE)
    return read_card(folder / FILE)


def bank_with_card(kind: Kind, count: int, teacher: Teacher, road: Road, folder: Path) -> Bank:
    """Make the pictures of an arm; those with the card start from the same drawn ones as those without."""
    if kind.images != "card":
        return bank_of(kind.images, count, teacher, folder)
    start, card = bank_of("drawn", 4 * count, teacher, folder), card_of(teacher, road, folder)
    return invert_bank(
        folder / "banks" / f"card-{count}", teacher, InversionConfig(count, steps=STEPS), start=start, card=card
    )


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(ARMS), seeds: int = 1) -> str:
    """The teacher once, then every arm at equal steps."""
    dataset, published = open_cifar(images)
    whole = open_road(dataset, LIGHT, folder.parent / "shared")
    taught = whole.reduced(TAUGHT // 16 if small else TAUGHT)
    teacher = group_norm(published, taught, folder / "teacher", small)
    real = whole.reduced(IMAGES // 16 if small else IMAGES)
    kinds = {key: ARMS[key] for key in only}

    def pictures(kind: Kind, count: int) -> Dataset:
        return bank_with_card(kind, count, teacher, taught, folder).dataset()

    return run_kinds(real, teacher, kinds, pictures, folder, small=small, seeds=seeds, title=__doc__ or "")
