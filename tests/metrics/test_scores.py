"""Scores, their intervals and calibration, against hand-computed cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pocketvit.errors import PocketError
from pocketvit.metrics import (
    evaluate,
    expected_calibration_error,
    fit_answers,
    fit_label_temperature,
    fit_temperature,
    paired_difference,
    wilson_interval,
)


def one_hot(classes, of=3):
    return np.eye(of)[np.asarray(classes)]


def test_scores_of_a_hand_computed_case():
    p = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.1, 0.3, 0.6]])
    scores = evaluate(p, [0, 1, 1, 2])
    assert scores.n == 4
    assert scores.accuracy == 0.75
    assert scores.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert scores.min_class == (1, 0.5)
    assert scores.per_class.tolist() == [1.0, 0.5, 1.0]
    assert scores.nll == pytest.approx(-np.log([0.8, 0.7, 0.4, 0.6]).mean())
    assert scores.agreement is None


def test_wilson_interval_is_that_of_the_formula():
    """Newcombe 1998: 81 of 263 gives 0.2553 to 0.3662."""
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_unlabelled_images_count_for_agreement_only():
    p, teacher = one_hot([0, 1, 2, 0]), one_hot([0, 1, 1, 1])
    scores = evaluate(p, [0, -1, 2, -1], teacher)
    assert (scores.n, scores.accuracy, scores.agreement) == (2, 1.0, 0.5)
    blind = evaluate(p, [-1] * 4, teacher)
    assert (blind.n, blind.accuracy, blind.ece, blind.agreement) == (0, None, None, 0.5)


def test_a_class_without_images_is_not_the_worst():
    scores = evaluate(one_hot([0, 0, 1]), [0, 1, 1])
    assert scores.min_class == (1, 0.5)
    assert math.isnan(scores.per_class[2])


def test_ece_is_zero_when_confidence_is_frequency_and_the_gap_when_not():
    right = np.array([True] * 8 + [False] * 2)
    assert expected_calibration_error(np.full(10, 0.8), right) == pytest.approx(0)
    assert expected_calibration_error(np.full(10, 0.95), right) == pytest.approx(0.15)


def test_ece_bins_have_equal_mass():
    """A third too shy and two thirds too bold, wrong in opposite directions, must not cancel."""
    confidence = np.concatenate([np.linspace(0.5, 0.6, 100), np.linspace(0.9, 0.95, 200)])
    right = np.concatenate([np.ones(100), np.zeros(200)])
    assert expected_calibration_error(confidence, right) == pytest.approx((0.45 + 2 * 0.925) / 3)


def test_ece_has_a_bin_of_its_own_for_what_is_certain():
    confidence = np.array([1.0] * 94 + [0.3] * 6)
    right = np.array([1] * 84 + [0] * 10 + [1] * 6)
    assert expected_calibration_error(confidence, right) == pytest.approx((10 + 6 * 0.7) / 100)


def test_ece_does_not_depend_on_the_order_of_the_images():
    rng = np.random.default_rng(0)
    confidence, right = rng.choice([0.5, 0.7, 1.0], 400), rng.random(400) < 0.6
    shuffled = rng.permutation(400)
    ece = expected_calibration_error(confidence, right)
    assert ece == pytest.approx(expected_calibration_error(confidence[shuffled], right[shuffled]))


def test_fit_temperature_finds_the_temperature_the_labels_were_drawn_at():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20000, 5)) * 2
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    y = (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)
    assert fit_temperature(3 * z, y) == pytest.approx(3, rel=0.03)
    assert fit_temperature(torch.tensor(z), torch.tensor(y)) == pytest.approx(1, rel=0.03)


def test_fit_temperature_takes_the_probabilities_that_others_give():
    z = np.random.default_rng(0).normal(size=(4000, 5))
    p = np.exp(z / 2.5)
    assert fit_temperature(z, p / p.sum(1, keepdims=True)) == pytest.approx(2.5, rel=0.01)


def test_a_few_images_that_are_all_right_make_no_answer_certain():
    """The likelihood alone would: the bound of 0.05 was folded into students of small sets."""
    z = np.eye(5)[[0, 1, 2, 3]] * 3
    assert 0.4 < fit_temperature(z, np.arange(4)) < 1
    assert 0.4 < fit_label_temperature(2 * z - 1, np.eye(5)[:4]) < 1


def test_fit_answers_finds_scale_and_shift_of_another_networks_answers():
    rng = np.random.default_rng(0)
    logits, shift = rng.normal(size=(4000, 5)), np.array([1.0, -0.5, 0.0, 0.5, -1.0])
    answers = np.exp(logits / 0.5 + shift)
    temperature, found = fit_answers(logits, answers / answers.sum(1, keepdims=True))
    assert temperature == pytest.approx(0.5, rel=0.02)
    assert found == pytest.approx(shift, abs=0.02)
    few = fit_answers(logits[:3], (answers / answers.sum(1, keepdims=True))[:3])[1]
    assert np.abs(few).max() < 1  # of which three images say little
    assert fit_answers(np.zeros((0, 5)), np.zeros((0, 5)))[0] == 1


def test_fit_temperature_of_several_labels_finds_the_one_they_were_drawn_at():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (8000, 3))
    y = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(np.int64)
    y[:10], z[:10] = -1, 50.0  # unknown rows are left out
    assert fit_label_temperature(3 * z, y) == pytest.approx(3, rel=0.05)
    assert fit_label_temperature(z, y) == pytest.approx(1, rel=0.05)


def test_fit_temperature_without_labels_changes_nothing():
    assert fit_temperature(np.zeros((3, 2)), [-1, -1, -1]) == 1.0


def test_paired_difference_is_the_t_interval_of_the_differences():
    """Differences 0.01, 0.02, 0.03: mean 0.02, half width t(0.975, 2) 0.01 / sqrt(3)."""
    difference = paired_difference([0.91, 0.92, 0.93], [0.90, 0.90, 0.90])
    assert difference.mean == pytest.approx(0.02)
    assert difference.interval[1] - 0.02 == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)
    assert not difference.seen
    assert difference.words().startswith("no difference seen")


def test_a_difference_is_claimed_only_from_three_seeds_on():
    assert paired_difference([0.9, 0.901, 0.902], [0.8, 0.8, 0.8]).seen
    assert paired_difference([0.9, 0.901, 0.902], [0.8, 0.8, 0.8]).words() == (
        "+10.1 points (95 % interval +9.9 to +10.3, 3 seeds)"
    )
    two = paired_difference([0.9, 0.95], [0.8, 0.8499])
    assert not two.seen
    assert "three are needed" in two.words()
    assert paired_difference([0.9], [0.8]).interval is None


def test_seeds_that_differ_by_exactly_the_same_claim_nothing():
    """On few images equal differences are chance: an interval of no width would be seen as a difference."""
    same = paired_difference([0.9, 0.7, 0.2], [0.8, 0.6, 0.1])  # which floats tell apart in the last digit
    assert (same.interval, same.seen) == (None, False)
    assert "the same in all 3 seeds" in same.words()


def test_what_cannot_be_scored_says_why():
    with pytest.raises(PocketError, match="3 predictions against 2 labels"):
        evaluate(one_hot([0, 1, 2]), [0, 1])
    with pytest.raises(PocketError, match="class 7"):
        evaluate(one_hot([0, 1, 2]), [0, 1, 7])
    with pytest.raises(PocketError, match="finite"):
        evaluate(np.full((2, 2), np.nan), [0, 1])
