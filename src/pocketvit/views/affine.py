"""Affine resampling of many pictures at once, in whole-number arithmetic.

A matrix maps an output position to the input position it shows, in units of 2^-16 pixel; pixel centres lie at +1/2.
Interpolation is bilinear with 13-bit weights: the three channels of a pixel share one 64-bit word, 21 bits each, so
that one multiplication weighs all of them. What lies outside the picture is filled; the fill is blended in over the
last half pixel (Pillow cuts there).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .tables import sine_cosine

ONE = 1 << 16
FILL = 128  # mid-grey, as timm's RandAugment
IDENTITY = (ONE, 0, 0, 0, ONE, 0)
_BITS = 13
_UNIT = 1 << _BITS
_LANE = 21
_FRAME = 2
_FILL_WORD = sum(FILL << (_LANE * lane) for lane in range(3))
_ROUND = sum((_UNIT // 2) << (_LANE * lane) for lane in range(3))
_CHUNK = 1 << 15  # output pixels at a time: the work arrays stay in cache


def shear(x: int = 0, y: int = 0) -> tuple[int, ...]:
    """Return the matrix that shears about the top left corner; arguments in units of 2^-16."""
    return (ONE, x, 0, y, ONE, 0)


def translation(x: int = 0, y: int = 0) -> tuple[int, ...]:
    """Return the matrix that moves the picture left by ``x`` and up by ``y``, in units of 2^-16 pixel."""
    return (ONE, 0, x, 0, ONE, y)


def rotation(degrees: float, size: int) -> tuple[int, ...]:
    """Return the matrix that turns a ``size`` x ``size`` picture about its centre, counter-clockwise as Pillow's."""
    sine, cosine = sine_cosine(degrees)
    sine, cosine = -sine, cosine
    return (
        cosine,
        sine,
        (size * (ONE - cosine - sine)) // 2,
        -sine,
        cosine,
        (size * (ONE - cosine + sine)) // 2,
    )


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return the matrices that look up ``inner`` first and then ``outer``: int64 [n, 6] each.

    When operation 1 is followed by operation 2, the fused lookup is ``compose(matrix 1, matrix 2)``.
    """
    a, b = outer.reshape(-1, 2, 3), inner.reshape(-1, 2, 3)
    product = a[:, :, :1] * b[:, :1] + a[:, :, 1:2] * b[:, 1:] + (ONE >> 1) >> 16
    product[:, :, 2] += a[:, :, 2]
    return product.reshape(-1, 6)


def transform(pixels: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Resample square pictures.

    Args:
        pixels: uint8 [n,3,S,S].
        matrices: int64 [n,6], rows of (a, b, c, d, e, f): the output at (x, y) shows (ax + by + c, dx + ey + f).

    Returns:
        uint8 [n,3,S,S].
    """
    result = np.empty(pixels.shape, np.uint8)
    a, b, c, d, e, f = matrices.T
    # Whole-pixel moves are copies and shears interpolate along one axis: faster ways to the same values.
    whole_x = (a == ONE) & (b == 0) & (c & (ONE - 1) == 0)
    whole_y = (d == 0) & (e == ONE) & (f & (ONE - 1) == 0)
    for row in np.flatnonzero(whole_x & whole_y):
        _move(pixels[row], int(c[row]) >> 16, int(f[row]) >> 16, result[row])
    along_x, along_y = whole_y & (a == ONE) & ~whole_x, whole_x & (e == ONE) & ~whole_y
    for rows, resample in (
        (along_x, _shear_x),
        (along_y, _shear_y),
        (~(whole_x & whole_y | along_x | along_y), _resample),
    ):
        _in_chunks(np.flatnonzero(rows), pixels, matrices, result, resample)
    return result


def _move(picture: np.ndarray, x: int, y: int, out: np.ndarray) -> None:
    """Copy one picture [3,S,S] so that (i, j) shows (i + y, j + x)."""
    size = picture.shape[-1]
    out[:] = FILL
    if max(abs(x), abs(y)) < size:
        out[:, max(-y, 0) : size - max(y, 0), max(-x, 0) : size - max(x, 0)] = picture[
            :, max(y, 0) : size + min(y, 0), max(x, 0) : size + min(x, 0)
        ]


def _in_chunks(
    chosen: np.ndarray,
    pixels: np.ndarray,
    matrices: np.ndarray,
    result: np.ndarray,
    resample: Callable[[np.ndarray, np.ndarray, int, np.ndarray], np.ndarray],
) -> None:
    """Resample the chosen pictures, a cacheful at a time: several small ones or a strip of a large one."""
    size = pixels.shape[-1]
    group = max(1, _CHUNK // (size * size))
    strip = min(size, max(1, _CHUNK // size))
    for start in range(0, len(chosen), group):
        rows = chosen[start : start + group]
        words = _pack(pixels[rows])
        for top in range(0, size, strip):
            down = np.arange(top, min(size, top + strip))
            total = resample(words, matrices[rows], size, down)
            total += _ROUND
            for lane in range(3):
                total >>= _BITS if lane == 0 else _LANE
                result[rows, lane, top : top + len(down)] = total.astype(np.uint8)  # keeps the low eight bits


def _pack(pixels: np.ndarray) -> np.ndarray:
    """Return one 64-bit word a pixel, in a frame of fill two pixels wide: int64 [n, S + 4, S + 4]."""
    count, _, size, _ = pixels.shape
    words = np.full((count, size + 2 * _FRAME, size + 2 * _FRAME), _FILL_WORD, np.int64)
    inner = words[:, _FRAME:-_FRAME, _FRAME:-_FRAME]
    np.left_shift(pixels[:, 2], _LANE, out=inner, dtype=np.int64)
    inner |= pixels[:, 1]
    inner <<= _LANE
    inner |= pixels[:, 0]
    return words


def _picture_starts(words: np.ndarray) -> np.ndarray:
    """Return the flat index of every picture's first word: int64 [n,1,1]."""
    return (np.arange(len(words)) * (words.shape[1] * words.shape[2]))[:, None, None]


def _framed(index: np.ndarray, size: int) -> np.ndarray:
    """Turn indices into the picture into indices into the framed one, in place; far outside is all fill."""
    index += _FRAME
    np.maximum(index, 0, out=index)
    return np.minimum(index, size + _FRAME, out=index)


def _resample(words: np.ndarray, matrices: np.ndarray, size: int, down: np.ndarray) -> np.ndarray:
    """Return weighted sums of the four nearest words, for the output rows ``down``: int64 [n,rows,S]."""
    a, b, c, d, e, f = matrices.T[:, :, None]
    across = np.arange(size)
    # Positions of centres, minus the half pixel that leads from centres to indices, in units of 2^-16.
    x, y = (
        (p * across + ((p + q) // 2 - ONE // 2))[:, None, :] + (q * down + r)[:, :, None]
        for p, q, r in ((a, b, c), (d, e, f))
    )
    x >>= 16 - _BITS
    y >>= 16 - _BITS
    stride = size + 2 * _FRAME
    index = _framed(y >> _BITS, size)
    index *= stride
    index += _framed(x >> _BITS, size)
    index += _picture_starts(words)
    x &= _UNIT - 1
    y &= _UNIT - 1
    both = x * y
    both += _UNIT // 2
    both >>= _BITS
    y -= both  # weight of the pixel below
    x -= both  # of the one to the right
    flat = words.reshape(-1)
    total = flat.take(index)
    total *= _UNIT - both - x - y
    for step, weight in ((1, x), (stride - 1, y), (1, both)):
        index += step
        tap = flat.take(index)
        tap *= weight
        total += tap
    return total


def _shear_x(words: np.ndarray, matrices: np.ndarray, size: int, down: np.ndarray) -> np.ndarray:
    """Do what `_resample` does where a = e = 1, d = 0 and f is whole: every row moves sideways."""
    _, b, c, _, _, f = matrices.T[:, :, None]
    x = b * down + ((b >> 1) + c) >> 16 - _BITS
    start = _framed((f >> 16) + down, size) * (size + 2 * _FRAME)
    index = _framed((x >> _BITS)[:, :, None] + np.arange(size), size)
    index += start[:, :, None] + _picture_starts(words)
    return _between(words, index, 1, (x & (_UNIT - 1))[:, :, None])


def _shear_y(words: np.ndarray, matrices: np.ndarray, size: int, down: np.ndarray) -> np.ndarray:
    """Do what `_resample` does where a = e = 1, b = 0 and c is whole: every column moves up or down."""
    _, _, c, d, _, f = matrices.T[:, :, None]
    across = np.arange(size)
    y = d * across + ((d >> 1) + f) >> 16 - _BITS
    stride = size + 2 * _FRAME
    index = _framed((y >> _BITS)[:, None, :] + down[:, None], size)
    index *= stride
    index += _framed((c >> 16) + across, size)[:, None, :] + _picture_starts(words)
    return _between(words, index, stride, (y & (_UNIT - 1))[:, None, :])


def _between(words: np.ndarray, index: np.ndarray, step: int, weight: np.ndarray) -> np.ndarray:
    """Interpolate between the words at ``index`` and ``step`` further on."""
    flat = words.reshape(-1)
    total = flat.take(index)
    total *= _UNIT - weight
    index += step
    tap = flat.take(index)
    tap *= weight
    total += tap
    return total
