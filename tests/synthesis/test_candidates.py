"""Controls: noise, one photograph, a few real images; keyed rows like procedural pictures."""

import numpy as np
import pytest
from PIL import Image

from pocketvit.errors import PocketError
from pocketvit.sources import open_images
from pocketvit.synthesis import Mixed, Noise, Photograph, RealImages, sample_photograph

LANDSCAPE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def few():
    images = np.random.default_rng(1).integers(0, 256, (5, 20, 20, 3), np.uint8)
    return open_images((images, None), val_fraction=0, progress=False).train


ROWS = {
    "noise": lambda seed: Noise(seed, 16),
    "photograph": lambda seed: Photograph(LANDSCAPE, seed, 16),
    "real": lambda seed: RealImages(few(), seed, 16),
}


@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS.keys())
def test_rows_are_keyed_by_seed_and_index(make):
    row = make(0)
    all_at_once = row.take(np.arange(40))
    assert all_at_once.shape == (40, 3, 16, 16)
    assert all_at_once.dtype == np.uint8
    np.testing.assert_array_equal(row.take(np.array([33, 2])), all_at_once[[33, 2]])
    assert not np.array_equal(make(1).take(np.arange(40)), all_at_once)
    assert len({picture.tobytes() for picture in all_at_once}) == 40


def test_noise_is_uniform():
    pixels = Noise(0, 16).take(np.arange(200))
    counts = np.bincount(pixels.reshape(-1), minlength=256)
    assert counts.min() > 0.8 * counts.mean()
    assert counts.max() < 1.2 * counts.mean()


def test_each_row_says_how_many_real_images_stand_behind_it():
    assert [make(0).provenance["real_images"] for make in ROWS.values()] == [0, 1, 5]


def test_a_photograph_is_read_from_a_file_and_must_be_large_enough(tmp_path):
    Image.fromarray(LANDSCAPE).save(tmp_path / "hill.png")
    row = Photograph(tmp_path / "hill.png", 0, 16)
    np.testing.assert_array_equal(row.take(np.arange(5)), Photograph(LANDSCAPE, 0, 16).take(np.arange(5)))
    assert row.provenance["photograph"] == "hill.png"
    with pytest.raises(PocketError, match=r"hill\.png is 160 x 96 pixels.*at least 128"):
        Photograph(tmp_path / "hill.png", 0, 128)
    with pytest.raises(PocketError, match="no 8-bit colour picture"):
        Photograph(LANDSCAPE[..., 0], 0, 16, "grey")


def test_crops_stay_inside_the_photograph_and_show_it():
    plain = np.full((64, 64, 3), (200, 40, 40), np.uint8)
    crops = Photograph(plain, 0, 16).take(np.arange(50)).astype(int)
    assert (crops.std((2, 3)) < 1).all()  # no border of another colour
    assert (crops[:, 0].mean((1, 2)) > crops[:, 1].mean((1, 2))).all()


def test_there_is_always_a_sample_photograph():
    for size, real in ((32, 1), (224, 1), (500, 0)):  # the sample has 427 lines
        row = sample_photograph(0, size)
        assert row.take(np.arange(2)).shape == (2, 3, size, size)
        assert row.provenance["real_images"] == real
        assert row.title


def test_few_real_images_come_whole_first_and_as_often_as_asked():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    source = open_images((pixels, None), val_fraction=0, progress=False).train
    real = RealImages(source, 0, 16)
    np.testing.assert_array_equal(real.take(np.arange(3)), pixels.transpose(0, 3, 1, 2))
    assert (real.take(np.arange(3, 6)) != real.take(np.arange(3))).any()
    mixed = Mixed(Noise(0, 16), real, every=4)
    taken = mixed.take(np.arange(8))
    np.testing.assert_array_equal(taken[[3, 7]], real.take(np.arange(2)))
    np.testing.assert_array_equal(taken[[0, 1, 2, 4, 5, 6]], Noise(0, 16).take(np.arange(6)))
    np.testing.assert_array_equal(mixed.take(np.array([6]))[0], taken[6])
    assert mixed.provenance["real_images"] == 3
