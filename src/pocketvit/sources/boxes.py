"""Boxes of many images, as ragged columns: the truth of a detection dataset, and what a detector answers.

Corners are (left, top, right, bottom) in pixels of the upright image in full size, x to the right and y down, and real
numbers: a box that covers the first two pixels of a row goes from 0 to 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

CROWD, DIFFICULT = 1, 2  # bits of `Boxes.flags`


@dataclass(frozen=True, eq=False)
class Ragged:
    """Columns of which image i has the rows ``offsets[i]`` to ``offsets[i + 1]``.

    Attributes:
        offsets: int64 [N + 1].
        per_image: Names of the columns that have a row per image; the others have one per box.
    """

    offsets: np.ndarray
    per_image: ClassVar[tuple[str, ...]] = ("offsets",)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """int64 [N], boxes of each image."""
        return np.diff(self.offsets)

    @property
    def images(self) -> np.ndarray:
        """int64 [M], the image of each box."""
        return np.repeat(np.arange(len(self)), self.counts)

    def __getitem__(self, which: int | slice | Sequence[int] | np.ndarray) -> Self:
        """Return some images, in the given order; a number gives one."""
        positions = np.atleast_1d(np.arange(len(self))[which])
        counts = self.counts[positions]
        offsets = offsets_of(counts)
        rows = np.repeat(self.offsets[positions] - offsets[:-1], counts) + np.arange(offsets[-1])
        return self._taken(offsets, rows, positions)

    def where(self, keep: np.ndarray) -> Self:
        """Return the boxes for which ``keep`` (bool [M]) is true, of the same images."""
        counts = np.bincount(self.images[keep], minlength=len(self))
        return self._taken(offsets_of(counts), np.flatnonzero(keep), np.arange(len(self)))

    def columns(self) -> dict[str, np.ndarray]:
        """All columns by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def same(self, other: Self) -> bool:
        """Whether two hold equal values."""
        return all(np.array_equal(column, getattr(other, name)) for name, column in self.columns().items())

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Return the images of several, one after the other."""
        parts = list(parts)
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in parts[0].columns()
        }
        return cls(**columns | {"offsets": offsets_of(np.concatenate([part.counts for part in parts]))})

    def _taken(self, offsets: np.ndarray, rows: np.ndarray, positions: np.ndarray) -> Self:
        columns: dict[str, Any] = {
            name: column[positions if name in self.per_image else rows]
            for name, column in self.columns().items()
            if name != "offsets"
        }
        return type(self)(offsets=offsets, **columns)


@dataclass(frozen=True, eq=False)
class Boxes(Ragged):
    """The true boxes of N images, M in all.

    Attributes:
        corners: float32 [M, 4].
        labels: int64 [M], classes.
        flags: uint8 [M], `CROWD` and `DIFFICULT`: such boxes are neither learned nor counted as missed.
        sizes: int32 [N, 2], height and width of the image that the corners are measured in.
        known: bool [N], whether anybody looked: a known image without boxes has no objects.
    """

    corners: np.ndarray
    labels: np.ndarray
    flags: np.ndarray
    sizes: np.ndarray
    known: np.ndarray
    per_image: ClassVar[tuple[str, ...]] = ("offsets", "sizes", "known")

    @classmethod
    def nobody_looked(cls, sizes: np.ndarray) -> Boxes:
        """Return the boxes of images int [N, 2] (heights, widths) that nobody annotated."""
        nothing = np.zeros(0, np.int64)
        offsets, known = np.zeros(len(sizes) + 1, np.int64), np.zeros(len(sizes), bool)
        return cls(offsets, np.zeros((0, 4), np.float32), nothing, nothing.astype(np.uint8), sizes, known)

    @property
    def ignored(self) -> np.ndarray:
        """bool [M], crowds and difficult ones."""
        return self.flags > 0

    @cached_property
    def presence(self) -> np.ndarray:
        """int64 [N, C'] of 0 and 1, classes up to the highest here that each image shows; -1 where it is not known."""
        there = np.zeros((len(self), int(self.labels.max(initial=-1)) + 1), np.int64)
        there[self.images, self.labels] = 1
        there[~self.known] = -1
        return there

    def hidden(self, keep: np.ndarray) -> Boxes:
        """Return the same images with the boxes of all but the positions ``keep`` forgotten."""
        kept = np.zeros(len(self), bool)
        kept[keep] = self.known[keep]
        left = self.where(kept[self.images])
        return Boxes(left.offsets, left.corners, left.labels, left.flags, left.sizes, kept)


@dataclass(frozen=True, eq=False)
class Detections(Ragged):
    """What a detector found in N images, M boxes in all, best first within each.

    Attributes:
        corners: float32 [M, 4].
        labels: int64 [M], classes.
        scores: float32 [M], 0 to 1.
    """

    corners: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """Return int64 [N + 1], where the rows of each image begin, and where the last ones end."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
