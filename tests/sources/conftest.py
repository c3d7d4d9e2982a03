"""Images that the tests draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def noise():
    """Return a function: noise(seed, height, width, channels=3) -> uint8 image that no other seed gives."""

    def draw(seed: int, height: int = 9, width: int = 12, channels: int = 3) -> np.ndarray:
        shape = (height, width, channels) if channels else (height, width)
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return draw


@pytest.fixture
def photos(tmp_path, noise):
    """Return a function that writes ``count`` PNGs a class below a folder: photos("cat", "dog", count=10)."""

    def write(*classes: str, count: int = 10, folder: Path | None = None, seed: int = 0) -> Path:
        root = folder or tmp_path / "photos"
        for number, label in enumerate(classes):
            (root / label).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                picture = Image.fromarray(noise(10_000 * seed + 1000 * number + index))
                picture.save(root / label / f"{index:03}.png")
        return root

    return write
