"""A run folder is read as it is: what is broken is named, what a kill cut short is left out."""

from __future__ import annotations

import json

import pytest

from pocketvit.errors import PocketError
from pocketvit.reporting.results import Curve, Row, load_results, parse_results, with_company


def test_an_unfinished_run_says_what_to_do(tmp_path):
    with pytest.raises(PocketError, match=r"results\.json.*--resume"):
        load_results(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": 3}', '{"rows": ["x"]}'])
def test_a_broken_file_is_a_clear_error(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(PocketError):
        load_results(tmp_path)


def test_every_part_may_be_missing(tmp_path):
    (tmp_path / "results.json").write_text('{"rows": [], "dataset": null, "machine": 3, "notes": "x", "curves": []}')
    results = load_results(tmp_path)
    assert results.rows == ()
    assert results.title == tmp_path.name
    assert results.scored_on == "test"
    assert results.student is results.shipped is None


def test_figures_of_the_wrong_kind_are_missing_not_wrong(tmp_path):
    row = {"key": "m", "accuracy": "0.9", "n": True, "interval": [0.1], "latency_ms": 3, "min_class": ["a", None]}
    (tmp_path / "results.json").write_text(json.dumps({"rows": [row, row]}))
    first, second = load_results(tmp_path).rows
    assert (first.accuracy, first.n, first.interval, first.latency_p50, first.min_class) == (None,) * 5
    assert first.key != second.key


def test_the_shipped_row_is_int8_where_it_was_measured(run_folder):
    assert load_results(run_folder).shipped.key == "int8"
    value = json.loads((run_folder / "results.json").read_text())
    next(row for row in value["rows"] if row["key"] == "int8")["status"] = "not run"
    (run_folder / "results.json").write_text(json.dumps(value))
    assert load_results(run_folder).shipped.key == "student"


def test_differences_are_read_as_words(run_folder):
    value = json.loads((run_folder / "results.json").read_text())
    value["differences"] = ["plain", {"words": "no difference seen"}, {"a": 1}]
    (run_folder / "results.json").write_text(json.dumps(value))
    assert load_results(run_folder).differences == ("plain", "no difference seen", "a: 1")


def test_figures_of_the_wrong_kind_are_missing_and_not_guessed():
    row = Row.read(
        {"key": "a", "auc": "0.9", "auc_interval": [0.1, None], "kappa": float("nan"), "mae": 0.5, "groups": 3}
    )
    assert (row.auc, row.auc_interval, row.kappa, row.mae, row.groups) == (None, None, None, 0.5, 3)


def test_figures_that_none_of_their_kind_can_be_are_missing():
    row = Row.read({"key": "a", "accuracy": 1.5, "chance": -0.1, "ece": 1, "n": -3, "parameters": 10**400, "bytes": 7})
    assert (row.accuracy, row.chance, row.ece, row.n, row.parameters, row.bytes) == (None, None, 1.0, None, None, 7)
    assert parse_results({"dataset": {"chance": 2}}).chance is None
    assert Row.read({"key": "a", "n": 2**70}).n is None


@pytest.mark.parametrize("spoiled", [None, [], {"confidence": [0.5]}, "x"])
def test_a_reliability_curve_is_whole_or_not_there(spoiled):
    whole = {"confidence": [0.5, 0.9], "accuracy": [0.6, 1.0], "counts": [30, 31]}
    assert Curve.read(whole).counts == (30, 31)
    assert Curve.read(spoiled) is None
    assert Curve.read({**whole, "accuracy": [0.6, None]}) is None
    assert Curve.read({**whole, "counts": [1]}) is None
    found = parse_results({"reliability": {"before": whole, "after": spoiled, "other": whole}}).reliability
    assert list(found) == ["before"]


@pytest.mark.parametrize("wrong", [True, 3, "cats", {"a": 1}])
def test_lists_of_the_wrong_kind_are_empty(wrong):
    results = parse_results({"dataset": {"classes": wrong}, "teachers": wrong, "comparison": wrong, "notes": wrong})
    assert (results.classes, results.teachers, results.comparison, results.notes) == ((), (), (), ())


@pytest.mark.parametrize("prefix", ["", "run-2-"])
def test_nobody_asks_for_the_twin_of_a_compressed_student_not_even_in_an_overview(prefix):
    rows = [Row(f"{prefix}before-1", "student", "other"), Row(f"{prefix}student", "student, pruned", "student")]
    assert "baseline" not in {row.role for row in with_company(rows)}
    assert "baseline" in {row.role for row in with_company(rows[1:])}
