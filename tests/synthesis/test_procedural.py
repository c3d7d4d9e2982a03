"""Procedural pictures: keyed, varied, of any size."""

import numpy as np
import pytest
import torch

from pocketvit.synthesis import Procedural
from pocketvit.synthesis.bank import near_duplicates, thumbnails
from pocketvit.synthesis.fields import DRAWS, FIELDS, warp


@pytest.mark.parametrize("size", [16, 33])
def test_a_picture_is_a_function_of_seed_index_and_size_alone(size):
    row = Procedural(3, size)
    all_at_once = row.take(np.arange(150))
    assert all_at_once.shape == (150, 3, size, size)
    assert all_at_once.dtype == np.uint8
    for indices in ([7], [149, 0, 3, 3], [10_000_000_000, 12]):
        alone = np.concatenate([row.take(np.array([index])) for index in indices])
        np.testing.assert_array_equal(row.take(np.array(indices)), alone)
    np.testing.assert_array_equal(row.take(np.array([149, 0])), all_at_once[[149, 0]])


def test_threads_change_nothing():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = Procedural(0, 32).take(np.arange(300))
        torch.set_num_threads(2)
        two = Procedural(0, 32).take(np.arange(300))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(one, two)


def test_pictures_differ_from_each_other_and_between_seeds():
    images = Procedural(0, 32).take(np.arange(400))
    assert near_duplicates(thumbnails(images)).mean() < 0.02
    assert not np.array_equal(images, Procedural(1, 32).take(np.arange(400)))
    # neither flat nor white noise: neighbours resemble each other, and most pictures have contrast
    pixels = images.astype(float)
    neighbours = np.abs(np.diff(pixels, axis=3)).mean()
    strangers = np.abs(pixels[..., ::2] - pixels[..., ::-2]).mean()
    assert neighbours < 0.6 * strangers
    assert (pixels.std((1, 2, 3)) > 10).mean() > 0.9


def test_a_picture_of_twice_the_size_shows_the_same_scene():
    small, large = (Procedural(0, size).take(np.arange(64)).astype(float) for size in (32, 64))
    shrunk = large.reshape(64, 3, 32, 2, 32, 2).mean((3, 5))
    flat = (part.reshape(64, -1) - part.reshape(64, -1).mean(1, keepdims=True) for part in (small, shrunk))
    a, b = flat
    likeness = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1) + 1e-9)
    assert np.median(likeness) > 0.9


def test_grey_pictures_are_grey_and_some_of_the_others_too():
    grey = Procedural(0, 16, grey=True).take(np.arange(50)).astype(int)
    assert np.abs(grey - grey[:, :1]).max() <= 1
    colourful = Procedural(0, 16).take(np.arange(200)).astype(int)
    share = (np.abs(colourful - colourful[:, :1]).max((1, 2, 3)) <= 1).mean()
    assert 0.03 < share < 0.4


def test_what_a_row_depends_on_is_recorded():
    assert Procedural(5, 48, grey=True).provenance == {
        "images": "procedural", "version": 1, "seed": 5, "size": 48, "grey": True, "real_images": 0,
    }  # fmt: skip


@pytest.mark.parametrize("field", [field for field, _ in FIELDS], ids=lambda field: field.__name__)
def test_fields_are_finite_textures_between_0_and_1(field):
    random = np.random.default_rng(0)
    line = np.linspace(-1, 1, 24, dtype=np.float32)
    x, y = np.broadcast_to(line, (40, 24, 24)).copy(), np.broadcast_to(line[:, None], (40, 24, 24)).copy()
    u = random.random((40, DRAWS), dtype=np.float32)
    x, y = warp(x, y, u)
    kept = x.copy()
    values = field(x, y, u)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert values.min() >= -1e-3
    assert values.max() <= 1 + 1e-3
    assert np.median(values.std((1, 2))) > 0.03
    np.testing.assert_array_equal(x, kept)  # coordinates are shared between fields


def test_shares_of_fields_make_a_whole():
    assert sum(share for _, share in FIELDS) == pytest.approx(1)
