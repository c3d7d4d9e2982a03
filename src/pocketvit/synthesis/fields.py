"""Scalar fields on a square: waves, rings, cells, fractals, noise, bands. What procedural pictures are textured with.

Every function takes coordinates x, y [n, S, S] (about -1..1) and uniform numbers u [n, K] of the pictures, and returns
values in 0..1, float32 [n, S, S]. All arithmetic is numpy's, picture by picture alike, so that a picture depends on no
other in its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

Field = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

TAU = np.float32(2 * np.pi)
DRAWS = 24  # uniform numbers a field may use
_TILE = 256  # side of the noise tiles that fields look up
_SLOPES = (0.6, 1.0, 1.5, 2.0)  # of their spectra: amplitude ~ 1 / f^slope; photographs have about 1


def between(u: np.ndarray, low: float, high: float) -> np.ndarray:
    """Spread uniform numbers [n] over low..high, shaped to multiply [n, S, S]."""
    return (np.float32(low) + u * np.float32(high - low))[:, None, None]


def between_log(u: np.ndarray, low: float, high: float) -> np.ndarray:
    """Likewise, evenly in the logarithm."""
    return np.exp(between(u, float(np.log(low)), float(np.log(high))))


def warp(x: np.ndarray, y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bend coordinates with two rounds of sines (the domain warp of shaders); a third of the pictures stay straight.

    Args:
        x, y: [n, S, S].
        u: uniform numbers [n, 8].
    """
    amount = between(np.maximum(u[:, 0] - 1 / 3, 0) ** 2 * 2.2, 0, 1)
    frequency = between_log(u[:, 1], 1.0, 6.0)
    for first in (2, 5):
        x, y = (
            x + amount * np.sin(frequency * y + TAU * u[:, first, None, None]),
            y + amount * np.sin(frequency * x + TAU * u[:, first + 1, None, None]),
        )
        amount, frequency = amount * 0.6, frequency * between(u[:, first + 2], 1.3, 2.3)
    return x, y


def waves(x: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """A sum of four plane waves whose frequencies rise and amplitudes fall."""
    total = np.zeros_like(x)
    weight = np.zeros((len(x), 1, 1), np.float32)
    falloff = between(u[:, 0], 0.3, 0.9)
    frequency, amplitude = between_log(u[:, 1], 1.5, 14), np.ones_like(falloff)
    for k in range(4):
        angle = TAU * u[:, 4 + 2 * k]
        along = x * np.cos(angle)[:, None, None]
        along += y * np.sin(angle)[:, None, None]
        along *= frequency
        along += TAU * u[:, 5 + 2 * k, None, None]
        total += amplitude * np.sin(along, out=along)
        weight += amplitude
        frequency, amplitude = frequency * between(u[:, 12 + k], 1.2, 2.6), amplitude * falloff
    total /= 2 * weight
    total += 0.5
    return total


def rings(x: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Circles, spokes and spirals about a centre."""
    x, y = x - between(u[:, 0], -1, 1), y - between(u[:, 1], -1, 1)
    radius = np.sqrt(x * x + y * y)
    arms = np.floor(between(u[:, 2], 0, 7)) * (u[:, 3] < 0.6)[:, None, None]
    phase = np.arctan2(y, x)
    phase *= arms
    phase += radius * between_log(u[:, 4], 1.0, 20.0)
    phase += TAU * u[:, 5, None, None]
    return np.float32(0.5) + np.float32(0.5) * np.sin(phase, out=phase)


def cells(x: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Distance to the nearest of up to nine points, or how much nearer it is than the next (Worley 1996)."""
    nearest = np.full_like(x, 9.0)
    second = nearest.copy()
    scale = between(u[:, 0], 0.5, 1.6)
    for k in range(9):
        dx = x - scale * between(u[:, 4 + 2 * k], -1, 1)
        dy = y - scale * between(u[:, 5 + 2 * k], -1, 1)
        distance = dx * dx
        distance += dy * dy
        np.minimum(second, np.maximum(nearest, distance), out=second)
        np.minimum(nearest, distance, out=nearest)
    edges = (u[:, 1] < 0.5)[:, None, None]
    nearest, second = np.sqrt(nearest), np.sqrt(second)
    value = np.where(edges, second - nearest, nearest)
    value *= between(u[:, 2], 0.8, 2.5)
    return np.minimum(value, 1, out=value)


def julia(x: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """A Julia set near the boundary of Mandelbrot's, coloured by how long orbits stay small."""
    angle = TAU * u[:, 0]
    radius = 0.7885 + 0.08 * (u[:, 1] - 0.5)
    # Half of the constants on the circle of radius .7885, half on the main cardioid: where sets are full of detail.
    cardioid = u[:, 2] < 0.5
    real = np.where(cardioid, 0.5 * np.cos(angle) - 0.25 * np.cos(2 * angle), radius * np.cos(angle))
    imaginary = np.where(cardioid, 0.5 * np.sin(angle) - 0.25 * np.sin(2 * angle), radius * np.sin(angle))
    real, imaginary = (part.astype(np.float32)[:, None, None] for part in (real, imaginary))
    zoom = between_log(u[:, 3], 0.35, 1.3)
    a, b = x * zoom, y * zoom
    a += between(u[:, 4], -0.3, 0.3)
    b += between(u[:, 5], -0.3, 0.3)
    total = np.zeros_like(x)
    for _ in range(12):
        aa, bb = a * a, b * b
        size = aa + bb
        b *= a
        b *= 2
        b += imaginary
        np.subtract(aa, bb, out=a)
        a += real
        np.clip(a, -4, 4, out=a)
        np.clip(b, -4, 4, out=b)
        size += 0.5
        total += np.reciprocal(size, out=size)
    total /= np.float32(12 * 1.2)
    return np.minimum(total, 1, out=total)


@lru_cache(maxsize=1)
def _tiles() -> np.ndarray:
    """Periodic noise, float32 [slopes, _TILE * _TILE] in 0..1. The raw stream of Philox is fixed for good."""
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None]) * _TILE
    frequency[0, 0] = 1.0
    tiles = []
    for number, slope in enumerate(_SLOPES):
        raw = np.random.Philox(key=np.array([number, 0], np.uint64)).random_raw(_TILE * _TILE)
        white = (raw >> np.uint64(11)).astype(np.float64).reshape(_TILE, _TILE) * 2.0**-53 - 0.5
        spectrum = np.fft.rfft2(white) / frequency**slope
        spectrum[0, 0] = 0.0
        tile = np.fft.irfft2(spectrum, (_TILE, _TILE))
        tiles.append(np.clip(0.5 + tile / (5 * tile.std()), 0, 1).astype(np.float32).reshape(-1))
    return np.stack(tiles)


def noise(x: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """1/f noise: a window of a periodic tile, bilinearly interpolated; a fifth of the pictures show its ridges."""
    zoom = between_log(u[:, 0], 6, 48)
    stretch = between_log(u[:, 1], 0.5, 2.0)
    x = x * (zoom * stretch)
    y = y * (zoom / stretch)
    x += _TILE * u[:, 2, None, None]
    y += _TILE * u[:, 3, None, None]
    left, top = np.floor(x), np.floor(y)
    x -= left
    y -= top
    column, row = left.astype(np.int32) & (_TILE - 1), top.astype(np.int32) & (_TILE - 1)
    slope = (u[:, 4] * len(_SLOPES)).astype(np.int32)[:, None, None] * (_TILE * _TILE)
    flat = _tiles().reshape(-1)
    upper, lower = slope + row * _TILE, slope + (row + 1 & _TILE - 1) * _TILE
    right = column + 1 & _TILE - 1
    a, b = flat.take(upper + column), flat.take(lower + column)
    a += x * (flat.take(upper + right) - a)
    b += x * (flat.take(lower + right) - b)
    a += y * (b - a)
    ridged = (u[:, 5] < 0.2)[:, None, None]
    return np.where(ridged, np.abs(4 * a - 2).clip(0, 1), a)


def bands(x: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Stripes, checks, bricks and dots with edges from soft to hard."""
    frequency = between_log(u[:, 0], 2.0, 16.0)
    x, y = x * frequency, y * (frequency * between_log(u[:, 1], 0.5, 2.0))
    kind = u[:, 2, None, None]
    bricks = (kind >= 0.75) * 1.0
    x += bricks.astype(np.float32) * np.float32(np.pi / 2) * np.sign(np.sin(y))
    across, along = np.sin(x), np.sin(y)
    value = np.where(kind < 0.3, across, np.where(kind < 0.55, across * along, np.maximum(across, along) - 0.4))
    value *= between_log(u[:, 3], 0.8, 8.0)
    value += between(u[:, 4], -0.5, 0.5)
    return np.clip(0.5 + 0.5 * value, 0, 1).astype(np.float32)


def gradient(x: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """A ramp across the picture, or out of a point; smooth backgrounds."""
    angle = TAU * u[:, 0]
    ramp = x * np.cos(angle)[:, None, None] + y * np.sin(angle)[:, None, None]
    dx, dy = x - between(u[:, 1], -1, 1), y - between(u[:, 2], -1, 1)
    value = np.where((u[:, 3] < 0.6)[:, None, None], ramp, np.sqrt(dx * dx + dy * dy) - 1)
    value *= between(u[:, 4], 0.2, 0.8)
    value += 0.5
    return np.clip(value, 0, 1, out=value)


FIELDS: tuple[tuple[Field, float], ...] = (
    (waves, 0.18),
    (rings, 0.1),
    (cells, 0.12),
    (julia, 0.08),
    (noise, 0.28),
    (bands, 0.1),
    (gradient, 0.14),
)
"""Fields and how often each is taken."""


def fields(x: np.ndarray, y: np.ndarray, u: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Evaluate a field of its own for every picture.

    Args:
        x, y: coordinates [n, S, S].
        u: uniform numbers [n, DRAWS].
        which: uniform numbers [n] that choose among `FIELDS`.

    Returns:
        float32 [n, S, S] in 0..1.
    """
    ends = np.cumsum([share for _, share in FIELDS])
    kind = np.searchsorted(ends[:-1], which, side="right")
    result = np.empty(x.shape, np.float32)
    for number, (field, _) in enumerate(FIELDS):
        rows = np.flatnonzero(kind == number)
        if len(rows):
            result[rows] = field(x[rows], y[rows], u[rows])
    return result
