"""Out-of-fold answers: pooled figures are those of all images, folds have their own, and nobody is judged twice."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pocketvit.errors import PocketError
from pocketvit.metrics import OperatingPoint, crossvalidation
from pocketvit.metrics.crossvalidation import OutOfFold
from pocketvit.tasks import task_named


def pool_folds(given, classes, *, task="classification", points=None):
    return crossvalidation.pool_folds(given, classes, judge=task_named(task).judge, points=points)


def write_predictions(path, given, classes, task="classification"):
    answers = task_named(task).answered(given.probabilities)
    return crossvalidation.write_predictions(path, given, classes, task_named(task).named, answers)


CLASSES = ("normal", "ill")


def answered(n=120, folds=4, groups=None, classes=2):
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    z = rng.normal(size=(n, classes))
    z[np.arange(n), y] += 1
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return OutOfFold([f"{i}.png" for i in range(n)], np.arange(n) % folds, y, p, groups)


def test_pooled_figures_are_over_all_images_and_folds_over_their_own():
    given = answered()
    found = pool_folds(given, CLASSES)
    right = given.probabilities.argmax(1) == given.targets
    assert found.pooled.scores.accuracy == right.mean()
    assert found.pooled.scores.n == 120
    assert found.pooled.screening.auc == pytest.approx(roc_auc_score(given.targets, given.probabilities[:, 1]))
    assert list(found.folds) == [0, 1, 2, 3]
    each = [right[given.fold == number].mean() for number in range(4)]
    assert [judgement.scores.accuracy for judgement in found.folds.values()] == each
    spread = found.spread["accuracy"]
    assert (spread.mean, spread.deviation) == (pytest.approx(np.mean(each)), pytest.approx(np.std(each, ddof=1)))
    assert (spread.low, spread.high, spread.folds) == (min(each), max(each), 4)
    assert spread.words().endswith(f"standard deviation {100 * np.std(each, ddof=1):.1f}")
    assert "over 4 folds, from" in spread.words()


def test_each_image_is_called_at_its_own_folds_threshold():
    p = np.array([0.3, 0.2, 0.7, 0.6])
    given = OutOfFold(list("abcd"), np.array([0, 0, 1, 1]), np.array([1, 0, 1, 0]), np.stack([1 - p, p], 1))
    points = {0: OperatingPoint(1, 0.25, "Youden's J on 9 validation images"), 1: OperatingPoint(1, 0.65, "")}
    at = pool_folds(given, CLASSES, points=points).pooled.screening.at
    assert (at.sensitivity, at.specificity) == (1.0, 1.0)
    assert at.point.chosen == "Youden's J on each fold's own validation images"
    assert pool_folds(given, CLASSES).pooled.screening.at is None


def test_the_pooled_interval_is_over_patients():
    groups = np.array([f"p{i // 3}" for i in range(120)])
    given = answered(groups=groups)
    given = OutOfFold(given.names, np.repeat(np.arange(4), 30), given.targets, given.probabilities, groups)
    fields = pool_folds(given, CLASSES).pooled.fields()
    assert fields["groups"] == 40
    assert fields["interval"] != pool_folds(answered(), CLASSES).pooled.fields()["interval"]


@pytest.mark.parametrize("what", ["image", "group"])
def test_what_stands_in_two_folds_is_refused_by_name(what):
    given = answered(8, 2)
    names = ["x.png", "x.png", *given.names[2:]] if what == "image" else given.names
    groups = np.array([5] * 8) if what == "group" else None
    with pytest.raises(PocketError, match=f"the {what} {'x.png' if what == 'image' else 5} was held out in several"):
        pool_folds(OutOfFold(names, given.fold, given.targets, given.probabilities, groups), CLASSES)


def test_missing_rows_are_refused():
    given = answered(8, 2)
    with pytest.raises(PocketError, match="one row an image"):
        pool_folds(OutOfFold(given.names[:3], given.fold, given.targets, given.probabilities), CLASSES)


def test_the_file_of_predictions_reads_back(tmp_path):
    groups = np.array([i // 2 for i in range(6)])
    given = answered(6, 1, groups)
    given.targets[2] = -1
    path = write_predictions(tmp_path / "predictions.csv", given, CLASSES)
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert [row["name"] for row in rows] == list(given.names)
    assert [row["group"] for row in rows] == ["0", "0", "1", "1", "2", "2"]
    assert rows[2]["truth"] == ""
    assert rows[0]["answer"] == CLASSES[given.probabilities[0].argmax()]
    assert float(rows[3]["probability: ill"]) == pytest.approx(given.probabilities[3, 1], abs=1e-6)


def test_several_labels_are_joined_and_no_group_is_no_column(tmp_path):
    p = np.array([[0.9, 0.8], [0.1, 0.2]])
    given = OutOfFold(["a,b", "c"], np.array([0, 1]), np.array([[1, 0], [0, 0]]), p)
    rows = list(csv.reader(write_predictions(tmp_path / "p.csv", given, ("x", "y"), "multilabel").open()))
    assert rows[0][:4] == ["name", "fold", "truth", "answer"]
    assert rows[1][:4] == ["a,b", "0", "x", "x; y"]
    assert rows[2][:4] == ["c", "1", "", ""]
    found = pool_folds(given, ("x", "y"), task="multilabel")
    assert found.pooled.scores.accuracy == 0.75
