"""Drawn scenes: shapes and handwritten digits on textured grounds, with their boxes. Equal to the bit everywhere."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .boxes import Boxes, offsets_of
from .listing import Arrays, Listing

NAME = "scenes"
CLASSES = ("circle", "digit", "square", "triangle")
COUNTS = {"train": 300, "val": 60, "test": 150}
SIDE = 64  # pixels
_OBJECTS = (14, 26)  # sides of the smallest and of the largest object
_OVERLAP = 0.1  # share of an object that an earlier one may take


def list_scenes() -> Listing:
    """List drawn scenes of `SIDE` pixels with none to four objects each, in splits of `COUNTS`."""
    from sklearn.datasets import load_digits

    digits = load_digits().images  # [n, 8, 8], 0 to 16
    rng = np.random.Generator(np.random.Philox(key=13))
    images, boxes, splits = [], [], []
    for split, count in COUNTS.items():
        for _ in range(count):
            picture, found = draw_scene(rng, digits)
            images.append(picture)
            boxes.append(found)
            splits.append(split)
    counts = np.array([len(found) for found in boxes])
    rows = np.array([row for found in boxes for row in found], np.float64).reshape(-1, 5)
    targets = Boxes(
        offsets=offsets_of(counts),
        corners=rows[:, 1:].astype(np.float32),
        labels=rows[:, 0].astype(np.int64),
        flags=np.zeros(len(rows), np.uint8),
        sizes=np.full((len(images), 2), SIDE, np.int32),
        known=np.ones(len(images), bool),
    )
    names = [str(number) for number in range(len(images))]
    return Listing(
        NAME, CLASSES, names, names, splits, targets, Arrays([np.stack(images)]), task="detection",
        notes=["drawn here: shapes and scikit-learn's handwritten digits on textured grounds"],
    )  # fmt: skip


def draw_scene(rng: np.random.Generator, digits: np.ndarray) -> tuple[np.ndarray, list[tuple[float, ...]]]:
    """Return a picture uint8 [SIDE, SIDE, 3] and (class, left, top, right, bottom) of what is on it."""
    picture = _ground(rng)
    found: list[tuple[float, ...]] = []
    for _ in range(int(rng.integers(0, 5))):
        label, side = int(rng.integers(len(CLASSES))), int(rng.integers(*_OBJECTS))
        left, top = (int(rng.integers(0, SIDE - side)) for _ in range(2))
        colour = rng.integers(0, 256, 3)
        mask = _mask(CLASSES[label], side, rng, digits)
        rows, columns = (np.flatnonzero(mask.max(axis) > 0.5) for axis in (1, 0))
        box = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
        place = picture[top : top + side, left : left + side]
        if any(_covered(box, other[1:]) > _OVERLAP for other in found):
            continue
        if np.abs(place.mean((0, 1)) - colour).max() < 80:  # it could not be seen
            colour = (colour + 128) % 256
        place += mask[..., None] * (colour - place)
        found.append((label, *map(float, box)))
    return np.rint(picture.clip(0, 255)).astype(np.uint8), found


def _ground(rng: np.random.Generator) -> np.ndarray:
    """Noise of three grains in two colours, float64 [SIDE, SIDE, 3]."""
    amount = np.zeros((SIDE, SIDE))
    for grain, weight in ((4, 1.0), (16, 0.5), (SIDE, 0.2)):
        coarse = rng.random((grain, grain))
        amount += weight * np.kron(coarse, np.ones((SIDE // grain, SIDE // grain)))
    amount = (amount - amount.min()) / np.ptp(amount)
    low, high = rng.integers(0, 256, (2, 3))
    return low + amount[..., None] * 0.5 * (high - low)


def _mask(kind: str, side: int, rng: np.random.Generator, digits: np.ndarray) -> np.ndarray:
    """How much of each pixel an object covers, float64 [side, side]."""
    if kind == "digit":
        strokes = digits[int(rng.integers(len(digits)))] / 16
        image = Image.fromarray(np.rint(255 * strokes).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        return (np.asarray(image) / 255 * 1.5).clip(0, 1)
    image = Image.new("L", (4 * side, 4 * side))  # four times finer, and averaged: smooth edges
    draw, end = ImageDraw.Draw(image), 4 * side - 1
    if kind == "circle":
        draw.ellipse((0, 0, end, end), fill=255)
    elif kind == "square":
        draw.rectangle((0, 0, end, end), fill=255)
    else:
        draw.polygon([(end / 2, 0), (end, end), (0, end)], fill=255)
    return np.asarray(image, np.float64).reshape(side, 4, side, 4).mean((1, 3)) / 255


def _covered(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Share of the smaller of two boxes that lies in the other."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    areas = [(one[2] - one[0]) * (one[3] - one[1]) for one in (box, other)]
    return max(0.0, width) * max(0.0, height) / min(areas)
