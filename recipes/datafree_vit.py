"""No image at all, and the teacher is a ViT: a small ViT from drawn pictures that the teacher chose.

Shows   what a ViT of half a million parameters learns without a real image from a ViT of 0.9 M that learned CIFAR-10
        here, from its labels alone; beside the same student on real images at equal steps, the ceiling, and on noise.
Paper   What Makes a Good Dataset for Knowledge Distillation? (arXiv 2411.12817), whose teachers are convolutional.
Data    a folder with CIFAR-10 as cifar10.npz (MedMNIST layout; its test split is scored, the teacher sees all 50,000
        training images and the ceiling 32,000 of them).
Cost    two and a half hours of one processor core, a fifth of it the teacher's; --small: a sixteenth of the images.
Command pocketvit run recipes/datafree_vit.py --images data/
Result  recipes/datafree_vit.md
"""

from __future__ import annotations

from pathlib import Path

from datafree_cnn import HARD, IMAGES, LIGHT, Kind, bank_of, run_kinds

from pocketvit.config import NetworkConfig, RunConfig, TrainConfig
from pocketvit.errors import PocketError
from pocketvit.road.images import Road, open_road
from pocketvit.road.students import input_of
from pocketvit.road.train import train_network
from pocketvit.sources import Dataset, open_images
from pocketvit.teachers import Teacher, load_teacher

VIEWS = 5 * IMAGES  # that a student sees: five of each picture, stored once
ARMS = {
    "drawn": Kind("drawn, chosen by the teacher", "drawn", view=HARD, views=VIEWS),
    "real": Kind("real images, light views (the ceiling)", "real", view=LIGHT, views=VIEWS),
    "noise": Kind("noise", "noise", view=HARD, views=VIEWS),
    "drawn-start": Kind(
        "drawn, the student started from the teacher's weights", "drawn", view=HARD, views=VIEWS, start="teacher"
    ),
    "drawn-start-wsd": Kind(
        "the same, the rate stays up first", "drawn", view=HARD, views=VIEWS, start="teacher", schedule="wsd"
    ),
    "drawn-start-matched": Kind(
        "the same, and the teacher's features",
        "drawn",
        view=HARD,
        views=VIEWS,
        start="teacher",
        schedule="wsd",
        matched=1.0,
    ),
    **{
        f"drawn-start-matched-{weight}": Kind(
            f"the same, features {weight} times as heavy",
            "drawn",
            view=HARD,
            views=VIEWS,
            start="teacher",
            schedule="wsd",
            matched=float(weight),
        )
        for weight in (3, 10)
    },
    "real-start-matched": Kind(
        "real images, started likewise, and the teacher's features",
        "real",
        view=LIGHT,
        views=VIEWS,
        start="teacher",
        schedule="wsd",
        matched=1.0,
    ),
    "noise-start": Kind(
        "noise, the student started from the teacher's weights", "noise", view=HARD, views=VIEWS, start="teacher"
    ),
    "real-start": Kind(
        "real images, the student started from the teacher's weights", "real", view=LIGHT, views=VIEWS, start="teacher"
    ),
}


def teaching(small: bool = False) -> RunConfig:
    """The teacher: it learns labels, with a residual convolutional stem."""
    train = TrainConfig(epochs=1 if small else 6, batch_size=64, optimizer="muon", learning_rate=5e-3, precision="fp32")
    return RunConfig(network=NetworkConfig("pocket_s", stem="conv"), view=LIGHT, train=train)


def train_vit(road: Road, folder: Path, small: bool) -> Teacher:
    """Train the teacher, or read the one that is there."""
    chosen = teaching(small)
    model = train_network(road, chosen, folder)
    side, mean, std = input_of(chosen.network, model, road)
    teacher = load_teacher(model, input_size=side, norm=(mean, std), classes=road.dataset.classes)
    teacher.name = "pocket_s"
    return teacher


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(ARMS), seeds: int = 1) -> str:
    """The teacher once, then every arm at equal steps."""
    place = Path(images or "data") / "cifar10.npz"
    if not place.is_file():
        raise PocketError(f"{place.parent} should hold cifar10.npz: see the recipe's text.")
    real = open_road(open_images(place, val_fraction=0), LIGHT, folder.parent / "shared")
    teacher = train_vit(real.reduced(3_000) if small else real, folder / "teacher", small)
    real = real.reduced(IMAGES // 16 if small else IMAGES)
    kinds = {key: ARMS[key] for key in only}

    def pictures(kind: Kind, count: int) -> Dataset:
        return bank_of(kind.images, count, teacher, folder).dataset()

    return run_kinds(real, teacher, kinds, pictures, folder, small=small, seeds=seeds, title=__doc__ or "")
