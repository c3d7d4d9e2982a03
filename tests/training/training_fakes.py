"""A world small enough to train in a second: noise in memory, a tiny ViT, teachers that are fixed projections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from pocketvit.config import LossConfig, TrainConfig, ViewConfig
from pocketvit.sources import Source
from pocketvit.tasks import task_named
from pocketvit.training import Feed, fit, plain_pixels, predict_logits
from pocketvit.views import Views

SIDE, CLASSES = 8, 3
TASK = task_named("classification")
INPUT = (SIDE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PLAIN = ViewConfig(view_size=SIDE)
MIXED = ViewConfig(view_size=SIDE, crop="padded", crop_padding=1, flip=0.5, mixup=0.5, cutmix=1.0)


class ArraySource(Source):
    """Noise whose brightness tells the class."""

    def __init__(self, count: int = 45) -> None:
        generator = np.random.default_rng(0)
        targets = generator.integers(0, CLASSES, count)
        noise = generator.integers(0, 128, (count, SIDE, SIDE, 3))
        self.images = (noise + 40 * targets[:, None, None, None]).astype(np.uint8)
        super().__init__(
            name="noise",
            split="train",
            classes=("dark", "middle", "light"),
            ids=np.arange(count, dtype=np.uint64) * 977,
            targets=targets.astype(np.int64),
            names=[str(position) for position in range(count)],
            window=None,
            size=(SIDE, SIDE),
            fingerprint=f"noise-{count}",
        )

    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        return self.images[position], int(self.targets[position])

    def rgb(self, positions: np.ndarray) -> np.ndarray:
        return self.images[positions]


class FixedTeacher:
    """What labelling and a live feed use of a teacher: a fixed random projection of the pixels."""

    def __init__(self, seed: int) -> None:
        self.name = f"teacher{seed}"
        self.num_outputs = CLASSES
        self.kind = "softmax"
        self.input_size = SIDE
        self.module = nn.Flatten()
        self.device = torch.device("cpu")
        self.fingerprint = {"seed": seed}
        self.weight = torch.randn(3 * SIDE * SIDE, CLASSES, generator=torch.Generator().manual_seed(seed)) / 8

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels.flatten(1).float() / 64 - 1) @ self.weight

    def check_unchanged(self) -> None:
        pass


def tiny_vit(tokens: int = 0, drop: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    name = "deit_tiny_distilled_patch16_224" if tokens else "vit_tiny_patch16_224"
    shape = {"img_size": SIDE, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return timm.create_model(name, num_classes=CLASSES, drop_rate=drop, drop_path_rate=drop, **shape)


def batch_norm_net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.Linear(8 * (SIDE - 2) ** 2, CLASSES))


def config(**changes: Any) -> TrainConfig:
    values = {"epochs": 3, "batch_size": 8, "warmup": 1 / 3, "learning_rate": 3e-3, "precision": "fp32"}
    return TrainConfig(**{**values, **changes})


def train(folder: Path, model: nn.Module | None = None, *, resume: bool = False, on_epoch: Any = None, **changes: Any):
    """Train the tiny network on mixed views, with a weight average, and score it after each epoch."""
    model = tiny_vit() if model is None else model
    settings = config(**({"ema": 0.9} | changes))
    source = ArraySource()
    pixels = plain_pixels(source, PLAIN)

    def evaluate(network: nn.Module) -> dict[str, float]:
        guessed = predict_logits(network, pixels, PLAIN, INPUT)[0].argmax(1).numpy()
        return {"val_accuracy": float((guessed == source.targets).mean())}

    feed = Feed(Views(source, MIXED, seed=settings.seed), settings.batch_size, seed=settings.seed)
    loss = TASK.loss(LossConfig())
    return fit(
        model,
        feed,
        loss,
        settings,
        folder,
        task=TASK,
        evaluate=evaluate,
        input=INPUT,
        resume=resume,
        on_epoch=on_epoch,
    )


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(x == y and torch.equal(v, w) for (x, v), (y, w) in pairs)
