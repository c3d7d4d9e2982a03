"""Screening figures are scikit-learn's, their thresholds come from other images, and their intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, roc_auc_score

from pocketvit.errors import PocketError
from pocketvit.metrics import reliability, wilson_interval
from pocketvit.metrics.intervals import resamples
from pocketvit.metrics.screening import (
    OperatingPoint,
    _Grades,
    choose_point,
    positive_class,
    screen,
    screen_labels,
)


def guesses(n, classes, strength=1.0, seed=0):
    """Softmax answers to random truths, better than chance."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    z = rng.normal(size=(n, classes))
    z[np.arange(n), y] += strength
    return np.exp(z) / np.exp(z).sum(1, keepdims=True), y


def test_auc_and_balanced_accuracy_are_those_of_scikit_learn():
    p, y = guesses(400, 4)
    found = screen(p, y)
    assert found.auc == pytest.approx(roc_auc_score(y, p, multi_class="ovr", average="macro"))
    assert found.class_auc == pytest.approx([roc_auc_score(y == c, p[:, c]) for c in range(4)])
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))
    assert found.auc_interval[0] < found.auc < found.auc_interval[1]
    assert found.balanced_interval[0] < found.balanced_accuracy < found.balanced_interval[1]
    assert (found.n, found.groups, found.kappa, found.at, found.average_precision) == (400, None, None, None, None)


def test_the_interval_of_two_classes_is_near_hanley_and_mcneils():
    """Hanley & McNeil 1982: SE^2 = (A (1-A) + (P-1)(Q1 - A^2) + (N-1)(Q2 - A^2)) / (P N)."""
    p, y = guesses(600, 2, strength=1.2)
    found = screen(p, y)
    a, positives, negatives = found.auc, (y == 1).sum(), (y == 0).sum()
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = a * (1 - a) + (positives - 1) * (q1 - a * a) + (negatives - 1) * (q2 - a * a)
    error = np.sqrt(variance / (positives * negatives))
    assert (found.auc_interval[1] - found.auc_interval[0]) / (2 * 1.96) == pytest.approx(error, rel=0.15)


def test_a_set_without_a_ranking_error_has_no_auc_interval():
    y = np.array([0, 1, 2] * 10)
    found = screen(np.eye(3)[y] * 0.9 + 0.1 / 3, y)
    assert (found.auc, found.auc_interval, found.balanced_interval) == (1.0, None, None)
    assert found.accuracy_interval == wilson_interval(30, 30)


def test_unlabelled_images_and_absent_classes_are_left_out():
    p, y = guesses(200, 4)
    y[y == 3] = 2
    y[::5] = -1
    found = screen(p, y)
    assert found.n == (y >= 0).sum()
    assert np.isnan(found.class_auc[3])
    assert found.auc == pytest.approx(np.mean([roc_auc_score(y[y >= 0] == c, p[y >= 0, c]) for c in range(3)]))
    assert screen(p, np.full(200, -1)).n == 0
    one = screen(p, np.zeros(200, int))
    assert (one.auc, one.auc_interval) == (None, None)
    assert one.balanced_accuracy == (p.argmax(1) == 0).mean()


def test_groups_widen_the_intervals_of_images_that_repeat():
    p, y = guesses(60, 3)
    p, y, groups = np.repeat(p, 8, 0), np.repeat(y, 8), np.repeat(np.arange(60), 8)
    alone, grouped = screen(p, y), screen(p, y, groups=groups)
    assert (grouped.auc, grouped.groups) == (alone.auc, 60)
    for interval in ("auc_interval", "balanced_interval", "accuracy_interval"):
        wide, narrow = getattr(grouped, interval), getattr(alone, interval)
        assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


@pytest.mark.parametrize(
    ("classes", "positive"),
    [
        (("normal", "pneumonia"), 1),
        (("malignant", "normal, benign"), 0),
        (("Healthy", "Sick"), 1),
        (("covid", "No finding"), 0),
        (("benign", "normal"), 0),
        (("0", "1"), 1),
        (("normal", "abnormal"), 1),
        (("abnormal", "normal"), 0),
        (("a", "not healthy"), 1),
        (("Parasitized", "Uninfected"), 0),
        (("infected", "uninfected"), 0),
        (("melanoma", "not melanoma"), 0),
        (("cancer", "non_cancer"), 0),
        (("glaucoma", "non-glaucoma"), 0),
        (("no tumor", "tumor"), 1),
        (("defect", "good"), 0),
        (("unripe", "ripe"), 1),
        (("healthy", "unhealthy"), 1),
        (("normal", "non-normal"), 1),
        (("sick", "well"), 0),
        (("DR", "NoDR"), 0),
        (("fire", "nofire"), 0),
        (("Cancer", "NotCancer"), 0),
        (("AbnormalCXR", "NormalCXR"), 0),
    ],
)
def test_the_positive_class_is_what_one_looks_for(classes, positive):
    assert positive_class(classes) == positive


def test_youdens_point_is_the_best_of_all_thresholds():
    p, y = guesses(300, 2)
    point = choose_point(p, y, 1)

    def j(threshold):
        called = p[:, 1] >= threshold
        return called[y == 1].mean() - called[y == 0].mean()

    assert j(point.threshold) == pytest.approx(max(j(t) for t in p[:, 1]))
    assert point.chosen == "Youden's J on 300 validation images"


def test_a_threshold_lies_between_the_images_that_it_parts():
    p = np.array([0.1, 0.2, 0.6, 0.9])
    point = choose_point(np.stack([1 - p, p], 1), [0, 0, 1, 1], 1)
    assert point.threshold == pytest.approx(0.4)
    other = choose_point(np.stack([p, 1 - p], 1), [1, 1, 0, 0], 0)
    assert (other.positive, other.threshold) == (0, pytest.approx(0.4))


@pytest.mark.parametrize("wanted", [0.8, 0.95, 1.0])
def test_a_wanted_sensitivity_is_reached_and_not_by_far(wanted):
    p, y = guesses(300, 2)
    point = choose_point(p, y, 1, sensitivity=wanted)
    reached = (p[y == 1, 1] >= point.threshold).mean()
    assert wanted <= reached <= wanted + 2 / (y == 1).sum()


def test_a_point_needs_both_classes():
    assert choose_point(np.full((3, 2), 0.5), [1, 1, 1], 1) is None
    assert choose_point(np.full((3, 2), 0.5), [-1, -1, -1], 1) is None


def test_sensitivity_and_specificity_of_a_hand_computed_case():
    p = np.array([0.9, 0.4, 0.3, 0.2, 0.6, 0.1])
    found = screen(np.stack([1 - p, p], 1), [1, 1, 1, 0, 0, 0], point=OperatingPoint(1, 0.35, "by hand")).at
    assert (found.sensitivity, found.specificity) == (2 / 3, 2 / 3)
    assert found.sensitivity_interval == found.specificity_interval == wilson_interval(2, 3)
    mirrored = screen(np.stack([p, 1 - p], 1), [1, 1, 1, 0, 0, 0], positive=0, point=OperatingPoint(0, 0.35, ""))
    assert (mirrored.at.sensitivity, mirrored.at.specificity) == (1 / 3, 1 / 3)


def test_the_grade_figures_are_scikit_learns_in_every_resample():
    p, y = guesses(250, 5)
    found = screen(p, y, ordinal=True)
    answer = p.argmax(1)
    assert found.kappa == pytest.approx(cohen_kappa_score(y, answer, weights="quadratic"))
    assert found.mae == pytest.approx(np.abs(y - answer).mean())
    assert found.kappa_interval[0] < found.kappa < found.kappa_interval[1]
    drawn = np.concatenate(list(resamples(y, 5)))
    weighted = [cohen_kappa_score(y, answer, weights="quadratic", sample_weight=w) for w in drawn]
    assert _Grades(y, answer, 5).kappa(drawn) == pytest.approx(weighted)


def test_a_far_grade_costs_more_than_a_near_one():
    y = np.repeat(np.arange(5), 20)
    near, far = np.where(y == 0, 1, y), np.where(y == 0, 4, y)
    one, other = (screen(np.eye(5)[answer], y, ordinal=True) for answer in (near, far))
    assert one.balanced_accuracy == other.balanced_accuracy
    assert one.kappa > other.kappa
    assert (one.mae, other.mae) == (0.2, 0.8)


def test_labels_that_are_all_right_have_an_interval_too():
    """Resampling finds no error in 15 images without one; the labels of an image are not independent: 15, not 45."""
    y = np.random.default_rng(0).integers(0, 2, (15, 3))
    found = screen_labels(np.where(y, 0.9, 0.1), y)
    assert (found.accuracy, found.accuracy_interval) == (1.0, wilson_interval(15, 15))
    patients = screen_labels(np.where(y, 0.9, 0.1), y, groups=np.arange(15) // 3)
    assert patients.accuracy_interval == wilson_interval(5, 5)


def test_labels_of_one_image_are_judged_one_by_one():
    rng = np.random.default_rng(0)
    y = (rng.random((300, 4)) < [0.5, 0.3, 0.1, 0.0]).astype(int)
    p = np.clip(0.5 * y + rng.random((300, 4)) * 0.6, 0, 1)
    found = screen_labels(p, y)
    assert found.accuracy == pytest.approx(((p >= 0.5) == y).mean())
    assert np.isnan(found.class_auc[3])
    assert found.auc == pytest.approx(np.mean([roc_auc_score(y[:, c], p[:, c]) for c in range(3)]))
    assert found.auc_interval[0] < found.auc < found.auc_interval[1]
    assert found.accuracy_interval[0] < found.accuracy < found.accuracy_interval[1]
    y[:100] = -1
    assert screen_labels(p, y).n == 200


def test_a_reliability_curve_adds_up_to_its_images():
    confidence = np.concatenate([np.full(50, 0.6), np.linspace(0.8, 0.99, 150)])
    right = np.concatenate([np.arange(50) < 30, np.ones(150)])
    curve = reliability(confidence, right, bins=4)
    assert curve.counts.sum() == 200
    assert curve.confidence[0] == pytest.approx(0.6)
    assert curve.accuracy[0] == pytest.approx(0.6)
    assert (curve.accuracy[1:] == 1).all()
    assert (np.diff(curve.confidence) > 0).all()


def test_what_does_not_fit_says_so():
    p, y = guesses(10, 3)
    with pytest.raises(PocketError, match="10 predictions against 9 labels"):
        screen(p, y[:9])
    with pytest.raises(PocketError, match="4 groups"):
        screen(p, y, groups=[1, 2, 3, 4])
    with pytest.raises(PocketError, match="class 7"):
        screen(p, np.full(10, 7))
    with pytest.raises(PocketError, match="same shape"):
        screen_labels(p, np.ones((10, 2), int))


def test_of_two_classes_sure_answers_are_ranked_by_the_positive_one():
    """Rounded to 1 they tie in the other column, where the rest of them still differs."""
    positive_N = np.array([1e-9, 1e-10, 1e-11, 1e-12], np.float32)
    answers = np.stack([1 - positive_N, positive_N], 1).astype(np.float32)
    found = screen(answers, [1, 1, 0, 0])
    assert found.auc == 1.0
    assert found.class_auc.tolist() == [1.0, 1.0]


def test_answers_of_one_grade_leave_no_kappa_and_no_warning(recwarn):
    found = screen(np.tile([0.0, 1.0, 0.0], (4, 1)), [1, 1, 1, 1], ordinal=True)
    assert found.kappa is None
    assert not [warning for warning in recwarn if "UndefinedMetric" in str(warning.category)]
