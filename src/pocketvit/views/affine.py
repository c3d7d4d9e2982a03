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
_CHUNK = 1 << 16  # output pixels at a time: the work arrays stay in cache


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
    for row in (whole_x & whole_y).nonzero()[0]:
        _move(pixels[row], int(c[row]) >> 16, int(f[row]) >> 16, result[row])
    along_x, along_y = whole_y & (a == ONE) & ~whole_x, whole_x & (e == ONE) & ~whole_y
    columns, turned = pixels.swapaxes(2, 3), result.swapaxes(2, 3)
    _in_groups(along_x.nonzero()[0], pixels, b, c, f, result)
    _in_groups(along_y.nonzero()[0], columns, d, f, c, turned)
    others = ~(whole_x & whole_y | along_x | along_y)
    _in_chunks(others.nonzero()[0], pixels, matrices, result, _resample)
    return result


def _move(picture: np.ndarray, x: int, y: int, out: np.ndarray) -> None:
    """Copy one picture [3,S,S] so that (i, j) shows (i + y, j + x)."""
    size = picture.shape[-1]
    out[:] = FILL
    if max(abs(x), abs(y)) < size:
        out[:, max(-y, 0) : size - max(y, 0), max(-x, 0) : size - max(x, 0)] = picture[
            :, max(y, 0) : size + min(y, 0), max(x, 0) : size + min(x, 0)
        ]


def _in_groups(
    chosen: np.ndarray, pixels: np.ndarray, slope: np.ndarray, move: np.ndarray, across: np.ndarray, result: np.ndarray
) -> None:
    """Shear the chosen pictures along their rows, a cacheful at a time.

    Args:
        chosen: int64 [k], which pictures.
        pixels: uint8 [n,3,S,S].
        slope: int64 [n]: how much further each row looks than the one before, in units of 2^-16 pixel.
        move: int64 [n]: how far the topmost corner looks, in the same units.
        across: int64 [n]: how many rows down each row looks, in the same units but whole.
        result: uint8 [n,3,S,S], written to.
    """
    size = pixels.shape[-1]
    down = np.arange(size)
    group = max(1, _CHUNK // (size * size))
    for start in range(0, len(chosen), group):
        some = chosen[start : start + group]
        shift = slope[some, None] * down + ((slope[some] >> 1) + move[some])[:, None] >> 16 - _BITS
        result[some] = _slide(pixels[some], shift, (across[some] >> 16)[:, None] + down)


def _slide(pixels: np.ndarray, shift: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Move rows sideways, each by its own amount, so that no pixel needs a look-up of its own.

    Args:
        pixels: uint8 [n,3,S,S].
        shift: int64 [n,S], how far to the right each row of the result looks, in units of 2^-13 pixel.
        source: int64 [n,S], the row that it looks at; outside the picture all is fill.

    Returns:
        uint8 [n,3,S,S].
    """
    count, _, size, _ = pixels.shape
    whole = np.clip(shift >> _BITS, -size - 1, size)
    margin = max(1, int(whole.max()) + 1, -int(whole.min()))
    stride = size + margin  # the margin to the right of a row is the one to the left of the next
    framed = np.full(margin + count * 3 * (size + 1) * stride, FILL, np.uint8)
    framed[margin:].reshape(count, 3, size + 1, stride)[:, :, :size, :size] = pixels
    source = np.where((source >= 0) & (source < size), source, size)
    planes = np.arange(count * 3).reshape(count, 3, 1) * (size + 1)
    starts = ((planes + source[:, None]) * stride + (whole[:, None] + margin)).reshape(-1)
    weights = np.repeat((shift & (_UNIT - 1)).astype(np.int32)[:, None], 3, axis=1).reshape(-1, 1)
    windows = np.ndarray((len(framed) - size, size + 1), np.uint8, framed, strides=(1, 1))  # overlapping
    result = np.empty((count * 3 * size, size), np.uint8)
    step = max(1, _CHUNK // size)
    for first in range(0, len(result), step):
        rows = slice(first, first + step)
        taps = windows[starts[rows]]
        near, far = taps[:, :-1], taps[:, 1:]
        total = far.astype(np.int32)
        total -= near
        total *= weights[rows]
        total += _UNIT // 2
        total >>= _BITS
        total += near
        result[rows] = total
    return result.reshape(pixels.shape)


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
    low = pixels[:, 1].astype(np.int32)
    low <<= _LANE  # 29 bits: half as wide is twice as fast
    low |= pixels[:, 0]
    inner = pixels[:, 2].astype(np.int64)
    inner <<= 2 * _LANE
    inner |= low
    words[:, _FRAME:-_FRAME, _FRAME:-_FRAME] = inner
    return words


def _resample(words: np.ndarray, matrices: np.ndarray, size: int, down: np.ndarray) -> np.ndarray:
    """Return weighted sums of the four nearest words, for the output rows ``down``: int64 [n,rows,S]."""
    a, b, c, d, e, f = matrices.T[:, :, None]
    across = np.arange(size)
    # Positions of centres in the frame, minus the half pixel that leads from centres to indices, in units of 2^-16.
    shift = _FRAME * ONE - ONE // 2
    parts = [(p * across + ((p + q) // 2 + shift), q * down + r) for p, q, r in ((a, b, c), (d, e, f))]
    reach = max(int(np.abs(u).max() + np.abs(v).max()) for u, v in parts)
    kind = np.int32 if reach < 2**31 else np.int64  # half as wide is twice as fast
    x, y = (u.astype(kind)[:, None, :] + v.astype(kind)[:, :, None] for u, v in parts)
    x >>= 16 - _BITS
    y >>= 16 - _BITS
    stride = size + 2 * _FRAME
    last = size + _FRAME  # far outside is all fill
    place = y >> _BITS
    np.clip(place, 0, last, out=place)
    place *= stride
    column = x >> _BITS
    place += np.clip(column, 0, last, out=column)
    if len(words) > 1:
        place += (np.arange(len(words), dtype=kind) * (stride * stride))[:, None, None]
    index = place.astype(np.intp)
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
    for step, weight in ((1, x), (stride, y), (stride + 1, both)):
        tap = flat[step:].take(index)
        tap *= weight
        total += tap
    return total
