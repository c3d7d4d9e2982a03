"""What is chosen where the user chose nothing, and the numbers that no option takes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from verbs_fakes import SIDE

from pocketvit.config import ViewConfig
from pocketvit.errors import PocketError
from pocketvit.sources import open_images
from pocketvit.verbs import defaults, options


def pictures(height, width, count=20):
    array = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return open_images((array, np.arange(count) % 2), progress=False)


@pytest.mark.parametrize(
    ("shape", "side"), [((8, 8), 16), ((16, 16), 16), ((28, 28), 28), ((64, 48), 64), ((100, 70), 64), ((90, 90), 80)]
)
def test_views_are_about_as_large_as_the_images(shape, side):
    assert defaults.view_size(pictures(*shape).train) == side


def test_views_are_at_most_224_px():
    assert defaults.view_size(pictures(300, 400, count=6).train) == 224


def test_each_strength_of_augmentation_adds_to_the_one_before():
    dataset = pictures(SIDE, SIDE)

    def view(augment, **changes):
        return defaults.view_config(
            dataset, size=None, augment=augment, **({"flip": True, "vertical_flip": False} | changes)
        )

    assert view("none") == ViewConfig(view_size=SIDE)
    assert view("light") == ViewConfig(view_size=SIDE, flip=0.5, crop="padded", crop_padding=2)
    assert view("medium").randaugment_ops == 2
    assert not view("medium").mixes
    assert view("strong").mixes
    assert view("light", flip=False).flip == 0
    assert view("light", vertical_flip=True).vertical_flip == 0.5
    large = defaults.view_config(dataset, size=128, augment="light", flip=True, vertical_flip=False)
    assert large.crop == "random_resized"


@pytest.mark.parametrize("size", [0, 3, -5, 5000])
def test_impossible_sizes_of_views_are_refused(size):
    with pytest.raises(PocketError, match=f"--size {size}: "):
        defaults.view_config(pictures(8, 8), size=size, augment="none", flip=True, vertical_flip=False)


def test_epochs_show_about_the_budget():
    assert defaults.epochs_for(100) == 100
    assert defaults.epochs_for(2000) == 30
    assert defaults.epochs_for(10**6) == 10


def test_batches_leave_eight_steps_where_they_can():
    assert [defaults.batch_size_for(count) for count in (5, 64, 500, 10**6)] == [8, 8, 32, 128]


def test_the_rate_follows_the_square_root_of_the_batch():
    config = defaults.train_config(100, epochs=20, batch_size=32, learning_rate=None, ema=0.9)
    assert config.learning_rate == pytest.approx(5e-4)
    assert config.warmup_epochs == 2
    assert config.ema == 0.9
    assert dataclasses.replace(config, learning_rate=1.0) == defaults.train_config(
        100, epochs=20, batch_size=32, learning_rate=1.0, ema=0.9
    )


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("epochs", (0, -1), (1, 1000)),
        ("views", (0, -1), (1,)),
        ("patch", (0, -1), (1,)),
        ("batch_size", (-1, 0), (1,)),
        ("accumulate", (0,), (1,)),
        ("input", (0, -3), (1,)),
        ("seed", (-1,), (0,)),
        ("top", (0,), (1,)),
        ("lr", (0.0, -1.0, NAN, INF), (1e-9, 10.0)),
        ("temperature", (0.0, -2.0, NAN, INF), (0.5,)),
        ("teacher_share", (-0.1, 1.1, NAN), (0.0, 1.0)),
        ("label_smoothing", (-0.1, 1.0, NAN), (0.0, 0.9)),
        ("ema", (-0.1, 1.0, 2.0, NAN), (0.0, 0.9999)),
        ("drop_path", (-0.1, 1.0, NAN), (0.0, 0.5)),
    ],
)
def test_numbers_that_an_option_cannot_take_are_refused_by_its_name(name, bad, good):
    for value in bad:
        with pytest.raises(PocketError, match=rf"^--{name.replace('_', '-')} .*: give a number that is "):
            options.check_numbers(**{name: value})
    for value in (*good, None):
        options.check_numbers(**{name: value})


def test_tokens_are_none_one_or_one_a_teacher():
    for tokens in (0, 1, 3):
        options.check_tokens(tokens, 3)
    for tokens in (-1, 2, 4):
        with pytest.raises(PocketError, match=f"--tokens {tokens}: .*which is 3 here"):
            options.check_tokens(tokens, 3)


def test_a_device_that_is_not_there_is_refused():
    options.check_device(None)
    options.check_device("cpu")
    with pytest.raises(PocketError, match="--device gpu cannot be used here"):
        options.check_device("gpu")


def test_a_model_to_compare_with_must_exist():
    options.check_against(None)
    options.check_against("mobilenetv3_small_100.lamb_in1k")
    with pytest.raises(PocketError, match=r"--against mobilenetv3_smal_100: .*Did you mean mobilenetv3_small_100"):
        options.check_against("mobilenetv3_smal_100")


@pytest.mark.parametrize("text", ["5", "a,b", "1,2,3", "5,1", "nan,nan", "0,inf", ""])
def test_a_window_that_is_none_is_refused(text):
    with pytest.raises(PocketError, match="--window"):
        options.parse_window(text)


def test_windows():
    assert options.parse_window("0,4095") == (0.0, 4095.0)
    assert options.parse_window(None) is None
    assert options.parse_window((1.0, 2.0)) == (1.0, 2.0)
