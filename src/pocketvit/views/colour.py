"""Colour operations on planar 8-bit pictures [n,3,H,W], as Pillow defines them, in whole-number arithmetic.

Strengths are in units of 1/256: 256 leaves a picture as it is. Point operations are tables of 256 entries.
"""

from __future__ import annotations

import numpy as np

_VALUES = np.arange(256, dtype=np.int64)


def luma(pixels: np.ndarray) -> np.ndarray:
    """Return ITU-R 601-2 luma as Pillow's mode "L": uint8 [n,H,W]."""
    total = pixels[:, 0] * np.uint32(19595)
    total += pixels[:, 1] * np.uint32(38470)
    total += pixels[:, 2] * np.uint32(7471)
    total += np.uint32(0x8000)
    total >>= np.uint32(16)
    return total.astype(np.uint8)


def mean_luma(pixels: np.ndarray) -> np.ndarray:
    """Return the mean luma of each picture, rounded: int64 [n]."""
    grey = luma(pixels)
    area = grey.shape[1] * grey.shape[2]
    return (2 * grey.sum(axis=(1, 2), dtype=np.int64) + area) // (2 * area)


def blend_table(degenerate: np.ndarray | int, strength: np.ndarray | int) -> np.ndarray:
    """Return tables that blend every value with a degenerate one (black: brightness, mean luma: contrast).

    Args:
        degenerate: int [n] or a scalar.
        strength: int [n] or a scalar, in 1/256.

    Returns:
        uint8 [n,256], or [1,256] for scalars.
    """
    start = np.asarray(degenerate, np.int64).reshape(-1, 1)
    change = np.asarray(strength, np.int64).reshape(-1, 1) * (_VALUES - start) >> 8
    return np.clip(start + change, 0, 255).astype(np.uint8)


def posterize_table(bits: int) -> np.ndarray:
    """Return the table that keeps the highest ``bits`` bits: uint8 [1,256]."""
    return (_VALUES & ~((1 << (8 - bits)) - 1)).astype(np.uint8)[None]


def solarize_table(threshold: int) -> np.ndarray:
    """Return the table that inverts values from ``threshold`` upwards: uint8 [1,256]."""
    return np.where(np.less(_VALUES, threshold), _VALUES, 255 - _VALUES).astype(np.uint8)[None]


def autocontrast_tables(pixels: np.ndarray) -> np.ndarray:
    """Return tables that stretch each channel to 0..255: uint8 [n,3,256]."""
    low = pixels.min(axis=(2, 3)).astype(np.int64)[:, :, None]
    high = pixels.max(axis=(2, 3)).astype(np.int64)[:, :, None]
    stretched = np.clip((_VALUES - low) * 255 // np.maximum(high - low, 1), 0, 255)
    return np.where(high > low, stretched, _VALUES).astype(np.uint8)


def equalize_tables(pixels: np.ndarray) -> np.ndarray:
    """Return tables that flatten each channel's histogram: uint8 [n,3,256]."""
    count = pixels.shape[0]
    planes = pixels.reshape(count * 3, -1)
    histograms = np.stack([np.bincount(plane, minlength=256) for plane in planes])
    last = 255 - (histograms[:, ::-1] != 0).argmax(axis=1)
    step = (planes.shape[1] - histograms[np.arange(len(planes)), last]) // 255
    before = np.cumsum(histograms, axis=1) - histograms
    flat = (before + (step // 2)[:, None]) // np.maximum(step, 1)[:, None]
    tables = np.where(step[:, None] > 0, np.minimum(flat, 255), _VALUES)
    return tables.astype(np.uint8).reshape(count, 3, 256)


def apply_tables(pixels: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Look every value up.

    Args:
        pixels: uint8 [n,3,H,W].
        tables: uint8 [1,256] for all pictures, [n,256] a picture, or [n,3,256] a channel.

    Returns:
        uint8 [n,3,H,W].
    """
    if tables.shape[0] == 1 and tables.ndim == 2:
        return np.frombuffer(pixels.tobytes().translate(tables.tobytes()), np.uint8).reshape(pixels.shape)
    result = np.empty(pixels.shape, np.uint8)
    rows = tables.reshape(-1, 256)
    sources = pixels.reshape(len(rows), -1)
    targets = result.reshape(len(rows), -1)
    for source, target, table in zip(sources, targets, rows, strict=True):  # bytes.translate is the fastest lookup
        target[:] = np.frombuffer(source.tobytes().translate(table.tobytes()), np.uint8)
    return result


def saturate(pixels: np.ndarray, strength: np.ndarray | int) -> np.ndarray:
    """Blend with the grey picture (Pillow's ``ImageEnhance.Color``): uint8 [n,3,H,W]."""
    return _blend(luma(pixels)[:, None], pixels, strength)


def sharpen(pixels: np.ndarray, strength: np.ndarray | int) -> np.ndarray:
    """Blend with the smoothed picture (Pillow's ``ImageEnhance.Sharpness``); the outermost pixels stay."""
    if min(pixels.shape[2:]) < 3:
        return pixels.copy()
    wide = pixels.astype(np.uint16)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    smooth = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth += wide[:, :, 1:-1, 1:-1] * np.uint16(4)
    smooth *= np.uint16(2)
    smooth += np.uint16(13)
    smooth //= np.uint16(26)
    result = pixels.copy()
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    result[inner] = _blend(smooth, pixels[inner], strength)
    return result


def _blend(degenerate: np.ndarray, pixels: np.ndarray, strength: np.ndarray | int) -> np.ndarray:
    """Return degenerate + strength (pixels - degenerate), truncated and clamped as Pillow's ``Image.blend``."""
    factor = np.asarray(strength, np.int32).reshape(-1, 1, 1, 1)
    start = degenerate.astype(np.int32)
    result = pixels - start
    result *= factor
    result >>= 8
    result += start
    np.maximum(result, 0, out=result)
    np.minimum(result, 255, out=result)
    return result.astype(np.uint8)
