"""What an opener has found before anything is read: one row an image, and how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PocketError
from .base import Source
from .decode import BrokenImage, decode, to_rgb8
from .findings import Findings


@dataclass
class Listing:
    """Images and targets as found, not yet checked.

    Attributes:
        names: [N] as shown to people: the path relative to what was opened, or the array's index.
        keys: [N] what a sample is known by inside its split: the normalized path below the split's folder.
        splits: [N] "train", "val", "test".
        targets: int64 [N], -1 where unknown; with several labels an image int64 [N, C] of 0 and 1; or `Boxes`.
        images: where the pixels are: files, arrays, or dataset objects.
        test_fraction: share to hold out for a missing test split, where it is not that of validation.
        task, modality, group, synthetic, numbers: see `Dataset`.
        groups: [N] cells of the grouping column, "" where it is empty; None if ungrouped.
        unasked: whether nobody named that column: given splits that part a group are then kept, and warned of.
        whose: whose the given splits are, to be said; by default the name's.
        named: by split, the name of the set that it is of, where that is another one.
        single: why nothing can be learned of these images alone, where all of them are of one class or none is for
            training; a test split may be so.
    """

    name: str
    classes: tuple[str, ...]
    names: list[str]
    keys: list[str]
    splits: list[str]
    targets: Any
    images: Files | Arrays | Items
    notes: list[str] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    test_fraction: float | None = None
    task: str = "classification"
    modality: str | None = None
    group: str | None = None
    groups: list[str] | None = None
    unasked: bool = False
    whose: str | None = None
    synthetic: str = ""
    named: dict[str, str] = field(default_factory=dict)
    single: str = ""
    numbers: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class Files:
    """Images in files: paths [N]."""

    paths: Sequence[Path]

    def source(self, rows: np.ndarray, findings: Findings, **about: object) -> FileSource:
        """Return the source of the images at ``rows``."""
        return FileSource([self.paths[row] for row in rows], findings.take(rows), **about)


@dataclass
class Arrays:
    """Images in arrays of one dtype, [n, H, W] or [n, H, W, C] each, laid end to end."""

    parts: Sequence[np.ndarray]

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the part and the place in it of each row."""
        ends = np.cumsum([len(part) for part in self.parts])
        part = np.searchsorted(ends, rows, side="right")
        return part, rows - (ends - [len(part) for part in self.parts])[part]

    def source(self, rows: np.ndarray, findings: Findings, **about: object) -> Source:
        """Return the source of the images at ``rows``."""
        part, place = self.locate(rows)
        if len(rows) and (part == part[0]).all():
            return ArraySource(self.parts[part[0]], place, **about)
        return ArraySource(np.stack([self.parts[p][i] for p, i in zip(part, place, strict=True)]), None, **about)


@dataclass
class Items:
    """Images that dataset objects give one at a time, laid end to end."""

    parts: Sequence[Any]

    def source(self, rows: np.ndarray, findings: Findings, **about: object) -> ItemSource:
        """Return the source of the images at ``rows``."""
        return ItemSource(self, rows, findings.take(rows), **about)

    def pixels(self, row: int, name: str) -> np.ndarray:
        """Return one image, upright in its native depth.

        Raises:
            BrokenImage: it cannot be read.
        """
        from .objects import pixels_of

        for part in self.parts:
            if row < len(part):
                break
            row -= len(part)
        try:
            return pixels_of(part[row], name)
        except PocketError:
            raise
        except Exception as error:  # whatever the object's own code meets
            reason = str(error).split("\n")[0] or type(error).__name__
            raise BrokenImage(name, f"cannot be read ({reason}); replace it or leave it out") from error


class ItemSource(Source):
    """Images of dataset objects, read when asked for."""

    def __init__(self, items: Items, rows: np.ndarray, findings: Findings, **about: object) -> None:
        super().__init__(**about)  # type: ignore[arg-type]
        self.items, self.rows, self.findings = items, rows, findings

    def __getitem__(self, position: int) -> tuple[np.ndarray, Any]:
        return self.items.pixels(int(self.rows[position]), self.names[position]), self.target(position)

    def described(self) -> tuple[np.ndarray, np.ndarray]:
        return self.findings.shapes, self.findings.depths


class FileSource(Source):
    """Images in files, decoded when asked for.

    Attributes:
        paths: [N].
        findings: what the checks found of each file.
    """

    def __init__(self, paths: Sequence[Path], findings: Findings, **about: object) -> None:
        super().__init__(**about)  # type: ignore[arg-type]
        self.paths = paths
        self.findings = findings

    def __getitem__(self, position: int) -> tuple[np.ndarray, Any]:
        return decode(self.paths[position], self.names[position]), self.target(position)

    def described(self) -> tuple[np.ndarray, np.ndarray]:
        return self.findings.shapes, self.findings.depths


class ArraySource(Source):
    """Images in one array [n, H, W] or [n, H, W, C]; ``rows`` says which and in what order (None: all)."""

    def __init__(self, images: np.ndarray, rows: np.ndarray | None, **about: object) -> None:
        super().__init__(**about)  # type: ignore[arg-type]
        self.images = images
        self.rows = rows

    def __getitem__(self, position: int) -> tuple[np.ndarray, Any]:
        row = position if self.rows is None else self.rows[position]
        return self.images[row], self.target(position)

    def rgb(self, positions: np.ndarray) -> np.ndarray:
        """Return uint8 [B, H, W, 3]: one gather, no loop."""
        return batch_rgb8(self.native(positions), self.window)

    def native(self, positions: np.ndarray) -> np.ndarray:
        """Return images in native depth, [B, H, W] or [B, H, W, C]."""
        return self.images[positions if self.rows is None else self.rows[positions]]


def batch_rgb8(images: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    """Return images [B, H, W] or [B, H, W, C] as uint8 [B, H, W, 3]."""
    return to_rgb8(images[..., None] if images.ndim == 3 else images, window)
