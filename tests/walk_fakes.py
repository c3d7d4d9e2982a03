"""A small world: drawn photographs of three colours, and networks that are trained or run in a blink."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig

SIDE = 16
COLOURS = {"blue": (60, 60, 200), "green": (60, 200, 60), "red": (200, 60, 60)}
# What `distill` is asked for where the walk itself is the matter.
CHOICES: dict[str, Any] = {
    "student": "pocket_xs", "patch": 8, "stem": "patch", "epochs": 2, "views": 2, "teacher_size": SIDE,
    "teacher_norm": "half", "precision": "fp32", "folds": 0, "optimizer": "adamw", "batch_size": 8,
}  # fmt: skip


def draw_photos(root: Path, count: int = 20) -> Path:
    """Write ``count`` noisy PNGs a class."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.array(colour) + rng.integers(-60, 60, (SIDE, SIDE, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{number:02}.png")
    return root


class Own(nn.Module):
    """A user's own network: it looks at the mean colour, so it knows the classes without training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.head = nn.Linear(3, len(COLOURS))
        with torch.no_grad():
            self.stem[0].weight.copy_(torch.eye(3)[:, :, None, None])
            self.stem[0].bias.zero_()
            self.head.weight.copy_(4 * torch.eye(3).flip(0))  # blue, green, red
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stem(x).mean((2, 3)))


def make_own() -> nn.Module:
    return Own()


def tiny(num_classes: int = 1000) -> nn.Module:
    """A very small network of timm's; with 1000 classes it says that they are ImageNet's."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet.r160_in1k", num_classes=num_classes)


def run_config(**changes: Any) -> RunConfig:
    """A short training of a very small student; `network`, `labels`, ... or fields of them may be changed."""
    parts: dict[str, Any] = {
        "network": NetworkConfig("pocket_xs", patch=8),
        "labels": LabelConfig(views=1),
        "view": ViewConfig(view_size=SIDE),
        "loss": LossConfig(),
        "train": TrainConfig(epochs=1, batch_size=16, warmup=0.0, precision="fp32"),
    }
    for name, value in changes.items():
        if name in parts:
            parts[name] = value
            continue
        owner = next(key for key in ("network", "labels") if hasattr(parts[key], name))
        parts[owner] = dataclasses.replace(parts[owner], **{name: value})
    return RunConfig(**parts)
