"""Rows of the honest table: what is measured, of what, and what is missing."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.models.fastvit import MobileOneBlock
from torch import nn
from walk_fakes import SIDE, Own

from pocketvit.deployment import count_parameters
from pocketvit.deployment.export import export_onnx
from pocketvit.metrics import evaluate
from pocketvit.road import measuring, report, score
from pocketvit.road.answering import answers, file_answers, network_answers
from pocketvit.road.measuring import Entry
from pocketvit.tasks import task_named
from pocketvit.teachers import load_teacher
from pocketvit.views.preprocessing import Preprocessing

HALF = ((0.5,) * 3, (0.5,) * 3)


def measure_rows(source, entries, *, task="classification", validation=None):
    return measuring.measure_rows(entries, task_named(task), source=source, validation=validation)


def said_of(path, source, view):
    """What an exported file answers to a split."""
    return answers({"": file_answers(path)}, source, view, task_named("classification"))[""]


class Unusual(nn.Module):
    """A network that neither exports nor can be counted, as a user's may be."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5))

    def forward(self, x):
        rows = [[float(picture.sum()), 0.0, 0.0] for picture in x]  # leaves the graph
        return torch.tensor(rows)


@pytest.fixture
def exported(tmp_path):
    path = tmp_path / "own.onnx"
    about = Preprocessing.plain((SIDE, *HALF))
    export_onnx(Own().eval(), path, classes=("blue", "green", "red"), preprocessing=about)
    return path


def test_a_network_like_another_has_its_costs_and_answers_of_its_own(road, exported, monkeypatch):
    source, answered = road.dataset.test, np.eye(3, dtype=np.float32)[road.dataset.test.targets]
    student = Entry("student", "student", "student", SIDE, model=Own().eval(), file=exported, probabilities=answered)
    alone = Entry("alone", "alone", "baseline", SIDE, model=Own().eval(), probabilities=1 - answered, like="student")
    monkeypatch.setattr(measuring, "export_quietly", None)  # not called
    rows, _ = measure_rows(source, [student, alone])
    for name in ("parameters", "flops", "bytes", "latency_ms", "memory_mb"):
        assert rows[0][name] == rows[1][name]
    assert (rows[0]["accuracy"], rows[1]["accuracy"]) == (1.0, 0.0)


def test_a_row_of_a_file_a_teacher_and_a_network_that_does_not_export(road, exported):
    source = road.dataset.test
    teacher = load_teacher(Own(), input_size=SIDE, norm="half", classes=source.classes)
    right = np.eye(3, dtype=np.float32)[source.targets]
    wrong = np.roll(right, 1, axis=1)
    live = Own().eval()
    entries = [
        measuring.teacher_entry(teacher, road, 1),
        Entry(
            "file", "file", "student", SIDE, None, live, exported, probabilities=said_of(exported, source, road.view)
        ),
        Entry("odd", "odd", "other", SIDE, None, Unusual(), probabilities=wrong, note="mine"),
    ]
    rows, arrays = measure_rows(source, entries)
    first, file, odd = rows
    assert [row["key"] for row in rows] == ["teacher-1", "file", "odd"]
    assert (first["accuracy"], file["accuracy"], odd["accuracy"]) == (1.0, 1.0, 0.0)
    assert "agreement" not in first or first["agreement"] is None
    assert (file["agreement"], odd["agreement"]) == (1.0, 0.0)
    assert file["interval"] == list(evaluate(right, source.targets).interval)
    assert file["bytes"] == exported.stat().st_size
    assert file["parameters"] == sum(p.numel() for p in live.parameters())
    assert file["latency_ms"]["p50"] <= file["latency_ms"]["p90"]
    assert "in PyTorch: it does not export to ONNX" in odd["note"]
    assert odd["note"].startswith("mine")
    assert odd["parameters"] == 5
    assert odd["bytes"] == 20
    assert set(arrays) == {"teacher-1", "file", "odd", "targets", "names"}
    assert arrays["odd"].dtype == np.float32
    json.dumps(rows, allow_nan=False)


def test_a_teachers_own_file_agrees_with_that_teacher(road, exported):
    source = road.dataset.test
    right = np.eye(3, dtype=np.float32)[source.targets]
    wrong = np.roll(right, 1, axis=1)
    entries = [
        Entry("teacher-1", "teacher: sure", "teacher", SIDE, file=exported, probabilities=0.9 * right + 0.05),
        Entry("teacher-2", "teacher: wrong", "teacher", SIDE, file=exported, probabilities=0.5 * wrong + 0.25),
        Entry("teacher-2-int8", "int8", "teacher-int8", SIDE, file=exported, probabilities=wrong),
        Entry("student", "student", "student", SIDE, file=exported, probabilities=wrong),
    ]
    rows, _ = measure_rows(source, entries)
    assert [row.get("agreement") for row in rows[2:]] == [1.0, 0.0]


def test_without_images_only_costs_are_measured(exported):
    (row,), arrays = measure_rows(None, [Entry("file", "file", "other", SIDE, file=exported)])
    assert "accuracy" not in row
    assert row["latency_ms"]["p50"] > 0
    assert arrays == {}


def test_images_without_labels_give_agreement_alone(road, exported):
    source = road.dataset.test
    source.targets = np.full_like(source.targets, -1)
    given = said_of(exported, source, road.view)
    entries = [
        Entry("t", "t", "teacher", SIDE, file=exported, probabilities=given),
        Entry("s", "s", "student", SIDE, file=exported, probabilities=given),
    ]
    rows, _ = measure_rows(source, entries)
    assert rows[1]["agreement"] == 1.0
    assert rows[1]["accuracy"] is None
    json.dumps(rows, allow_nan=False)


def test_answers_of_a_file_are_those_of_its_network(road, exported):
    source = road.dataset.test
    both = {"file": file_answers(exported), "live": network_answers(Own(), (SIDE, *HALF), road.task)}
    given = answers(both, source, road.view, road.task, road.pixels(source))
    assert given["file"] == pytest.approx(given["live"], abs=1e-4)
    assert np.array_equal(answers(both, source, road.view, road.task)["live"], given["live"])


class TwoTokens(nn.Module):
    """A class head that knows nothing, a token that says what `Own` says, and one that says the next class."""

    def __init__(self):
        super().__init__()
        self.own = Own()

    def forward_heads(self, x):
        logits = self.own(x)
        return torch.zeros_like(logits), logits, logits.roll(1, 1)


def test_the_report_of_tokens_compares_each_head_with_each_teacher(road):
    source = road.dataset.test
    right = np.eye(3, dtype=np.float32)[source.targets]
    entries = [
        Entry("teacher-1", "teacher: exact", "teacher", SIDE, probabilities=right),
        Entry("teacher-2", "teacher: next", "teacher", SIDE, probabilities=np.roll(right, 1, axis=1)),
    ]
    report = score.token_report(TwoTokens(), entries, road, (SIDE, *HALF))
    assert report["teachers"] == ["exact", "next"]
    assert report["n"] == 6
    assert report["agreement"][1:] == [[1.0, 0.0], [0.0, 1.0]]
    assert report["kl"][0] == pytest.approx([np.log(3)] * 2)
    json.dumps(report, allow_nan=False)
    source.groups = np.array([4, 4, 4, 4, 9, 9])
    assert score.token_report(TwoTokens(), entries, road, (SIDE, *HALF))["pulls"][0]["n"] == 2  # patients, not images


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["/usr/bin/pocketvit", "distill", "photos"], "pocketvit distill photos"),
        (["pocketvit/__main__.py", "demo"], "pocketvit demo"),
        (["study.py", "x"], "pocketvit, called from Python (study.py)"),
        ([""], "pocketvit, called from Python"),
    ],
)
def test_the_command_that_made_the_figures(monkeypatch, argv, said):
    monkeypatch.setattr(sys, "argv", argv)
    assert report.command_line() == said


class TwoSplits:
    """The parts of a road that say where an operating point is chosen."""

    def __init__(self, classes=2, val=(0, 1), scored="test", task="classification"):
        self.task = task_named(task)
        self.dataset = SimpleNamespace(
            val=SimpleNamespace(targets=np.array(val)) if val is not None else None, classes=("a", "b", "c")[:classes]
        )
        self.scored = self.dataset.val if scored == "val" else SimpleNamespace(targets=np.array([0, 1]))


def test_a_point_is_chosen_on_labelled_validation_images_of_two_classes_that_are_not_scored():
    road = TwoSplits()
    assert measuring.point_source(road) is road.dataset.val
    others = (
        {"classes": 3}, {"val": None}, {"val": (-1, -1)}, {"scored": "val"},
        {"val": ((0, 1), (1, 1)), "task": "multilabel"},
    )  # fmt: skip
    assert [measuring.point_source(TwoSplits(**options)) for options in others] == [None] * 5


def two_classes(source):
    """The images of a source as two classes: blue, and the rest."""
    source.targets = np.minimum(source.targets, 1)
    source.classes = ("normal", "ill")
    return source


def test_the_operating_point_of_a_row_comes_from_its_validation_answers(road, exported):
    test, val = two_classes(road.dataset.test), two_classes(road.dataset.val)

    def leaning(targets, ill):
        """Every ill image gets ``ill``, every other 0.1."""
        p = np.where(targets == 1, ill, 0.1)
        return np.stack([1 - p, p], 1).astype(np.float32)

    own = leaning(test.targets, 0.4)
    chosen = Entry("a", "a", "other", SIDE, file=exported, probabilities=own, validation=leaning(val.targets, 0.3))
    blind = Entry("b", "b", "other", SIDE, file=exported, probabilities=own)
    (first, second), _ = measure_rows(test, [chosen, blind], validation=val)
    assert first["accuracy"] < 1
    assert (first["sensitivity"], first["specificity"], first["auc"]) == (1.0, 1.0, 1.0)
    assert (first["positive"], first["threshold"]) == ("ill", pytest.approx(0.2))
    assert first["chosen"] == f"Youden's J on {len(val)} validation images"
    assert "sensitivity" not in second
    json.dumps([first, second], allow_nan=False)


def test_patients_and_grades_reach_the_rows(road, exported):
    source = road.dataset.test
    source.groups = np.arange(len(source)) // 2
    p = np.full((len(source), 3), 1 / 3, np.float32)
    (row,), _ = measure_rows(source, [Entry("a", "a", "other", SIDE, file=exported, probabilities=p)], task="ordinal")
    assert row["groups"] == 3
    assert row["kappa"] == 0.0
    assert row["mae"] == pytest.approx(source.targets.mean())


def test_reliability_is_reported_before_and_after_the_temperature(road):
    source = road.dataset.test
    sure = 0.97 * np.eye(3)[source.targets] + 0.01
    shy = 0.4 * np.eye(3)[source.targets] + 0.2
    curves = score.reliability_report(sure, shy, source, road.task)
    assert curves["before"] == {"confidence": [pytest.approx(0.98)], "accuracy": [1.0], "counts": [6]}
    assert curves["after"]["confidence"] == [pytest.approx(0.6)]
    assert list(score.reliability_report(sure, None, source, road.task)) == ["before"]
    source.targets = np.full_like(source.targets, -1)
    assert score.reliability_report(sure, shy, source, road.task) is None
    assert score.reliability_report(None, None, None, road.task) is None


def test_parameters_and_operations_are_those_of_the_file():
    """A file has one convolution where training had branches; a network that does not export has them all."""
    torch.manual_seed(0)
    model = nn.Sequential(MobileOneBlock(3, 8, 3, num_conv_branches=4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    [row], _ = measure_rows(None, [Entry("other-0", "own", "other", SIDE, model=model)])
    assert row["parameters"] == 8 * 3 * 9 + 8
    assert row["flops"] == 2 * 8 * 3 * 9 * SIDE**2
    assert row["bytes"] < 4 * count_parameters(model) + 5000
    assert count_parameters(model) > 4 * row["parameters"]
