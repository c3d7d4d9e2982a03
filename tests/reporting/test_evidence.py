"""Confusions and disagreements equal what one counts by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pocketvit.reporting import evidence
from pocketvit.reporting.results import load_results


@pytest.fixture
def small(tmp_path):
    """Four images of three classes; student and teacher differ on the images 1, 2 and 3."""
    rows = [{"key": "t", "name": "T", "role": "teacher"}, {"key": "s", "name": "S", "role": "student"}]
    value = {"rows": rows, "dataset": {"classes": ["a", "b", "c"]}}
    (tmp_path / "results.json").write_text(json.dumps(value))
    student = [[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.1, 0.7, 0.2], [0.9, 0.05, 0.05]]
    teacher = [[0.9, 0.1, 0.0], [0.3, 0.6, 0.1], [0.6, 0.2, 0.2], [0.0, 0.1, 0.9]]
    targets = np.array([0, 1, 1, 1])
    np.savez(tmp_path / "predictions.npz", targets=targets, names=np.array(["i", "j", "k", "l"]), s=student, t=teacher)
    return tmp_path


def _both(folder):
    results = load_results(folder)
    predictions, why = evidence.load_predictions(results)
    assert why == ""
    return results, predictions


def test_disagreements_are_counted_and_ordered_by_confidence(small):
    found = evidence.disagreements(*_both(small))
    assert [item.name for item in found.items] == ["l", "k", "j"]  # 0.81, 0.42, 0.30
    assert (found.n, found.student_right, found.teachers_right, found.neither) == (4, 1, 1, 1)
    first = found.items[0]
    assert (first.truth, [(guess.who, guess.says, guess.right) for guess in first.guesses]) == (
        "b",
        [("S", "a", False), ("T", "c", False)],
    )


def test_unknown_truths_judge_nobody(small):
    arrays = dict(np.load(small / "predictions.npz"))
    np.savez(small / "predictions.npz", **{**arrays, "targets": np.full(4, -1)})
    results, predictions = _both(small)
    found = evidence.disagreements(results, predictions)
    assert not found.judged
    assert found.items[0].guesses[0].right is None
    assert evidence.confusion(predictions, "s") is None


def test_confusions_and_weak_classes(small):
    _, predictions = _both(small)
    counts = evidence.confusion(predictions, "s")
    assert counts.tolist() == [[1, 0, 0], [2, 1, 0], [0, 0, 0]]
    assert evidence.frequent_confusions(counts, "abc", 8) == [("b", "a", 2, 3)]
    assert evidence.weakest_classes(counts, "abc", 8) == [("b", pytest.approx(1 / 3), 3), ("a", 1.0, 1)]


@pytest.mark.parametrize("spoil", ["absent", "cut", "pickled", "no targets"])
def test_a_file_that_cannot_be_used_says_why(small, spoil):
    path = small / "predictions.npz"
    if spoil == "absent":
        path.unlink()
    elif spoil == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif spoil == "pickled":
        np.savez(path, targets=np.array([{}], dtype=object))
    else:
        np.savez(path, s=np.zeros((4, 3)))
    predictions, why = evidence.load_predictions(load_results(small))
    assert predictions is None
    assert "predictions.npz" in why


def test_without_one_side_there_is_no_disagreement(small):
    arrays = dict(np.load(small / "predictions.npz"))
    del arrays["t"]
    np.savez(small / "predictions.npz", **arrays)
    assert evidence.disagreements(*_both(small)) is None
