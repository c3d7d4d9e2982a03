"""CIFAR-10 and the published network for it, as recipes take them from one folder."""

from __future__ import annotations

import re
from pathlib import Path

from pocketvit.errors import PocketError
from pocketvit.sources import Dataset, open_images
from pocketvit.teachers import Teacher, load_teacher


def open_cifar(folder: str | None) -> tuple[Dataset, Teacher]:
    """Open ``cifar10.npz``, nothing held out, and the first ``cifar10_resnetN-*.th`` (of akamaster's) beside it."""
    place = Path(folder or "data")
    weights = sorted(place.glob("cifar10_resnet*.th"))
    if not (place / "cifar10.npz").is_file() or not weights:
        raise PocketError(f"{place} should hold cifar10.npz and cifar10_resnetN-*.th: see the recipe's text.")
    arch = f"cifar_{re.findall(r'resnet[0-9]+', weights[0].name)[0]}"
    teacher = load_teacher(weights[0], arch=arch, input_size=32, norm="imagenet")
    return open_images(place / "cifar10.npz", val_fraction=0), teacher
