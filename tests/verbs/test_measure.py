"""Rows of the honest table: what is measured, of what, and what is missing."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn
from verbs_fakes import SIDE, Own

from pocketvit.config import ViewConfig
from pocketvit.deployment import export_onnx
from pocketvit.tasks.classification import evaluate
from pocketvit.teachers import load_teacher
from pocketvit.verbs import measure
from pocketvit.verbs.measure import Entry, measure_rows

HALF = ((0.5,) * 3, (0.5,) * 3)


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
    mean, std = HALF
    view = ViewConfig(view_size=SIDE)
    export_onnx(Own().eval(), path, image_size=SIDE, mean=mean, std=std, classes=("blue", "green", "red"), view=view)
    return path


def test_a_row_of_a_file_a_teacher_and_a_network_that_does_not_export(road, exported):
    source = road.dataset.test
    teacher = load_teacher(Own(), input_size=SIDE, norm="half", classes=source.classes)
    right = np.eye(3, dtype=np.float32)[source.targets]
    wrong = np.roll(right, 1, axis=1)
    live = Own().eval()
    entries = [
        measure.teacher_entry(teacher, right, 1),
        Entry("file", "file", "student", SIDE, live, exported, measure.file_answers(exported, source)),
        Entry("odd", "odd", "other", SIDE, Unusual(), None, wrong, note="mine"),
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
    assert arrays["odd"].dtype == np.float16
    json.dumps(rows, allow_nan=False)


def test_without_images_only_costs_are_measured(exported):
    (row,), arrays = measure_rows(None, [Entry("file", "file", "other", SIDE, file=exported)])
    assert "accuracy" not in row
    assert row["latency_ms"]["p50"] > 0
    assert arrays == {}


def test_images_without_labels_give_agreement_alone(road, exported):
    source = road.dataset.test
    source.targets = np.full_like(source.targets, -1)
    given = measure.file_answers(exported, source)
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
    live = measure.answers(Own().eval(), source, road.view, (SIDE, *HALF))
    assert measure.file_answers(exported, source) == pytest.approx(live, abs=1e-4)
    assert measure.answers(Own(), None, road.view, (SIDE, *HALF)) is None


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
    report = measure.token_report(TwoTokens(), entries, source, road.view, (SIDE, *HALF))
    assert report["teachers"] == ["exact", "next"]
    assert report["n"] == 6
    assert report["agreement"][1:] == [[1.0, 0.0], [0.0, 1.0]]
    assert report["kl"][0] == pytest.approx([np.log(3)] * 2)
    json.dumps(report, allow_nan=False)


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
    assert measure.command_line() == said
