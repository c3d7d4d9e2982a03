"""Colour operations on planar 8-bit pictures [n,3,H,W], as Pillow defines them, in whole-number arithmetic.

Strengths are in units of 1/256: 256 leaves a picture as it is. Point operations are tables of 256 entries.
"""

from __future__ import annotations

import numpy as np
import torch

_MANY = 1 << 15  # values from which ways that start slowly and then run fast pay
_VALUES = np.arange(256, dtype=np.int64)


def luma(pixels: np.ndarray) -> np.ndarray:
    """Return ITU-R 601-2 luma as Pillow's mode "L": uint8 [n,H,W]."""
    total = pixels[:, 0].astype(np.uint32)
    total *= np.uint32(19595)
    for channel, weight in ((1, 38470), (2, 7471)):
        part = pixels[:, channel].astype(np.uint32)
        part *= np.uint32(weight)
        total += part
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
    if planes.shape[1] < _MANY:
        histograms = np.stack([np.bincount(plane, minlength=256) for plane in planes])
    else:  # torch starts more slowly, but need not widen bytes to words first
        histograms = np.stack([torch.bincount(plane, minlength=256).numpy() for plane in torch.from_numpy(planes)])
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
    result = np.empty(pixels.shape, np.uint8)
    rows = tables.reshape(-1, 256)
    sources = pixels.reshape(len(rows), -1)
    targets = result.reshape(len(rows), -1)
    for source, target, table in zip(sources, targets, rows, strict=True):
        _look_up(source, table, target)
    return result


def _look_up(source: np.ndarray, table: np.ndarray, target: np.ndarray) -> None:
    """Write ``table[source]``: uint8 [k] and [256] to [k]."""
    if len(source) < _MANY or len(source) % 2:  # bytes.translate is the fastest lookup of single bytes
        target[:] = np.frombuffer(source.tobytes().translate(table.tobytes()), np.uint8)
        return
    # Two values at a time are faster still, and let other threads run; which byte comes first does not matter.
    wide = table.astype(np.uint16)
    pairs = (wide[:, None] << np.uint16(8) | wide).reshape(-1)
    pairs.take(source.view(np.uint16), out=target.view(np.uint16), mode="clip")


def saturate(pixels: np.ndarray, strength: np.ndarray | int) -> np.ndarray:
    """Blend with the grey picture (Pillow's ``ImageEnhance.Color``): uint8 [n,3,H,W]."""
    grey = luma(pixels)
    result = np.empty(pixels.shape, np.uint8)
    for channel in range(pixels.shape[1]):  # a channel's work stays in cache
        result[:, channel] = _blend(grey, pixels[:, channel], strength)
    return result


def sharpen(pixels: np.ndarray, strength: np.ndarray | int) -> np.ndarray:
    """Blend with the smoothed picture (Pillow's ``ImageEnhance.Sharpness``); the outermost pixels stay."""
    if min(pixels.shape[2:]) < 3:
        return pixels.copy()
    result = pixels.copy()
    for channel in range(pixels.shape[1]):  # a channel's work stays in cache
        wide = pixels[:, channel].astype(np.uint16)
        rows = wide[:, :-2] + wide[:, 1:-1]
        rows += wide[:, 2:]
        smooth = rows[..., :-2] + rows[..., 1:-1]
        smooth += rows[..., 2:]
        centre = wide[:, 1:-1, 1:-1]
        smooth += centre * np.uint16(4)
        smooth += np.uint16(6)
        smooth //= np.uint16(13)  # rounded to the nearest
        result[:, channel, 1:-1, 1:-1] = _blend(smooth, centre, strength)
    return result


def _blend(degenerate: np.ndarray, pixels: np.ndarray, strength: np.ndarray | int) -> np.ndarray:
    """Return degenerate + strength (pixels - degenerate), truncated and clamped as Pillow's ``Image.blend``.

    Args:
        degenerate: unsigned [n,H,W].
        pixels: unsigned [n,H,W].
        strength: int [n] or a scalar, in 1/256.

    Returns:
        int32 [n,H,W] in 0..255.
    """
    start = degenerate.astype(np.int32)
    result = pixels.astype(np.int32)
    result -= start
    result *= np.asarray(strength, np.int32).reshape(-1, 1, 1)
    result >>= 8
    result += start
    return np.clip(result, 0, 255, out=result)
