"""Nearest, bilinear, bicubic, Lanczos-3 or Lanczos-5: does the kernel that enlarges small images matter?

Shows   one small ViT on blood cells of 28 px enlarged to 56 px by each kernel, and on the same cells after each was
        shrunk to a size and shape of its own (12 to 28 px on a side), as a folder of mixed sizes is.
Paper   arXiv 2404.00949 uses Lanczos-5 (TensorFlow's name) and reports no other kernel; a study of chest X-rays found
        bicubic best of five, Lanczos among them (papers in the recipe's .md).
Data    blood cells (or any set) as a MedMNIST-layout .npz.
Cost    about 15 minutes on one processor core; --small: about 2 minutes.
Command pocketvit run recipes/resampling.py --images data/blood_28.npz
Result  recipes/resampling.md
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from biomedical import config, with_small_val
from PIL import Image

from pocketvit.config import Resample, ViewConfig
from pocketvit.errors import PocketError
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.road.images import Road, open_road
from pocketvit.sources import Dataset, Source, open_images
from pocketvit.views import resize

KERNELS: dict[str, tuple[Resample, int]] = {  # kernel, lobes
    "nearest": ("nearest", 5),
    "bilinear": ("bilinear", 5),
    "bicubic": ("bicubic", 5),
    "lanczos3": ("lanczos", 3),
    "lanczos5": ("lanczos", 5),
}
NAMES = {
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos3": "Lanczos-3",
    "lanczos5": "Lanczos-5",
}
SIDES = (12, 28)  # of the mixed sizes, in pixels
_ABOUT = ("name", "split", "classes", "ids", "targets", "names", "window", "fingerprint")


class Shrunk(Source):
    """Another source's images, each brought to a height and a width of its own by area averaging (Pillow's box)."""

    def __init__(self, source: Source) -> None:
        super().__init__(**{name: getattr(source, name) for name in _ABOUT}, size=None)
        self.source = source
        low, high = SIDES
        self.sides = low + (source.ids[:, None] >> np.array([0, 20], np.uint64)) % np.uint64(high - low + 1)

    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        image, target = self.source[position]
        height, width = (int(side) for side in self.sides[position])
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX)), target


def mixed_sizes(dataset: Dataset) -> Dataset:
    """Return the dataset with every image shrunk to a size of its own."""
    shrunk: dict[str, Any] = {split: Shrunk(source) for split, source in dataset.splits.items()}
    return dataclasses.replace(dataset, **shrunk)


def views_of(kernel: str) -> ViewConfig:
    """The views of one kernel: little is random, so that what differs is the kernel."""
    resample, lobes = KERNELS[kernel]
    return ViewConfig(
        view_size=56, resample=resample, lobes=lobes, fit="stretch", crop="padded", flip=0.5, vertical_flip=0.5
    )


def measured(road: Road, folder: Path, small: bool, title: str) -> str:
    """Train an arm per kernel x 3 seeds on one sort of images."""
    base = config(small, images=len(road.dataset.train))
    arms = [Arm(key, NAMES[key], dataclasses.replace(base, view=views_of(key))) for key in KERNELS]
    found = run_arms(road, arms, range(3), folder)
    return report_arms(road, arms, found, folder, against="lanczos5", title=title)


def overshoot(road: Road) -> str:
    """Say how far each kernel leaves the range of intensities on these images, before it is clamped."""
    train = road.dataset.train
    some = torch.from_numpy(np.stack(list(train.rgb(np.arange(min(256, len(train))))))).permute(0, 3, 1, 2).float()
    parts = []
    for key, (kernel, lobes) in KERNELS.items():
        x = resize(some, (56, 56), kernel, lobes)
        beyond = ((x < 0) | (x > 255)).float().mean().item()
        parts.append(f"{NAMES[key]} {100 * beyond:.2f} %")
    return "Values beyond 0 to 255 before clamping, 28 to 56 px: " + ", ".join(parts) + "."


def recipe(images: str | None, folder: Path, small: bool) -> str:
    """5 kernels x 3 seeds on images of one size, and as many on images of mixed sizes."""
    if images is None:
        raise PocketError("name one set of images: --images FILE.npz, as MedMNIST's files of 28 px.")
    dataset = with_small_val(open_images(images))
    count = min(len(dataset.train), 600 if small else 3000)
    base = dataclasses.replace(config(small, images=count), view=views_of("lanczos5"))
    shared = folder.parent / "shared"
    road = open_road(dataset, base.view, shared).reduced(count)
    one = measured(road, folder / "one-size", small, f"{dataset.name}, 28 px enlarged to 56")
    mixed = dataclasses.replace(road, dataset=mixed_sizes(road.dataset))
    mixed = mixed.reduced(np.arange(count))
    many = measured(mixed, folder / "mixed-sizes", small, f"{dataset.name}, sizes of {SIDES} to 56")
    return "\n\n".join(
        ("28 px, all of one size", one, overshoot(road), f"Mixed sizes, {SIDES[0]} to {SIDES[1]} px on a side", many)
    )
