"""Resampled figures are scikit-learn's, intervals hold what they promise, and groups are drawn whole."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pocketvit.metrics.intervals import (
    percentile_interval,
    resampled_auc,
    resamples,
    share_interval,
    wilson_interval,
)


def test_each_class_is_drawn_as_often_as_it_has_images():
    strata = np.array([0, 1, 1, 1, 2, 2])
    drawn = np.concatenate(list(resamples(strata, 50)))
    assert drawn.shape == (50, 6)
    for stratum, count in enumerate([1, 3, 2]):
        assert (drawn[:, strata == stratum].sum(1) == count).all()
    assert len(np.unique(drawn[:, 1:4], axis=0)) > 5


def test_draws_depend_on_the_seed_alone():
    strata = np.arange(20) % 2
    first, again, other = (np.concatenate(list(resamples(strata, 9, seed=seed))) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_groups_are_drawn_whole_and_within_their_commonest_class():
    groups = np.array([7, 7, 7, 3, 3, 9])
    targets = np.array([0, 0, 1, 1, 1, 1])
    drawn = np.concatenate(list(resamples(targets, 40, groups=groups)))
    assert (drawn[:, :3] == drawn[:, :1]).all()
    assert (drawn[:, 0] == 1).all()  # the only group of class 0
    assert (drawn[:, 3] + drawn[:, 5] == 2).all()
    assert {0.0, 1.0, 2.0} == set(drawn[:, 5])


def test_the_auc_of_a_resample_is_scikit_learns_with_weights():
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.3
    scores = np.round(rng.normal(size=300) + positive, 1)  # many ties
    drawn = np.concatenate(list(resamples(positive.astype(int), 8)))
    expected = [roc_auc_score(positive, scores, sample_weight=weights) for weights in drawn]
    assert resampled_auc(scores, positive, drawn) == pytest.approx(expected, abs=1e-12)
    assert resampled_auc(scores, positive, np.ones((1, 300), np.float32)) == pytest.approx(
        [roc_auc_score(positive, scores)], abs=1e-12
    )


def test_a_resample_without_positives_has_no_auc():
    drawn = np.array([[1, 1, 0]], np.float32)
    assert np.isnan(resampled_auc(np.array([0.1, 0.2, 0.9]), np.array([False, False, True]), drawn))


def test_figures_that_never_vary_have_no_interval():
    assert percentile_interval(np.ones(1000)) is None
    assert percentile_interval(np.full(1000, np.nan)) is None
    low, high = percentile_interval(np.arange(1001) / 1000)
    assert (low, high) == pytest.approx((0.025, 0.975))


def test_shares_of_independent_images_have_wilsons_interval():
    right = np.arange(263) < 81
    assert share_interval(right) == wilson_interval(81, 263)
    assert share_interval([]) is None


def test_groups_of_equal_images_are_as_uncertain_as_that_many_images():
    """Ten images each of 50 patients, always all right or all wrong: 500 images that tell as much as 50."""
    groups = np.repeat(np.arange(50), 10)
    right = groups < 30
    low, high = share_interval(right, groups)
    wide, narrow = wilson_interval(30, 50), wilson_interval(300, 500)
    assert high - low == pytest.approx(wide[1] - wide[0], rel=0.15)
    assert high - low > 2 * (narrow[1] - narrow[0])


def test_without_an_error_each_group_counts_once():
    groups = np.repeat(np.arange(12), 10)
    assert share_interval(np.ones(120), groups) == wilson_interval(12, 12)
    assert share_interval(np.zeros(120), groups) == wilson_interval(0, 12)


def test_one_group_has_no_interval():
    assert share_interval([1, 0, 1], [4, 4, 4]) is None
