"""One call takes all figures that apply to a task, in JSON-like fields, and none that do not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pocketvit.metrics import OperatingPoint, evaluate
from pocketvit.tasks import task_named


def judge(*given, task="classification", **options):
    return task_named(task).judge(*given, **options)


def answered(classes, n=90):
    rng = np.random.default_rng(1)
    y = rng.integers(0, classes, n)
    p = rng.dirichlet(np.ones(classes), n) * 0.6
    p[np.arange(n), y] += 0.4 * (rng.random(n) < 0.7)
    return p / p.sum(1, keepdims=True), y


def test_the_figures_of_evaluate_stay_what_they_are():
    p, y = answered(3)
    judged, plain = judge(p, y, "abc", teacher=p), evaluate(p, y, p)
    fields = judged.fields()
    assert (fields["accuracy"], fields["ece"], fields["agreement"]) == (plain.accuracy, plain.ece, 1.0)
    assert fields["interval"] == list(plain.interval)
    assert fields["min_class"] == ["abc"[plain.min_class[0]], plain.min_class[1]]
    assert not {"kappa", "mae", "sensitivity", "average_precision", "groups"} & fields.keys()
    json.dumps(fields, allow_nan=False)


def test_each_task_has_its_own_figures():
    p, y = answered(5)
    assert {"kappa", "kappa_interval", "mae"} <= judge(p, y, "01234", task="ordinal").fields().keys()
    p, y = answered(2)
    point = OperatingPoint(0, 0.5, "by hand")
    fields = judge(p, y, ("malignant", "benign"), point=point).fields()
    assert (fields["positive"], fields["threshold"], fields["chosen"]) == ("malignant", 0.5, "by hand")
    assert fields["sensitivity"] == (p[y == 0, 0] >= 0.5).mean()
    labels = judge(p, np.stack([y, 1 - y], 1), "ab", task="multilabel", teacher=1 - p).fields()
    assert labels["agreement"] == 0.0
    assert {"auc", "average_precision"} <= labels.keys()
    assert labels["accuracy"] == pytest.approx(((p >= 0.5) == np.stack([y, 1 - y], 1)).mean())
    json.dumps([fields, labels], allow_nan=False)


def test_absent_classes_leave_valid_json():
    p, y = answered(4)
    y[y == 3] = 0
    fields = judge(p, y, "abcd").fields()
    assert fields["class_auc"][3] is None
    json.dumps(fields, allow_nan=False)
    blind = judge(p, np.full(90, -1), "abcd", teacher=p).fields()
    assert (blind["n"], blind["accuracy"], blind["agreement"]) == (0, None, 1.0)


def test_with_patients_the_interval_is_over_them():
    p, y = answered(3)
    fields = judge(p, y, "abc", groups=np.arange(90) // 9).fields()
    assert fields["groups"] == 10
    assert fields["interval"] != list(evaluate(p, y).interval)
