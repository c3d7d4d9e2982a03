"""Pictures to choose from: what every row of them offers, and the two controls, plain noise and one photograph."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..config import ViewConfig
from ..errors import PocketError
from ..sources import Source, decode, to_rgb8
from ..views import Views
from ..views.parallel import cut, spread
from ..views.philox import draw
from .fields import TAU
from .procedural import Procedural, uniform

_CHUNK = 1 << 17  # pixels computed at once
_SMALLEST_CROP = 0.08  # of the photograph's shorter side, or the picture's own size if that is larger


class Candidates(Protocol):
    """An endless row of pictures: picture i depends on nothing but i and what ``provenance`` says."""

    name: str
    size: int

    @property
    def provenance(self) -> dict[str, Any]:
        """What the pictures depend on; ``real_images`` counts the photographs among that."""
        ...

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return pictures uint8 [n, 3, S, S], for int64 [n] indices."""
        ...


class Noise:
    """Independent uniform pixels: what any method must beat."""

    name = "noise"

    def __init__(self, seed: int, size: int) -> None:
        self.seed, self.size = seed, size

    @property
    def provenance(self) -> dict[str, Any]:
        return {"images": self.name, "seed": self.seed, "size": self.size, "real_images": 0}

    def take(self, indices: np.ndarray) -> np.ndarray:
        count = 3 * self.size**2
        words = -(-count // 8)
        result = np.empty((len(indices), count), np.uint8)
        for row, index in enumerate(np.asarray(indices, np.uint64)):
            # The raw stream of Philox is fixed for good; numpy's distributions are not.
            raw = np.random.Philox(key=np.array([self.seed, index], np.uint64)).random_raw(words)
            result[row] = raw.astype("<u8").view(np.uint8)[:count]
        return result.reshape(-1, 3, self.size, self.size)


class Photograph:
    """Crops of one large photograph: scaled, turned, mirrored, coloured otherwise (Asano & Saeed 2023).

    Not data-free, but a control: a single picture, of anything, teaches more than one would think.

    Args:
        picture: uint8 [H, W, 3], or a file.
        seed: of the crops.
        size: side of the pictures.
        name: of the photograph, for the record.
    """

    name = "one photograph"

    def __init__(self, picture: np.ndarray | Path | str, seed: int, size: int, name: str = "") -> None:
        if not isinstance(picture, np.ndarray):
            name = name or Path(picture).name
            picture = to_rgb8(decode(Path(picture), str(picture)), None)
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise PocketError(f"the photograph {name} is no 8-bit colour picture: {picture.dtype} {picture.shape}.")
        if min(picture.shape[:2]) < 2 * size:
            raise PocketError(
                f"the photograph {name} is {picture.shape[1]} x {picture.shape[0]} pixels: pictures of {size} pixels "
                f"need one of at least {2 * size}. Give a larger photograph."
            )
        self.photograph, self.seed, self.size, self.title = picture, seed, size, name
        self._levels = _pyramid(picture, size)

    @property
    def provenance(self) -> dict[str, Any]:
        digest = hashlib.sha256(np.ascontiguousarray(self.photograph).data).hexdigest()
        return {
            "images": self.name, "photograph": self.title, "sha256": digest, "seed": self.seed, "size": self.size,
            "real_images": 1,
        }  # fmt: skip

    def take(self, indices: np.ndarray) -> np.ndarray:
        ids = np.asarray(indices, np.uint64)
        u = uniform(draw(self.seed, ids, 0, {"synth.photograph": 12})["synth.photograph"])
        result = np.empty((len(ids), 3, self.size, self.size), np.uint8)

        def work(part: slice) -> None:
            result[part] = self._crops(u[part])

        spread(work, cut(len(ids), max(1, _CHUNK // self.size**2)))
        return result

    def _crops(self, u: np.ndarray) -> np.ndarray:
        """Sample the level of the pyramid whose pixels are about as large as the crop's."""
        height, width = self.photograph.shape[:2]
        shorter = min(height, width)
        least = max(self.size, _SMALLEST_CROP * shorter)
        side = (least * (shorter / least) ** u[:, 0]).astype(np.float32)
        level = np.floor(np.log2(np.maximum(side / self.size, 1))).astype(int).clip(max=len(self._levels) - 1)
        angle = np.where(u[:, 1] < 0.5, 0, (u[:, 2] - 0.5) * TAU / 6).astype(np.float32)
        line = (np.arange(self.size, dtype=np.float32) + 0.5) / self.size - 0.5
        mirror = np.where(u[:, 3] < 0.5, -1, 1).astype(np.float32)
        x = np.broadcast_to((mirror * side)[:, None, None] * line[None, None, :], (len(u), self.size, self.size))
        y = np.broadcast_to(side[:, None, None] * line[None, :, None], x.shape)
        cosine, sine = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
        x, y = x * cosine - y * sine, x * sine + y * cosine
        x += (side / 2 + u[:, 4] * (width - side))[:, None, None]
        y += (side / 2 + u[:, 5] * (height - side))[:, None, None]
        result = np.empty((len(u), 3, self.size, self.size), np.uint8)
        for number in np.unique(level):
            rows = np.flatnonzero(level == number)
            scale = np.float32(0.5**number)
            picture = _bilinear(self._levels[number], x[rows] * scale, y[rows] * scale)
            gain = 1 + 0.8 * (u[rows, 6:9] - 0.5) * (u[rows, 9, None] < 0.5)
            contrast = (0.6 + 0.8 * u[rows, 10])[:, None, None, None].astype(np.float32)
            picture = (picture * gain[:, :, None, None].astype(np.float32) - 128) * contrast + 128.5
            result[rows] = np.clip(picture, 0, 255).astype(np.uint8)
        return result


class RealImages:
    """Augmented views of the few real images that there are: to choose from, or to start inversion from.

    Args:
        source: such as the training split of ``--data few/``; labels are not looked at.
        seed: of the views.
        size: side of the pictures.
    """

    name = "real images"

    def __init__(self, source: Source, seed: int, size: int) -> None:
        self.source, self.seed, self.size = source, seed, size
        config = ViewConfig(view_size=size, crop="random_resized", crop_scale=(0.3, 1.0), flip=0.5, color_jitter=0.3)
        self._views = Views(source, config, seed)

    @property
    def provenance(self) -> dict[str, Any]:
        return {
            "images": self.name, "source": self.source.fingerprint, "views": self._views.fingerprint,
            "real_images": len(self.source),
        }  # fmt: skip

    def take(self, indices: np.ndarray) -> np.ndarray:
        view, position = np.divmod(np.asarray(indices, np.int64), len(self.source))
        result = np.empty((len(view), 3, self.size, self.size), np.uint8)
        for number in np.unique(view):
            rows = np.flatnonzero(view == number)
            result[rows] = self._views.render(position[rows], int(number)).pixels.numpy()
        return result


class Mixed:
    """Several rows taken in turns, such as drawn pictures and views of a few real images."""

    name = "mixed"

    def __init__(self, rows: Sequence[Candidates]) -> None:
        self.rows, self.size = tuple(rows), rows[0].size

    @property
    def provenance(self) -> dict[str, Any]:
        parts = [row.provenance for row in self.rows]
        return {"images": self.name, "rows": parts, "real_images": sum(part["real_images"] for part in parts)}

    def take(self, indices: np.ndarray) -> np.ndarray:
        turn, which = np.divmod(np.asarray(indices, np.int64), len(self.rows))
        result = np.empty((len(turn), 3, self.size, self.size), np.uint8)
        for number, row in enumerate(self.rows):
            own = np.flatnonzero(which == number)
            if len(own):
                result[own] = row.take(turn[own])
        return result


def sample_photograph(size: int) -> tuple[np.ndarray, str]:
    """Return a large picture and its name: scikit-learn's sample photograph, or a drawn one where that is missing."""
    try:
        from sklearn.datasets import load_sample_image

        picture = np.asarray(load_sample_image("china.jpg"))
        if min(picture.shape[:2]) >= 2 * size:
            return picture, "scikit-learn's china.jpg"
    except (ImportError, OSError, AttributeError):
        pass
    drawn = Procedural(0, max(512, 4 * size)).take(np.array([16]))[0]
    return np.ascontiguousarray(drawn.transpose(1, 2, 0)), "a drawn picture (no photograph was at hand)"


def _pyramid(picture: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the picture and its halves, float32 [H, W, 3], down to ``size`` pixels."""
    levels = [picture.astype(np.float32)]
    while min(levels[-1].shape[:2]) >= 2 * size:
        last = levels[-1]
        height, width = last.shape[0] // 2 * 2, last.shape[1] // 2 * 2
        levels.append(last[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3)))
    return levels


def _bilinear(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample a picture [H, W, 3] at pixel positions [n, S, S], mirrored beyond its borders: [n, 3, S, S]."""
    height, width = picture.shape[:2]
    x, y = np.abs(x - 0.5), np.abs(y - 0.5)
    x, y = width - 1 - np.abs(width - 1 - x), height - 1 - np.abs(height - 1 - y)
    left = np.clip(np.floor(x), 0, width - 2).astype(np.int64)
    top = np.clip(np.floor(y), 0, height - 2).astype(np.int64)
    dx, dy = (x - left)[..., None].astype(np.float32), (y - top)[..., None].astype(np.float32)
    upper = picture[top, left] * (1 - dx) + picture[top, left + 1] * dx
    lower = picture[top + 1, left] * (1 - dx) + picture[top + 1, left + 1] * dx
    return (upper * (1 - dy) + lower * dy).transpose(0, 3, 1, 2)
