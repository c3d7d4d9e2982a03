"""What views look like is pinned, picture by picture: a change orphans stored labels.

After a wanted change raise `render.VERSION` and renew the pictures: ``python tests/views/test_golden_views.py``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.config import ViewConfig
from pocketvit.views import Views

COUNT, SIDE = 16, 24
SHEET = Path(__file__).with_name("golden_views.png")  # a row a config, a column a picture
CONFIGS = {
    "everything": ViewConfig(
        view_size=SIDE,
        crop="random_resized",
        flip=0.5,
        vertical_flip=0.5,
        randaugment_ops=2,
        color_jitter=0.4,
        erase=0.5,
        mixup=0.8,
        cutmix=1.0,
    ),
    "padded crop": ViewConfig(view_size=SIDE, crop="padded", flip=0.5, transpose=0.5, randaugment_ops=3, fit="stretch"),
    "stains": ViewConfig(
        view_size=SIDE, transpose=0.5, vertical_flip=0.5, stain_jitter=0.3, randaugment_ops=2, randaugment_set="gentle"
    ),
    "plain": ViewConfig(view_size=SIDE, fit="pad"),
    "zoom": ViewConfig(view_size=SIDE, crop="zoom", flip=0.5, resample="bicubic", color_jitter=0.4),
}
ORDER = [8, 15, 11, 5, 14, 13, 0, 1, 7, 6, 4, 9, 12, 10, 2, 3]
PARTNER = [1, 0, 3, 2, 9, 11, 7, 6, 15, 4, 12, 5, 10, 14, 13, 8]
RATIO = [
    *(119808, 119808, 6912, 6912, 77568, 45056, 107520, 107520),
    *(104192, 77568, 128448, 45056, 128448, 100224, 100224, 104192),
]


class Drawn:
    """Pictures and ids made without any library's random numbers."""

    size = (28, 36)

    def __init__(self) -> None:
        digests = [hashlib.sha256(bytes([i])).digest() for i in range(COUNT)]
        self.ids = np.array([int.from_bytes(digest[:8], "big") for digest in digests], np.uint64)
        y, x, c = np.meshgrid(np.arange(28), np.arange(36), np.arange(3), indexing="ij")
        slopes = [x * (3 + i) + y * y * (c + 1) // (1 + i % 5) + 40 * c for i in range(COUNT)]
        self.images = np.stack([(slope % 256).astype(np.uint8) for slope in slopes])

    def rgb(self, positions: np.ndarray) -> np.ndarray:
        return self.images[positions]


def row(config: str) -> np.ndarray:
    """Render all pictures with one config: uint8 [SIDE, COUNT * SIDE, 3]."""
    pixels = Views(Drawn(), CONFIGS[config], seed=11).render(np.arange(COUNT), 9).pixels.numpy()
    return pixels.transpose(2, 0, 3, 1).reshape(SIDE, COUNT * SIDE, 3)


@pytest.mark.parametrize("config", CONFIGS)
def test_views_are_the_golden_ones(config: str) -> None:
    """On another device or version a thousandth of the values may differ by one level, as the contract says."""
    top = SIDE * list(CONFIGS).index(config)
    golden = np.asarray(Image.open(SHEET))[top : top + SIDE].astype(int)
    difference = np.abs(row(config) - golden)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


def test_golden_pairs() -> None:
    """Draws and what is derived of them are equal to the bit everywhere."""
    views = Views(Drawn(), CONFIGS["everything"], seed=11)
    batch = views.render(np.arange(COUNT), 9)
    assert views.order(9).tolist() == ORDER
    assert batch.partner.tolist() == PARTNER
    assert [round(float(ratio) * SIDE * SIDE * 256) for ratio in batch.ratio] == RATIO


if __name__ == "__main__":
    Image.fromarray(np.concatenate([row(config) for config in CONFIGS])).save(SHEET, optimize=True)
