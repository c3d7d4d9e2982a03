"""No image at all: a small ViT from a published CIFAR-10 network, by each way of making images out of it.

Shows   what a ViT of half a million parameters (and a ResNet-20) learns from a convolutional teacher without seeing a
        real image: from noise, from one photograph cropped, from drawn pictures that the teacher chose, from these
        moved or optimized for it; beside the same student on real images at equal steps, the ceiling. What drawn
        pictures teach by other views, of fewer pictures, by another objective.
Paper   What Makes a Good Dataset for Knowledge Distillation? (arXiv 2411.12817); DeepInversion (arXiv 1912.08795).
Data    a folder with CIFAR-10 as cifar10.npz (MedMNIST layout; its test split is scored, the ceiling sees 32,000 of its
        training images) and the weights of a CIFAR ResNet (cifar10_resnet20-12fca82f.th of akamaster's repository).
Cost    about seven hours of one processor core, half of it the teacher's; --small: a sixteenth of the images.
Command pocketvit run recipes/datafree_cnn.py --images data/
Result  recipes/datafree_cnn.md
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
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
from pocketvit.road.images import Road, open_road
from pocketvit.road.label import label_road
from pocketvit.road.stems import with_stem
from pocketvit.road.train import train_network
from pocketvit.sources import Dataset, open_images
from pocketvit.sources.subset import Subset
from pocketvit.synthesis import (
    Bank,
    DrawnConfig,
    GenerationConfig,
    InversionConfig,
    Noise,
    Rival,
    draw_bank,
    generate_bank,
    invert_bank,
    sample_photograph,
)
from pocketvit.teachers import Teacher, load_teacher
from pocketvit.views.synthetic import hard_views

LIGHT = ViewConfig(view_size=32, crop="padded", flip=0.5)
HARD = hard_views(32)
CROPS = ViewConfig(
    view_size=32, crop="random_resized", crop_scale=(0.25, 1.0), flip=0.5, color_jitter=0.3, cutmix=1.0, mixup=0.4
)
VIEWS, IMAGES = 96_000, 32_000  # that a student sees; of how many pictures


@dataclass(frozen=True)
class Kind:
    """What an arm learns from."""

    name: str
    images: str  # real, or how the bank is made
    count: int = IMAGES
    view: ViewConfig = HARD
    objective: str = "zscore"
    temperature: float = 2.0
    student: str = "pocket_xs"
    stem: Stem = "conv"
    views: int = VIEWS
    start: str | None = None  # whose weights the student starts from
    matched: float = 0.0  # weight of the teacher's last features
    schedule: Literal["cosine", "wsd"] = "cosine"  # unasked it is wsd now


SECOND = ("plain-second", "rival-second")
ARMS = {
    "real": Kind("real images, light views (the ceiling)", "real", view=LIGHT),
    "drawn": Kind("drawn, chosen by the teacher", "drawn"),
    "drawn-kl": Kind("the same, KL T=4", "drawn", objective="kl", temperature=4.0),
    "drawn-few": Kind("the same, 12,000 pictures in eight views", "drawn", count=12_000),
    "drawn-crops": Kind("the same, crops of a quarter and more, all of them mixed", "drawn", count=12_000, view=CROPS),
    "real-long": Kind("real images, 320,000 views", "real", view=LIGHT, views=10 * IMAGES),
    "drawn-long": Kind("drawn, 320,000 views", "drawn", views=10 * IMAGES),
    "real-hybrid": Kind("the hybrid stem: real images", "real", view=LIGHT, stem="hybrid"),
    "drawn-hybrid": Kind("the hybrid stem: drawn", "drawn", stem="hybrid"),
    "real-stem": Kind("the teacher's first layers as stem: real images", "real", view=LIGHT, stem="teacher"),
    "drawn-stem": Kind(
        "the teacher's first layers as stem: drawn, 12,000 in eight views", "drawn", 12_000, stem="teacher"
    ),
    "plain-second": Kind("the same, 9,000 of these and 3,000 inverted", "plain-second", 12_000, stem="teacher"),
    "rival-second": Kind(
        "the same, 9,000 of these and 3,000 inverted against the student that learned them",
        "rival-second",
        12_000,
        stem="teacher",
    ),
    "real-stem-wsd": Kind("real-stem, the rate stays up first", "real", view=LIGHT, stem="teacher", schedule="wsd"),
    "real-matched": Kind("the same, and its features", "real", view=LIGHT, stem="teacher", schedule="wsd", matched=1.0),
    "drawn-stem-wsd": Kind("drawn-stem, the rate stays up first", "drawn", 12_000, stem="teacher", schedule="wsd"),
    "drawn-matched": Kind("the same, and its features", "drawn", 12_000, stem="teacher", schedule="wsd", matched=1.0),
    "drawn-matched-3": Kind(
        "the same, features three times as heavy", "drawn", 12_000, stem="teacher", schedule="wsd", matched=3.0
    ),
    "drawn-matched-10": Kind(
        "the same, features ten times as heavy", "drawn", 12_000, stem="teacher", schedule="wsd", matched=10.0
    ),
    "noise-matched": Kind("the same, from noise", "noise", 12_000, stem="teacher", schedule="wsd", matched=1.0),
    "matched-long": Kind(
        "the same, 32,000 drawn pictures, 320,000 views",
        "drawn",
        stem="teacher",
        schedule="wsd",
        matched=1.0,
        views=10 * IMAGES,
    ),
    "drawn-own-wsd": Kind("drawn-few, the rate stays up first", "drawn", 12_000, schedule="wsd"),
    "drawn-own-matched": Kind("the same, and the teacher's features", "drawn", 12_000, schedule="wsd", matched=1.0),
    "noise-stem": Kind("the teacher's first layers as stem: noise", "noise", stem="teacher"),
    "real-cnn": Kind("a ResNet-20 as student: real images", "real", view=LIGHT, student="cifar_resnet20", stem="patch"),
    "drawn-cnn": Kind("a ResNet-20 as student: drawn", "drawn", student="cifar_resnet20", stem="patch"),
    "real-cnn-matched": Kind(
        "a ResNet-20 as student, by its features too: real images",
        "real",
        12_000,
        LIGHT,
        student="cifar_resnet20",
        stem="patch",
        schedule="wsd",
        matched=1.0,
    ),
    "drawn-cnn-matched": Kind(
        "a ResNet-20 as student, by its features too: drawn",
        "drawn",
        12_000,
        student="cifar_resnet20",
        stem="patch",
        schedule="wsd",
        matched=1.0,
    ),
    "noise": Kind("noise", "noise"),
    "photograph": Kind("one photograph", "photograph"),
    "inverted": Kind("inverted, starting from these", "inverted", count=3_000),
    "generated": Kind("generated, with replay", "generated", count=12_000),
}


def config(small: bool = False, kind: Kind = ARMS["drawn"], images: int = IMAGES) -> RunConfig:
    """The student of an arm: as many views, however many images they show."""
    epochs = max(1, (kind.views // 16 if small else kind.views) // images)
    return RunConfig(
        network=NetworkConfig(kind.student, stem=kind.stem, init_from=kind.start),
        view=kind.view,
        labels=LabelConfig(views=min(epochs, 10), store_features="4GB"),
        # The ground truth has no part in any arm: a bank has none.
        loss=LossConfig(
            kind.objective,
            kind.temperature,
            weight=1.0,
            terms=(TermConfig("fitnets", kind.matched),) if kind.matched else (),
        ),
        train=TrainConfig(
            epochs=epochs, batch_size=64, optimizer="muon", learning_rate=5e-3, schedule=kind.schedule, precision="fp32"
        ),
    )


def bank_of(images: str, count: int, teacher: Teacher, folder: Path) -> Bank:
    """Make pictures, or open them."""
    place = folder / "banks" / f"{images}-{count}"
    if images == "noise":
        return draw_bank(place, teacher, DrawnConfig(count, looked_at=1), candidates=Noise(0, teacher.input_size))
    if images == "photograph":
        crops = sample_photograph(0, teacher.input_size)
        return draw_bank(place, teacher, DrawnConfig(count, looked_at=2, steps=0), candidates=crops)
    if images == "inverted":
        start = bank_of("drawn", 4 * count, teacher, folder)
        return invert_bank(place, teacher, InversionConfig(count, steps=15), start=start)
    if images == "generated":
        how = GenerationConfig(
            count, rounds=max(8, count // 300), renewal=10, patience=6, steps=5, replays=5, batch=48, turnover=1.25
        )
        return generate_bank(place, teacher, how)
    return draw_bank(place, teacher, DrawnConfig(count))


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(ARMS), seeds: int = 1) -> str:
    """Every arm at equal steps, one seed."""
    dataset, teacher = open_cifar(images)
    real = open_road(dataset, LIGHT, folder.parent / "shared")
    real = real.reduced(IMAGES // 16 if small else IMAGES)
    kinds = {key: ARMS[key] for key in only}

    def pictures(kind: Kind, count: int) -> Dataset:
        if kind.images in SECOND:
            return with_second(kind.images, count, teacher, real, folder, small)
        return bank_of(kind.images, count, teacher, folder).dataset()

    return run_kinds(real, teacher, kinds, pictures, folder, small=small, seeds=seeds, title=__doc__ or "")


def with_second(images: str, count: int, teacher: Teacher, real: Road, folder: Path, small: bool) -> Dataset:
    """Three quarters drawn pictures, and a quarter inverted, as they are or against the student that learned these."""
    first = bank_of("drawn", count, teacher, folder)
    rival = None
    if images == "rival-second":
        kind = ARMS["drawn-stem"]
        road = without_images(real, first.dataset(), kind.view, real.shared)
        chosen = config(small, kind, len(road.dataset.train))
        chosen = dataclasses.replace(chosen, network=with_stem(chosen.network, teacher, kind.view.view_size))
        place = folder / "drawn-stem" / "seed-0"  # of its arm, where that has run
        store = label_road(road, [teacher], chosen.labels)
        student = train_network(road, chosen, place, teachers=[teacher], store=store)
        side, mean, std = road.input
        rival = Rival(load_teacher(student, input_size=side, norm=(mean, std)), teacher)
    how = InversionConfig(count // 4, steps=15)
    second = invert_bank(folder / "banks" / f"{images}-{count}", teacher, how, start=first, rival=rival)
    both = open_images(first.file, unlabelled=second.file, val_fraction=0)
    some = np.sort(np.random.default_rng(0).permutation(len(first))[: count - len(second)])
    rows = np.concatenate([some, np.arange(len(first), len(both.train))])
    return dataclasses.replace(both, train=Subset(both.train, rows))


def run_kinds(
    real: Road,
    teacher: Teacher,
    kinds: Mapping[str, Kind],
    pictures: Callable[[Kind, int], Dataset],
    folder: Path,
    *,
    small: bool,
    seeds: int,
    title: str,
) -> str:
    """Make, label and learn what each arm learns from, one after the other; ``pictures`` makes so many of a kind."""
    arms: list[Arm] = []
    found: dict[str, list[dict[str, Any]]] = {}
    for key, kind in kinds.items():
        road = real
        if kind.images != "real":
            made = pictures(kind, kind.count // 16 if small else kind.count)
            road = without_images(real, made, kind.view, real.shared)
        chosen = config(small, kind, len(road.dataset.train))
        if kind.stem == "teacher":
            chosen = dataclasses.replace(chosen, network=with_stem(chosen.network, teacher, kind.view.view_size))
        store = label_road(road, [teacher], chosen.labels)
        arms.append(Arm(key, kind.name, chosen, (teacher,), store))
        found |= run_arms(road, arms[-1:], range(seeds), folder)
    return report_arms(real, arms, found, folder, against=arms[0].key, teachers=[teacher], title=title)


def without_images(real: Road, made: Dataset, view: ViewConfig, shared: Path) -> Road:
    """Made pictures in place of the training images; of the real ones the test split is left, to be scored."""
    return open_road(dataclasses.replace(made, classes=real.dataset.classes, test=real.dataset.test), view, shared)
