"""RandAugment (Cubuk et al. 2019): a few operations of fourteen, all at one magnitude.

The operations and their ranges are those of the paper and of torchvision's ``RandAugment``, whose bin 3 m of 31 is
magnitude m of 10 here. One departure, for speed and sharpness: geometric operations that follow each other are fused
into one bilinear resampling (torchvision resamples each, by default to the nearest pixel).
"""

from __future__ import annotations

import numpy as np

from . import affine, colour
from .philox import below

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
# What leaves the order of intensities and the colours' meaning: for radiographs, sections, skin.
GENTLE = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "contrast",
    "sharpness",
)
_SETS = {
    "all": np.arange(len(OPERATIONS)),
    "gentle": np.array([OPERATIONS.index(name) for name in GENTLE]),
}
_GEOMETRIC = range(1, 6)
_SHEAR, _TRANSLATE, _DEGREES, _ENHANCE, _BITS = 0.3, 150 / 331, 30.0, 0.9, 4


def randaugment(pixels: np.ndarray, numbers: np.ndarray, magnitude: float, operations: str = "all") -> np.ndarray:
    """Apply random operations to every picture.

    Args:
        pixels: uint8 [n,3,S,S]; may be changed.
        numbers: uint32 [n, 2 k]: two draws for each of the k operations of a picture.
        magnitude: 0 to 10.
        operations: "all", or "gentle" for those of `GENTLE`.

    Returns:
        uint8 [n,3,S,S].
    """
    codes = _SETS[operations]
    chosen = codes[below(numbers[:, 0::2], len(codes))]
    negative = numbers[:, 1::2] >> np.uint32(31) != 0
    share = min(max(magnitude / 10, 0.0), 1.0)
    matrices = _matrices(share, pixels.shape[-1])
    pending = np.tile(np.array(affine.IDENTITY, np.int64), (len(pixels), 1))
    waits = np.zeros(len(pixels), bool)
    for slot in range(chosen.shape[1]):
        operation, sign = chosen[:, slot], negative[:, slot].astype(np.int64)
        geometric = (operation >= _GEOMETRIC.start) & (operation < _GEOMETRIC.stop)
        due = waits & ~geometric & (operation != 0)
        _resample(pixels, pending, waits, due)
        rows = geometric.nonzero()[0]
        pending[rows] = affine.compose(pending[rows], matrices[operation[rows] - 1, sign[rows]])
        waits |= geometric
        for code in set(operation.tolist()) - {0, *_GEOMETRIC}:
            rows = (operation == code).nonzero()[0]
            some = slice(rows[0], rows[0] + 1) if len(rows) == 1 else rows  # one is not copied to be read
            pixels[some] = recolour(pixels[some], OPERATIONS[code], share, sign[some])
    _resample(pixels, pending, waits, waits)
    return pixels


def _resample(pixels: np.ndarray, pending: np.ndarray, waits: np.ndarray, due: np.ndarray) -> None:
    """Carry out the geometric operations that wait, where they are due."""
    rows = due.nonzero()[0]
    if len(rows):
        pixels[rows] = affine.transform(pixels[rows], pending[rows])
        pending[rows] = affine.IDENTITY
        waits[rows] = False


def _matrices(share: float, size: int) -> np.ndarray:
    """Return the matrices of the geometric operations in both directions: int64 [5, 2, 6]."""
    shear = round(_SHEAR * share * affine.ONE)
    shift = int(_TRANSLATE * share * size) * affine.ONE
    degrees = _DEGREES * share
    return np.array(
        [
            [affine.shear(x=-shear), affine.shear(x=shear)],
            [affine.shear(y=-shear), affine.shear(y=shear)],
            [affine.translation(x=-shift), affine.translation(x=shift)],
            [affine.translation(y=-shift), affine.translation(y=shift)],
            [affine.rotation(degrees, size), affine.rotation(-degrees, size)],
        ],
        np.int64,
    )


def recolour(pixels: np.ndarray, operation: str, share: float, negative: np.ndarray) -> np.ndarray:
    """Apply one colour operation.

    Args:
        pixels: uint8 [n,3,H,W].
        operation: a name of `OPERATIONS` from "brightness" on.
        share: magnitude in 0..1.
        negative: int64 [n], 1 where an operation that has a direction weakens.

    Returns:
        uint8 [n,3,H,W].
    """
    if operation == "autocontrast":
        return colour.apply_tables(pixels, colour.autocontrast_tables(pixels))
    if operation == "equalize":
        return colour.apply_tables(pixels, colour.equalize_tables(pixels))
    if operation == "posterize":
        return colour.apply_tables(pixels, colour.posterize_table(8 - round(_BITS * share)))
    if operation == "solarize":
        return colour.apply_tables(pixels, colour.solarize_table(round(255 * (1 - share))))
    strength = 256 + (1 - 2 * negative) * round(256 * _ENHANCE * share)
    if operation == "brightness":
        return colour.apply_tables(pixels, colour.blend_table(np.zeros_like(strength), strength))
    if operation == "contrast":
        return colour.apply_tables(pixels, colour.blend_table(colour.mean_luma(pixels), strength))
    if operation == "color":
        return colour.saturate(pixels, strength)
    return colour.sharpen(pixels, strength)
