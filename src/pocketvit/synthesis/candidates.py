"""Pictures to choose from: what every row of them offers, and the two controls, plain noise and one photograph."""

from __future__ import annotations

import hashlib
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
        real: whether it is a photograph at all, or a drawn picture in its place.
    """

    name = "one photograph"

    def __init__(
        self, picture: np.ndarray | Path | str, seed: int, size: int, name: str = "", *, real: bool = True
    ) -> None:
        if not isinstance(picture, np.ndarray):
            name = name or Path(picture).name
            picture = to_rgb8(decode(Path(picture), str(picture)), None)
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise PocketError(f"the photograph {name} is no 8-bit colour picture: {picture.dtype} {picture.shape}.")
        if min(picture.shape[:2]) < size:
            raise PocketError(
                f"the photograph {name} is {picture.shape[1]} x {picture.shape[0]} pixels: pictures of {size} pixels "
                f"need one of at least {size}. Give a larger photograph."
            )
        self.photograph, self.seed, self.size, self.title, self.real = picture, seed, size, name, real
        self._levels = _pyramid(picture, size)

    @property
    def provenance(self) -> dict[str, Any]:
        digest = hashlib.sha256(np.ascontiguousarray(self.photograph).data).hexdigest()
        return {
            "images": self.name, "photograph": self.title, "sha256": digest, "seed": self.seed, "size": self.size,
            "real_images": int(self.real),
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
    """The few real images that there are, first as they are, then as augmented views: to choose or to start from.

    Args:
        source: such as the training split of ``--data few/``; labels are not looked at.
        seed: of the views.
        size: side of the pictures.
    """

    name = "real images"

    def __init__(self, source: Source, seed: int, size: int) -> None:
        self.source, self.seed, self.size = source, seed, size
        config = ViewConfig(view_size=size, crop="random_resized", crop_scale=(0.6, 1.0), flip=0.5, color_jitter=0.3)
        self._whole, self._views = Views(source, config.plain(), seed), Views(source, config, seed)

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
            rows, views = np.flatnonzero(view == number), self._views if number else self._whole
            result[rows] = views.render(position[rows], int(number)).pixels.numpy()
        return result


class Mixed:
    """Two rows, the second one's pictures between the first one's: drawn pictures, and views of a few real images.

    Args:
        often: most pictures are its.
        seldom: of the same size.
        every: so many pictures hold one of it, the last.
    """

    name = "mixed"

    def __init__(self, often: Candidates, seldom: Candidates, every: int = 2) -> None:
        self.often, self.seldom, self.every, self.size = often, seldom, every, often.size

    @property
    def provenance(self) -> dict[str, Any]:
        parts = [row.provenance for row in (self.often, self.seldom)]
        real = sum(part["real_images"] for part in parts)
        return {"images": self.name, "rows": parts, "every": self.every, "real_images": real}

    def take(self, indices: np.ndarray) -> np.ndarray:
        turn, place = np.divmod(np.asarray(indices, np.int64), self.every)
        last = place == self.every - 1
        result = np.empty((len(turn), 3, self.size, self.size), np.uint8)
        if last.any():
            result[last] = self.seldom.take(turn[last])
        if not last.all():
            result[~last] = self.often.take((turn * (self.every - 1) + place)[~last])
        return result


def sample_photograph(seed: int, size: int) -> Photograph:
    """Return crops of scikit-learn's sample photograph, or of a drawn picture where that is missing or too small."""
    try:
        from sklearn.datasets import load_sample_image

        picture = np.asarray(load_sample_image("china.jpg"))
        if min(picture.shape[:2]) >= size:
            return Photograph(picture, seed, size, "scikit-learn's china.jpg")
    except (ImportError, OSError, AttributeError):
        pass
    drawn = Procedural(0, max(512, 4 * size)).take(np.array([16]))[0]
    name = "one drawn picture (no photograph of that size was at hand)"
    return Photograph(np.ascontiguousarray(drawn.transpose(1, 2, 0)), seed, size, name, real=False)


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
