"""Affine resampling: Pillow's bilinear inside the picture, and fast ways that give the same values."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pocketvit.views import affine
from pocketvit.views.randaugment import OPERATIONS, _matrices, randaugment

SIZE = 24


def _pictures(count: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (count, 3, size, size)).astype(np.uint8)


def _pillow(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    size = picture.shape[-1]
    moved = image.transform(
        (size, size),
        Image.Transform.AFFINE,
        tuple(matrix / affine.ONE),
        Image.Resampling.BILINEAR,
        fillcolor=(128,) * 3,
    )
    return np.asarray(moved).transpose(2, 0, 1)


def _sources(matrix: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each output pixel looks, in pixels."""
    j, i = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    a, b, c, d, e, f = matrix / affine.ONE
    return a * j + b * i + c, d * j + e * i + f


@pytest.mark.parametrize("index", range(5), ids=OPERATIONS[1:6])
@pytest.mark.parametrize("direction", [0, 1])
def test_inside_the_picture_it_is_within_one_level_of_pillow(index: int, direction: int) -> None:
    picture = _pictures(1)
    matrix = _matrices(0.9, SIZE)[index, direction]
    ours = affine.transform(picture, matrix[None])[0].astype(int)
    theirs = _pillow(picture[0], matrix).astype(int)
    x, y = _sources(matrix, SIZE)
    inside = (np.minimum(x, y) > 0.51) & (np.maximum(x, y) < SIZE - 0.51)
    outside = (np.minimum(x, y) < -0.51) | (np.maximum(x, y) > SIZE + 0.51)
    assert inside.mean() > 0.3
    assert np.abs(ours - theirs)[:, inside].max() <= 1
    assert (ours[:, outside] == affine.FILL).all()


def test_rotation_turns_as_pillow_does() -> None:
    smooth = np.asarray(
        Image.fromarray(_pictures(1, 6)[0].transpose(1, 2, 0)).resize((40, 40), Image.Resampling.BICUBIC)
    )
    theirs = np.asarray(Image.fromarray(smooth).rotate(27, Image.Resampling.BILINEAR)).astype(int)
    picture = np.ascontiguousarray(smooth.transpose(2, 0, 1))[None]
    ours = affine.transform(picture, np.array([affine.rotation(27.0, 40)]))[0].transpose(1, 2, 0).astype(int)
    assert np.abs(ours - theirs)[12:28, 12:28].max() <= 1


@pytest.mark.parametrize("size", [1, 2, 24, 200])
def test_moves_and_shears_take_shortcuts_to_the_same_values(size: int) -> None:
    """Every kind of matrix against the general four-point path, over sizes that are cut into groups and strips."""
    random = np.random.default_rng(size)
    matrices = []
    for kind in range(12):
        move = affine.translation(*(int(value) * affine.ONE for value in random.integers(-size - 3, size + 3, 2)))
        bend = {
            0: affine.shear(x=int(random.integers(-30000, 30000))),
            1: affine.shear(y=int(random.integers(-30000, 30000))),
        }
        first = np.array(
            [bend.get(kind % 4, affine.rotation(float(kind * 5), size) if kind % 4 == 3 else affine.IDENTITY)]
        )
        matrices.append(affine.compose(first, np.array([move]))[0])
    pixels, stacked = _pictures(12, size), np.array(matrices)
    general = np.empty_like(pixels)
    affine._in_chunks(np.arange(12), pixels, stacked, general, affine._resample)
    assert np.array_equal(affine.transform(pixels, stacked), general)


def test_the_identity_copies() -> None:
    pixels = _pictures(3)
    assert np.array_equal(affine.transform(pixels, np.tile(affine.IDENTITY, (3, 1))), pixels)


def test_composition_looks_up_the_later_operation_first() -> None:
    """Two whole-pixel moves and a shear, done in turn and fused, agree where no fill is met."""
    pixels = _pictures(1)
    first, second = np.array([affine.shear(x=6553)]), np.array([affine.translation(3 * affine.ONE, -2 * affine.ONE)])
    turns = affine.transform(affine.transform(pixels, first), second)
    fused = affine.transform(pixels, affine.compose(first, second))
    assert np.array_equal(turns[..., 4:-4, 4:-8], fused[..., 4:-4, 4:-8])


def _numbers(*names: str) -> np.ndarray:
    """Draws that choose the named operations, all in the strengthening direction."""
    width = -(-(2**32) // len(OPERATIONS))
    pairs = [(OPERATIONS.index(name) * width + width // 2, 0) for name in names]
    return np.array([sum(pairs, ())], np.uint32)


def test_adjacent_geometry_is_resampled_once_and_order_is_kept() -> None:
    pixels = _pictures(1)
    matrices = _matrices(0.5, SIZE)
    fused = randaugment(pixels.copy(), _numbers("rotate", "shear_x"), 5.0)
    assert np.array_equal(fused, affine.transform(pixels, affine.compose(matrices[4, :1], matrices[0, :1])))
    between = randaugment(pixels.copy(), _numbers("shear_y", "solarize", "rotate"), 5.0)
    bent = affine.transform(pixels, matrices[1, :1])
    bent = np.where(bent < 128, bent, 255 - bent).astype(np.uint8)
    assert np.array_equal(between, affine.transform(bent, matrices[4, :1]))


def test_every_operation_is_reached_and_identity_keeps() -> None:
    pixels = _pictures(1)
    results = {name: randaugment(pixels.copy(), _numbers(name), 9.0) for name in OPERATIONS}
    assert np.array_equal(results.pop("identity"), pixels)
    unchanged = [name for name, result in results.items() if np.array_equal(result, pixels)]
    assert set(unchanged) <= {"autocontrast"}  # noise already spans 0..255
