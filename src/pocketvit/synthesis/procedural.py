"""Procedural pictures: textures, backgrounds and things, composed, coloured and lit at random. No image is behind them.

"Procedural image programs" teach a student nearly as much as photographs (Baradad et al. 2022; as proxies for
distillation: arXiv 2411.12817). A picture has a background, often a second ground under a horizon, and from none to
sixteen things: scattered leaves that occlude each other (dead leaves, Lee et al. 2001), or parts that hang together as
one body. Image i is a pure function of (seed, i, size): any range, batch or thread gives the same bits.
"""

from __future__ import annotations

import numpy as np

from ..views.parallel import cut, spread
from ..views.philox import draw
from .fields import DRAWS, TAU, between, between_log, fields, warp

VERSION = 1  # raised by hand when any pixel changes: it is part of a bank's provenance
_PARTS = 16  # things in a picture, at most
_STOPS = 4  # colours of a palette
_CHUNK = 1 << 17  # pixels computed at once: what fits into a core's cache
_PART_DRAWS = 20


class Procedural:
    """An endless row of procedural pictures.

    Args:
        seed: of the row.
        size: side of the square in pixels, at least 8.
        grey: whether all are grey (about one in eight is, otherwise).
    """

    name = "procedural"

    def __init__(self, seed: int, size: int, grey: bool = False) -> None:
        self.seed, self.size, self.grey = seed, size, grey

    @property
    def provenance(self) -> dict[str, object]:
        """What the pictures depend on, for the record."""
        return {
            "images": self.name, "version": VERSION, "seed": self.seed, "size": self.size, "grey": self.grey,
            "real_images": 0,
        }  # fmt: skip

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Render pictures.

        Args:
            indices: int64 [n], any of them, in any order.

        Returns:
            uint8 [n, 3, S, S].
        """
        indices = np.asarray(indices, np.uint64)
        result = np.empty((len(indices), 3, self.size, self.size), np.uint8)

        def work(part: slice) -> None:
            result[part] = _render(self.seed, indices[part], self.size, self.grey)

        spread(work, cut(len(indices), max(1, _CHUNK // self.size**2)))
        return result


def _render(seed: int, ids: np.ndarray, size: int, grey: bool) -> np.ndarray:
    """Render some pictures, uint8 [n, 3, S, S]."""
    counts = {"synth.scene": 24, "synth.field": 3 * (DRAWS + 16), "synth.palette": 3 * 16}
    counts |= {f"synth.part{j}": _PART_DRAWS for j in range(_PARTS)}
    u = {name: uniform(numbers) for name, numbers in draw(seed, ids, 0, counts).items()}
    scene = u["synth.scene"]
    x, y = _grid(len(ids), size, scene)
    grey_rows = np.ones(len(ids), bool) if grey else scene[:, 0] < 0.12
    texture = _textures(x, y, u["synth.field"].reshape(len(ids), 3, -1))
    palettes = _palettes(u["synth.palette"].reshape(len(ids), 3, 16), grey_rows)
    picture = _coloured(texture[:, 0], palettes[:, 0])
    _ground(picture, x, y, texture[:, 1], palettes[:, 1], scene)
    _things(picture, x, y, texture, palettes, scene, [u[f"synth.part{j}"] for j in range(_PARTS)])
    return _finished(picture, x, y, scene, texture[:, 1])


def uniform(numbers: np.ndarray) -> np.ndarray:
    """Return uint32 as float32 in [0, 1), exactly."""
    return (numbers >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _grid(count: int, size: int, scene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of the pixels' centres, [n, S, S] in -1..1; an eighth of the pictures is symmetrical."""
    line = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - np.float32(1)
    x = np.broadcast_to(line[None, None, :], (count, size, size)).copy()
    y = np.broadcast_to(line[None, :, None], (count, size, size)).copy()
    mirrored = scene[:, 1] < 1 / 8
    x[mirrored] = np.abs(x[mirrored])
    return x, y


def _textures(x: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return three fields of each picture, [n, 3, S, S], each in coordinates of its own: turned, scaled, bent."""
    count, size = len(x), x.shape[-1]
    u = u.reshape(count * 3, -1)
    place, own = u[:, :16], u[:, 16:]
    x, y = np.repeat(x, 3, 0), np.repeat(y, 3, 0)
    angle, scale = TAU * place[:, 0], between_log(place[:, 1], 0.6, 1.8)
    cosine, sine = scale * np.cos(angle)[:, None, None], scale * np.sin(angle)[:, None, None]
    x, y = x * cosine - y * sine, x * sine + y * cosine
    x += between(place[:, 2], -0.5, 0.5)
    y += between(place[:, 3], -0.5, 0.5)
    x, y = warp(x, y, place[:, 4:12])
    return fields(x, y, own, place[:, 12]).reshape(count, 3, size, size)


def _palettes(u: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Return colours [n, k, _STOPS, 3] of k palettes a picture: a hue and its neighbours, from dark to light or mixed.

    Args:
        u: uniform numbers [n, k, 16].
        grey: bool [n], pictures without colour.
    """
    stop = np.arange(_STOPS, dtype=np.float32)
    hue = u[..., 0, None] + np.where(u[..., 1] < 0.25, 1.0, 0.12)[..., None] * (u[..., 4:8] - 0.5)
    saturation = np.clip(u[..., 2, None] ** 1.5 + 0.4 * (u[..., 8:12] - 0.5), 0, 1)
    saturation = saturation * ~grey[:, None, None]
    low, high = 0.6 * u[..., 3, None] ** 1.3, 1 - 0.5 * u[..., 14, None] ** 1.5
    ordered = (u[..., 15, None] < 0.6) * 1.0
    share = ordered * (stop / (_STOPS - 1)) + (1 - ordered) * u[..., 9:13]
    value = low + (high - low) * share
    wheel = np.array([0, 4, 2], np.float32)
    pure = np.clip(np.abs((hue[..., None] * 6 + wheel) % 6 - 3) - 1, 0, 1)
    return (value[..., None] * (1 - saturation[..., None] * (1 - pure))).astype(np.float32)


def _coloured(field: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Look values [n, S, S] up in palettes [n, _STOPS, 3], linearly between colours: [n, 3, S, S]."""
    position = field * np.float32(_STOPS - 1)
    result = np.zeros((len(field), 3, *field.shape[1:]), np.float32)
    for stop in range(_STOPS):
        weight = np.abs(position - np.float32(stop))
        np.subtract(1, weight, out=weight)
        np.maximum(weight, 0, out=weight)
        for channel in range(3):
            result[:, channel] += weight * palette[:, stop, channel, None, None]
    return result


def _blend(picture: np.ndarray, rows: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    """Lay colours [m, 3, S, S] over some pictures with opacity [m, S, S], in place."""
    under = picture[rows]
    colour -= under
    colour *= alpha[:, None]
    under += colour
    picture[rows] = under


def _ground(
    picture: np.ndarray, x: np.ndarray, y: np.ndarray, field: np.ndarray, palette: np.ndarray, scene: np.ndarray
) -> None:
    """Give two pictures in five a second ground below a horizon that tilts and waves."""
    rows = np.flatnonzero(scene[:, 2] < 0.4)
    if not len(rows):
        return
    u = scene[rows]
    line = y[rows] - between(u[:, 3], -0.5, 0.8)
    line += between(u[:, 4], -0.3, 0.3) * x[rows]
    line += between(u[:, 5], 0, 0.4) * (field[rows] - 0.5)
    line *= between_log(u[:, 6], 2, 40)
    line += 0.5
    _blend(picture, rows, _coloured(field[rows], palette[rows]), np.clip(line, 0, 1, out=line))


def _things(
    picture: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    texture: np.ndarray,
    palettes: np.ndarray,
    scene: np.ndarray,
    parts: list[np.ndarray],
) -> None:
    """Lay things over the pictures, one after the other."""
    amount = scene[:, 8]
    many = np.select(
        [amount < 0.1, amount < 0.3, amount < 0.75],
        [0, 1, 2 + np.floor(6 * scene[:, 9])],
        3 + np.floor((_PARTS - 3) * scene[:, 9]),
    ).astype(int)
    body = amount < 0.6  # parts that hang together and share a palette; the others lie about
    size = np.where(body, 0.25 + 0.4 * scene[:, 10], 0.12 + 0.5 * scene[:, 10] ** 2).astype(np.float32)
    centres = np.zeros((_PARTS, 2, len(x)), np.float32)
    extents = np.zeros((_PARTS, len(x)), np.float32)
    for j, u in enumerate(parts):
        parent = (u[:, 0] * max(j, 1)).astype(int)
        everyone = np.arange(len(x))
        angle = TAU * u[:, 1]
        reach = extents[parent, everyone] * (0.5 + 0.7 * u[:, 2])
        linked = body & (j > 0)
        for axis, turn in enumerate((np.cos(angle), np.sin(angle))):
            free = (u[:, 3 + axis] - 0.5) * np.where(body, 0.7, 2.2)
            centres[j, axis] = np.where(linked, centres[parent, axis, everyone] + reach * turn, free)
        shrink = 0.35 + 0.75 * u[:, 5]
        extents[j] = np.where(linked, np.minimum(extents[parent, everyone], size) * shrink, size * (0.5 + u[:, 5]))
        rows = np.flatnonzero(many > j)
        if not len(rows):
            continue
        own = u[rows]
        alpha, light = _shape(
            x[rows] - centres[j, 0, rows, None, None],
            y[rows] - centres[j, 1, rows, None, None],
            extents[j, rows],
            texture[rows, 1],
            own,
        )
        palette = palettes[rows, 2]
        if j:
            other = np.where(body[rows] & (own[:, 17] < 0.7), 0.0, 1.0)[:, None, None].astype(np.float32)
            # Another colour of the same kind: turn the palette's channels and darken or lighten it.
            turned = np.roll(palette, 1 + j % 2, axis=-1) * between(own[:, 18], 0.4, 1.3)
            palette = palette + other * (turned - palette)
        value = np.abs((texture[rows, 2] + own[:, 19, None, None] * (own[:, 16, None, None] < 0.5)) % 2 - 1)
        value *= between(own[:, 15], 0, 1)
        colour = _coloured(value, palette)
        colour *= light[:, None]
        _blend(picture, rows, colour, alpha)


def _shape(
    x: np.ndarray, y: np.ndarray, extent: np.ndarray, ragged: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return opacity and light [m, S, S] of one thing: an ellipse, box, diamond, star or blob, turned and stretched.

    Args:
        x, y: coordinates from its centre.
        extent: half its size, [m].
        ragged: a field that frays its outline.
        u: uniform numbers [m, _PART_DRAWS].
    """
    angle = TAU * u[:, 6]
    stretch = between_log(u[:, 7], 0.35, 2.8)
    inverse = 1 / np.maximum(extent, 0.03)[:, None, None]
    cosine, sine = np.cos(angle)[:, None, None] * inverse, np.sin(angle)[:, None, None] * inverse
    along = (x * cosine + y * sine) * stretch
    across = (y * cosine - x * sine) / stretch
    lit = along * between(u[:, 8], -0.5, 0.5)
    lit += across * between(u[:, 9], -0.5, 0.5)
    distance = np.sqrt(along * along + across * across)
    petals = np.flatnonzero(u[:, 10] < 0.35)
    if len(petals):
        lobes = np.floor(2 + 6 * u[petals, 11])[:, None, None]
        turn = np.arctan2(across[petals], along[petals])
        turn *= lobes.astype(np.float32)
        distance[petals] *= 1 + between(u[petals, 12], 0.05, 0.5) * np.cos(turn)
    straight = np.flatnonzero(u[:, 10] >= 0.65)
    if len(straight):
        a, b = np.abs(along[straight]), np.abs(across[straight])
        box = np.where((u[straight, 11] < 0.7)[:, None, None], np.maximum(a, b), a + b)
        distance[straight] += between(u[straight, 12], 0.5, 1) * (box - distance[straight])
    distance += between(u[:, 13] ** 3, 0, 1.2) * (ragged - 0.5)
    lit -= between(u[:, 8] * u[:, 9], 0, 0.8) * np.minimum(distance, 1) ** 2
    lit += 1
    alpha = 1 - distance
    alpha *= between_log(u[:, 14], 2, 30)
    alpha += 0.5
    return np.clip(alpha, 0, 1, out=alpha), np.clip(lit, 0, 1.6, out=lit)


def _finished(picture: np.ndarray, x: np.ndarray, y: np.ndarray, scene: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Light, contrast, gamma, grain; then 8 bits, [n, 3, S, S]."""
    light = x * between(scene[:, 12], -0.3, 0.3)
    light += y * between(scene[:, 13], -0.3, 0.3)
    light += 1
    picture *= light[:, None]
    contrast = between(scene[:, 14], 0.6, 1.5)[:, None]
    picture -= np.float32(0.5)
    picture *= contrast
    picture += np.float32(0.5) + between(scene[:, 15], -0.2, 0.2)[:, None]
    # Grain that is keyed by place and picture alone: a hash of both, without a generator's state.
    grain = np.sin(x * 91.7 + y * 47.3 + field * 77.1 + 40 * scene[:, 16, None, None]) * 43758.547
    grain -= np.floor(grain)
    grain -= 0.5
    grain *= between(np.maximum(scene[:, 17] - 0.6, 0), 0, 0.5)
    picture += grain[:, None]
    picture *= 255
    picture += np.float32(0.5)
    return np.clip(picture, 0, 255, out=picture).astype(np.uint8)
