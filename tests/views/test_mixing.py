"""Mixup and CutMix: pairs share a ratio and a box, and labels weigh what pixels show."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvit.views.mixing import MIX_DRAWS, Mix, mix_of, mix_pictures
from pocketvit.views.philox import draw
from pocketvit.views.tables import RATIO_LEVELS

SIZE = 32


def _mix(count: int, mixup: float, cutmix: float) -> Mix:
    numbers = draw(0, np.arange(count, dtype=np.uint64), 0, {"mix": MIX_DRAWS})["mix"]
    return mix_of(numbers, SIZE, mixup, cutmix)


def _constant(count: int, value: int) -> np.ndarray:
    return np.full((count, 3, SIZE, SIZE), value, np.uint8)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_the_label_weighs_the_share_of_pixels(mixup: float, cutmix: float) -> None:
    """Of 0 mixed with 200, the mean is 200 (1 - ratio), up to rounding."""
    mix = _mix(300, mixup, cutmix)
    result = mix_pictures(_constant(300, 0), _constant(300, 200), mix)
    assert np.abs(result.mean(axis=(1, 2, 3)) - 200 * (1 - mix.ratio)).max() <= 0.5
    assert mix.ratio.dtype == np.float32
    assert (mix.ratio >= 0).all()
    assert (mix.ratio <= 1).all()


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_a_share_of_the_pairs_stays_whole_and_the_others_are_mixed_as_ever(mixup: float, cutmix: float) -> None:
    numbers = draw(0, np.arange(4000, dtype=np.uint64), 0, {"mix": MIX_DRAWS})["mix"]
    always, half = mix_of(numbers, SIZE, mixup, cutmix), mix_of(numbers, SIZE, mixup, cutmix, 0.5)
    whole = (half.ratio == 1) & (half.level == RATIO_LEVELS) & (half.box[:, 2] == half.box[:, 0])
    assert abs(whole.mean() - 0.5) < 0.05
    for one, other in zip(always, half, strict=True):
        assert np.array_equal(one[~whole], other[~whole])
    assert np.array_equal(
        mix_pictures(_constant(4000, 0), _constant(4000, 200), half)[whole], _constant(whole.sum(), 0)
    )


def test_mixup_is_a_rounded_weighted_mean() -> None:
    random = np.random.default_rng(0)
    own, partner = random.integers(0, 256, (2, RATIO_LEVELS + 1, 3, SIZE, SIZE)).astype(np.uint8)
    level = np.arange(RATIO_LEVELS + 1)
    mix = Mix(level, np.zeros((len(level), 4), np.int64), (level / RATIO_LEVELS).astype(np.float32))
    weight = (level / RATIO_LEVELS)[:, None, None, None]
    expected = np.floor(own * weight + partner * (1 - weight) + 0.5)
    assert np.array_equal(mix_pictures(own, partner, mix), expected.astype(np.uint8))


def test_cutmix_pastes_one_box() -> None:
    mix = _mix(200, 0.0, 1.0)
    result = mix_pictures(_constant(200, 0), _constant(200, 1), mix)
    for picture, (top, left, bottom, right) in zip(result, mix.box, strict=True):
        expected = np.zeros((SIZE, SIZE))
        expected[top:bottom, left:right] = 1
        assert np.array_equal(picture, np.broadcast_to(expected, (3, SIZE, SIZE)))
    assert len({tuple(box) for box in mix.box}) > 150


def test_with_both_each_pair_takes_one_of_them() -> None:
    mix = _mix(2000, 0.8, 1.0)
    cut = mix.box[:, 2] > mix.box[:, 0]
    assert 0.4 < cut.mean() < 0.6
    assert (mix.level[cut] == RATIO_LEVELS).all()


def test_ratios_follow_their_beta_distribution() -> None:
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1))."""
    for alpha in (0.2, 1.0):
        ratio = _mix(20_000, alpha, 0.0).ratio.astype(float)
        assert ratio.mean() == pytest.approx(0.5, abs=0.01)
        assert ratio.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
