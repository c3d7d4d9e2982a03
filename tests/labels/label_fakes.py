"""Small stand-ins for a source, views and a teacher, with the interfaces that labelling uses."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

SIDE = 4


class FakeSource:
    """Images that are nothing but their number."""

    def __init__(self, images: int = 50, classes: int = 10, salt: str = ""):
        self.name, self.split = "fake", "train"
        self.classes = tuple(f"class {c}" for c in range(classes))
        self.targets = np.arange(images, dtype=np.int64) % classes
        self.names = [f"image-{i}.png" for i in range(images)]
        self.fingerprint = hashlib.sha256(f"{images} {classes} {salt}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.targets)


@dataclass
class FakeBatch:
    pixels: torch.Tensor
    partner: np.ndarray
    ratio: np.ndarray


class FakeViews:
    """Noise that depends on (seed, position, view); when mixed, the mean with the partner's."""

    def __init__(self, source: FakeSource, mixed: bool = False, seed: int = 0, crop: str = "none"):
        self.source, self.mixed, self.seed = source, mixed, seed
        self.config = SimpleNamespace(view_size=SIDE, mixes=mixed)
        self.fingerprint = {"version": 1, "seed": seed, "view_size": SIDE}
        if crop != "none":
            self.fingerprint["crop"] = crop
        self.rendered = 0

    def order(self, view: int) -> np.ndarray:
        n = len(self.source)
        return np.random.default_rng([self.seed, view]).permutation(n) if self.mixed else np.arange(n)

    def _alone(self, position: int, view: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, position, view])
        return rng.integers(0, 256, (3, SIDE, SIDE)).astype(np.uint8)

    def render(self, positions: np.ndarray, view: int) -> FakeBatch:
        self.rendered += len(positions)
        partner = np.array(positions)
        if self.mixed:
            order = self.order(view)
            row = np.argsort(order)[positions]
            mate = row ^ 1
            partner = np.where(mate < len(order), order[np.minimum(mate, len(order) - 1)], positions)
        pictures = [
            (self._alone(a, view).astype(int) + self._alone(b, view)) // 2
            for a, b in zip(positions.tolist(), partner.tolist(), strict=True)
        ]
        pixels = torch.from_numpy(np.stack(pictures).astype(np.uint8))
        ratio = np.full(len(positions), 0.5 if self.mixed else 1.0, np.float32)
        return FakeBatch(pixels, partner.astype(np.int64), ratio)


class FakeTeacher:
    """A linear map of the pixels; ``pause`` seconds a batch make it slow enough to be killed."""

    def __init__(self, name: str = "teacher", classes: int = 10, seed: int = 0, pause: float = 0.0):
        torch.manual_seed(seed)
        self.name, self.num_outputs, self.pause = name, classes, pause
        self.module = nn.Linear(3 * SIDE * SIDE, classes).eval().requires_grad_(False)
        self.module.weight *= 5
        self.input_size, self.device = SIDE, torch.device("cpu")
        self.fingerprint = {"architecture": "linear", "weights": f"{seed}" * 64, "precision": "fp32"}
        self.batches: list[int] = []

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        time.sleep(self.pause)
        self.batches.append(len(pixels))
        return self.module(pixels.flatten(1).float() / 64)

    def check_unchanged(self) -> None:
        pass
