"""What the checks find of each image, as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

DEPTHS = ("uint8", "uint16", "int32", "float32", "int8", "int16", "uint32")


def decoded_bytes(shapes: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Return int64 [N], bytes of images of such shapes [N, 3] (0 channels for plain [H, W]) and ``depths`` [N]."""
    widths = np.array([np.dtype(depth).itemsize for depth in DEPTHS], np.int64)
    sides = shapes.astype(np.int64)
    return sides[:, 0] * sides[:, 1] * np.maximum(sides[:, 2], 1) * widths[depths]


@dataclass
class Findings:
    """One row an image of a listing.

    Attributes:
        digests: uint8 [N, 32], SHA-256 of the file's bytes or the array's image.
        looks: [N] hash of the decoded pixels: equal for copies that differ only in their metadata or container.
        shapes: int32 [N, 3], height and width when upright, and channels (0 for plain [H, W]).
        depths: uint8 [N], index into `DEPTHS`.
        kinds: [N] channels and depth as the file has them, such as "RGB" or "16-bit grey".
        stored: int64 [N], bytes of the file (of the pixels, for arrays).
        ranges: float64 [N, 2], lowest and highest intensity; NaN where the image is 8-bit.
        robust: float64 [N, 2], its robust percentiles (`window.SHARES`); NaN likewise.
        windows: float64 [N, 2], what the tags of DICOM show from black to white; NaN where they do not say.
        patients: [N] PatientID of DICOM, "" where there is none.
        drafted: bool [N], whether ``looks`` is of a JPEG decoded at an eighth of its size.
        why: [N] what is wrong with it, "" if nothing.
    """

    digests: np.ndarray
    looks: list[bytes]
    shapes: np.ndarray
    depths: np.ndarray
    kinds: list[str]
    stored: np.ndarray
    ranges: np.ndarray
    robust: np.ndarray
    windows: np.ndarray
    patients: list[str]
    drafted: np.ndarray
    why: list[str]

    @classmethod
    def empty(cls, count: int) -> Findings:
        """Return findings for ``count`` images, nothing filled in."""
        return cls(
            digests=np.zeros((count, 32), np.uint8),
            looks=[b""] * count,
            shapes=np.zeros((count, 3), np.int32),
            depths=np.zeros(count, np.uint8),
            kinds=[""] * count,
            stored=np.zeros(count, np.int64),
            ranges=np.full((count, 2), np.nan),
            robust=np.full((count, 2), np.nan),
            windows=np.full((count, 2), np.nan),
            patients=[""] * count,
            drafted=np.zeros(count, bool),
            why=[""] * count,
        )

    @property
    def good(self) -> np.ndarray:
        """bool [N]: whether an image can be used."""
        return np.array([not why for why in self.why], bool)

    @property
    def decoded(self) -> np.ndarray:
        """int64 [N]: bytes of the decoded pixels."""
        return decoded_bytes(self.shapes, self.depths)

    def take(self, rows: np.ndarray) -> Findings:
        """Return the findings of some rows."""
        taken: dict[str, Any] = {
            name: column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]
            for name, column in vars(self).items()
        }
        return Findings(**taken)
