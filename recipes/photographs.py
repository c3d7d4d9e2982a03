"""Photographs with a published network at hand: students from scratch by the clock, beside what one would ship.

Shows   what a ViT of a million parameters reaches in ten minutes of one processor core on 800 photographs of five
        classes: by the stored answers of MobileNetV2, which knows a thousand classes and these among them, and by the
        labels alone; with a convolution before its patches (hybrid, stock timm), with a residual convolutional stem
        (conv), and with the teacher's own first layers (teacher); by its last features, too (matched). Beside them
        MobileNetV2 itself, fine-tuned for as long: the honest alternative.
Paper   DeiT (arXiv 2012.12877), whose teacher is a convolutional network; Early Convolutions Help Transformers See
        Better (arXiv 2106.14881).
Data    a folder with the photographs as photos/train/CLASS and photos/test/CLASS, and the teacher as mobilenet_v2, a
        model folder of timm's.
Cost    90 minutes of one processor core and a quarter for the labels; --small trains each arm for ten seconds.
Command pocketvit run recipes/photographs.py --images data/
Result  recipes/photographs.md
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TermConfig, TrainConfig, ViewConfig
from pocketvit.errors import PocketError
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.road.images import open_road
from pocketvit.road.label import label_road
from pocketvit.road.stems import with_stem
from pocketvit.sources import open_images
from pocketvit.teachers import load_teacher

MINUTES, SIDE = 10, 128
# key -> (stem, what it learns besides the labels: the teacher's answers, its features); the published network has no
# stem of ours
ARMS = {
    "hybrid": ("hybrid", ("answers",)),
    "hybrid-alone": ("hybrid", ()),
    "conv": ("conv", ("answers",)),
    "conv-alone": ("conv", ()),
    "teacher": ("teacher", ("answers",)),
    "published": ("patch", ()),
    "hybrid-matched": ("hybrid", ("answers", "features")),
    "teacher-matched": ("teacher", ("answers", "features")),
}


def config(small: bool = False, stem: str = "hybrid", name: str = "pocket_s") -> RunConfig:
    """A network that learns for so long; published weights learn gently."""
    ours = name == "pocket_s"
    return RunConfig(
        network=NetworkConfig(name, stem=stem),  # type: ignore[arg-type]
        view=ViewConfig(view_size=SIDE, crop="random_resized", crop_scale=(0.25, 1.0), flip=0.5, color_jitter=0.3),
        labels=LabelConfig(views=1 if small else 10, store_features="4GB"),
        train=TrainConfig(
            epochs=40,  # about
            seconds=MINUTES if small else 60 * MINUTES,
            batch_size=32,
            optimizer="muon" if ours else "adamw",
            learning_rate=5e-3 if ours else 1e-4,
            schedule="wsd",
            precision="fp32",
        ),
    )


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(ARMS), seeds: int = 1) -> str:
    """Label the photographs once, then train every arm by the clock."""
    place = Path(images or "data")
    if not (place / "photos").is_dir() or not (place / "mobilenet_v2").is_dir():
        raise PocketError(f"{place} should hold photos/ and mobilenet_v2/: see the recipe's text.")
    dataset = open_images(place / "photos", val_fraction=0)  # nothing is chosen on validation images
    published = f"local-dir:{place / 'mobilenet_v2'}"
    road = open_road(dataset, config().view, folder.parent / "shared")
    if small:
        road = road.reduced(40)
    teacher = road.task.aligned(load_teacher(published), dataset)
    if teacher is None:
        raise PocketError(f"{published} does not know the classes {', '.join(dataset.classes)} by name.")
    store = label_road(road, [teacher], config(small).labels) if any(ARMS[key][1] for key in only) else None
    arms = []
    for key in only:
        stem, taught = ARMS[key]
        if key == "published":
            arms.append(Arm(key, "MobileNetV2, fine-tuned", config(small, stem, published)))
            continue
        by = f"the teacher{' and its features' * ('features' in taught)}, and labels" if taught else "labels alone"
        arm = Arm(key, f"{stem}, {by}", config(small, stem))
        terms = (TermConfig("fitnets"),) if "features" in taught else ()
        learned = dataclasses.replace(arm.config, loss=LossConfig("zscore", 2.0, weight=0.9, terms=terms))
        if stem == "teacher":
            learned = dataclasses.replace(learned, network=with_stem(learned.network, teacher, SIDE))
        arms.append(dataclasses.replace(arm, config=learned, teachers=(teacher,), store=store) if taught else arm)
    found: dict[str, list[dict[str, Any]]] = run_arms(road, arms, range(seeds), folder)
    return report_arms(road, arms, found, folder, against=only[0], teachers=[teacher], title=__doc__ or "")
