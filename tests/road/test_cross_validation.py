"""Folds: every image is answered once, by a student that never saw it."""

from __future__ import annotations

import csv
import logging

import pytest
from walk_fakes import CHOICES, Own

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.road import folds
from pocketvit.rundir import Run

SHORT = CHOICES | {"epochs": 1, "views": 1}


@pytest.fixture(scope="module")
def folded(photos, tmp_path_factory) -> Run:
    out = str(tmp_path_factory.mktemp("folded"))
    return pocketvit.distill(str(photos), teacher=Own(), out=out, **SHORT | {"folds": 3})


def test_pooled_rows_stand_beside_the_runs_own_with_every_image_in_them(folded):
    rows = {row["key"]: row for row in folded.results["rows"]}
    for key in ("teacher-1", "student", "alone"):
        pooled = rows[f"{key}-folds"]
        assert pooled["n"] == 60
        assert pooled["interval"][0] <= pooled["accuracy"] <= pooled["interval"][1]
        assert sum(one["n"] for one in pooled["by_fold"]) == 60
    assert rows["student"]["n"] < 60
    assert rows["student-folds"]["chance"] == 1 / 3  # of all images: the test split's classes are not as even
    assert "student, distilled, 3 folds pooled" in str(folded.table)
    assert any("fold by fold: accuracy" in note for note in folded.results["notes"])


def test_a_student_without_a_teacher_is_not_called_distilled(photos, tmp_path):
    run = pocketvit.distill(str(photos), teacher="none", out=str(tmp_path), **SHORT | {"folds": 2, "views": None})
    names = [row["name"] for row in run.results["rows"]]
    assert names == ["pocket_xs", "pocket_xs, int8 file", "pocket_xs, 2 folds pooled"]


def test_predictions_hold_each_image_once_as_the_student_of_its_fold_answered(folded):
    with open(folded.folder / "predictions.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len({line["name"] for line in lines}) == len(lines) == 60
    assert {line["fold"] for line in lines} == {"1", "2", "3"}
    right = sum(line["truth"] == line["answer"] for line in lines) / 60
    pooled = next(row for row in folded.results["rows"] if row["key"] == "student-folds")
    assert right == pytest.approx(pooled["accuracy"])


def test_a_resumed_run_reads_the_folds_that_are_there(folded, photos, monkeypatch):
    before = folded.results["rows"]
    (folded.folder / "results.json").unlink()
    monkeypatch.setattr(folds, "_answers", lambda *_: pytest.fail("a fold was trained again"))
    again = pocketvit.distill(
        str(photos), teacher=Own(), out=str(folded.folder.parent), resume=True, **SHORT | {"folds": 3}
    )
    rows = {row["key"]: row for row in again.results["rows"]}
    assert all(rows[row["key"]] == row for row in before if row["key"].endswith("-folds"))


def test_unasked_folds_are_left_out_where_they_would_take_long_and_it_is_said(photos, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(folds, "PATIENCE", 0.0)
    with caplog.at_level(logging.WARNING, logger="pocketvit"):
        run = pocketvit.distill(str(photos), teacher=Own(), out=str(tmp_path), **SHORT | {"folds": None})
    assert not any(row["key"].endswith("-folds") for row in run.results["rows"])
    assert "--folds 5" in caplog.text
    assert (run.folder / "folds" / "choice.json").is_file()


@pytest.mark.parametrize(
    ("given", "says"),
    [({"folds": 61}, "61 folds need"), ({"folds": 3, "test": "own"}, "--val and --test are a split")],
)
def test_folds_that_cannot_be_made_are_refused_before_any_training(given, says, photos, tmp_path):
    """Told behind it, the training would be lost: a run goes on with the folds that it was given."""
    given = {name: str(photos) if value == "own" else value for name, value in given.items()}
    with pytest.raises(PocketError, match=says):
        pocketvit.distill(str(photos), teacher=Own(), out=str(tmp_path), **SHORT | given)
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_plan_counts_the_folds_that_nobody_asked_for(photos, tmp_path, monkeypatch):
    def planned():
        return str(
            pocketvit.distill(str(photos), teacher=Own(), out=str(tmp_path), plan=True, **SHORT | {"folds": None})
        )

    assert "folds    5 students more, about " in (with_them := planned())
    assert "(--folds 0: without)" in with_them
    assert ", folds " in with_them.split("time ")[1]
    monkeypatch.setattr(folds, "PATIENCE", 0.0)
    assert ": left out (--folds 5: with them)" in (without := planned())
    assert ", folds " not in without.split("time ")[1]


def test_a_plan_counts_folds_of_a_student_without_a_teacher(photos, tmp_path):
    untaught = {name: value for name, value in SHORT.items() if name not in ("views", "teacher_size", "teacher_norm")}
    asked = untaught | {"teacher": "none", "folds": None}
    assert "folds    5 students more, about " in str(
        pocketvit.distill(str(photos), out=str(tmp_path), plan=True, **asked)
    )
