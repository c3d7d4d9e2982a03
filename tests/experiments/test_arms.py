"""Experiments: every arm with every seed, resumable, compared over paired seeds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from walk_fakes import SIDE, Own, run_config

from pocketvit.config import TrainConfig, ViewConfig
from pocketvit.experiments import Arm, arms, tables
from pocketvit.files import read_json
from pocketvit.road.images import open_road
from pocketvit.sources import open_images
from pocketvit.teachers import load_teacher
from pocketvit.training.metrics import read_metrics


@pytest.fixture
def two(road):
    short = run_config()
    other = dataclasses.replace(short, train=TrainConfig(epochs=1, batch_size=8, precision="fp32"))
    return [Arm("plain", "plain", short), Arm("small", "small batches", other)]


def records(*accuracies):
    return [
        {"accuracy": value, "n": 100, "ece": 0.1, "min_class": 0.5, "seconds": 2.0, "steps": 3} for value in accuracies
    ]


def test_arms_are_trained_reported_and_not_trained_again(road, two, tmp_path, monkeypatch):
    found = arms.run_arms(road, two, [0, 1], tmp_path)
    assert {key: len(value) for key, value in found.items()} == {"plain": 2, "small": 2}
    assert all(record["n"] == 6 for record in found["plain"])
    assert [record["steps"] for record in (found["plain"][0], found["small"][0])] == [3, 6]
    text = tables.report_arms(road, two, found, tmp_path, against="plain", title="Batches")
    assert "| plain |" in text
    assert "| small batches |" in text
    assert "2 seeds" in text
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "table.md").read_text() == text + "\n"
    rows = read_json(tmp_path / "results.json")["rows"]
    assert all(0 <= row["auc"] <= 1 for row in rows if row["role"] != "teacher")  # as the table in the terminal has it
    assert [row["interval"] for row in rows] == [None, None]  # what seeds differ by is no interval over images
    with monkeypatch.context() as patch:
        patch.setattr(arms, "train_network", None)
        assert arms.run_arms(road, two, [0, 1], tmp_path) == found


def test_seeds_are_the_outer_loop_and_an_interruption_costs_one_arm(road, two, tmp_path, monkeypatch):
    order = []

    def train(road, arm, seed, place, consensus):
        order.append((arm.key, seed))
        if len(order) == 4:
            raise KeyboardInterrupt
        return records(0.5)[0]

    monkeypatch.setattr(arms, "_train", train)
    with pytest.raises(KeyboardInterrupt):
        arms.run_arms(road, two, [0, 1], tmp_path)
    arms.run_arms(road, two, [0, 1], tmp_path)
    assert order == [("plain", 0), ("small", 0), ("plain", 1), ("small", 1), ("small", 1)]


def test_teachers_of_a_single_group_have_no_interval_and_arms_say_whether_they_are_calibrated(
    road, two, tmp_path, monkeypatch
):
    found = {arm.key: [one | {"calibrated": False} for one in records(0.9)] for arm in two}
    teacher = load_teacher(Own(), input_size=SIDE, norm="half", classes=("blue", "green", "red"))
    judge = type(road.task).judge

    def one_group(self, *given, **others):
        judged = judge(self, *given, **others)
        return dataclasses.replace(judged, scores=dataclasses.replace(judged.scores, interval=None))

    monkeypatch.setattr(type(road.task), "judge", one_group)
    text = tables.report_arms(road, two, found, tmp_path, against="plain", title="One", teachers=[teacher])
    assert "no interval: one group of images" in text
    assert "| 90.00 |" in text  # of one seed, without a spread
    rows = read_json(tmp_path / "results.json")["rows"]
    assert [row["interval"] for row in rows] == [None] * 3
    assert [row["calibrated"] for row in rows] == [False] * 3


def test_differences_are_paired_over_the_seeds_that_both_have(two):
    found = {"plain": records(0.50, 0.60, 0.70), "small": records(0.60, 0.71, 0.79)}
    difference = tables._difference(found["small"], found["plain"])
    assert difference.mean == pytest.approx(0.10)
    assert difference.interval[0] == pytest.approx(0.10 - 4.303 * 0.01 / np.sqrt(3), abs=1e-4)  # t, 2 degrees
    text = tables.table(two, found, "plain")
    assert "| plain | 60.00 ± 10.00 | - | 0.100 | 2 |" in text
    assert "+10.00 (+7.52 to +12.48)" in text


def test_what_cannot_be_told_apart_is_said(two):
    found = {"plain": records(0.50, 0.60, 0.70), "small": records(0.70, 0.60, 0.50)}
    assert "no difference seen" in tables.table(two, found, "plain")
    assert "(one seed)" in tables.table(two, {"plain": records(0.5), "small": records(0.6)}, "plain")


def test_without_teachers_an_arm_learns_labelled_images_alone_in_as_many_steps(road, two, tmp_path, monkeypatch):
    few = road.with_few_labels(6)
    shown = []
    train = arms.train_network

    def noted(road, *args, **kwargs):
        shown.append(road.dataset.train.targets)
        return train(road, *args, **kwargs)

    monkeypatch.setattr(arms, "train_network", noted)
    (record,) = arms.run_arms(few, two[:1], [0], tmp_path)["plain"]
    (targets,) = shown
    assert len(targets) == len(few.dataset.train)
    assert (targets >= 0).all()
    assert record["seconds"] == read_metrics(tmp_path / "plain" / "seed-0" / "metrics.jsonl")[-1]["elapsed"]


def test_tiles_are_judged_as_the_images_that_they_are_of(photos, two, tmp_path):
    dataset = open_images(str(photos), tile=8, progress=False)
    road = open_road(dataset, ViewConfig(view_size=8), tmp_path / "shared")
    small = dataclasses.replace(two[0].config, view=road.view)
    found = arms.run_arms(road, [Arm("plain", "plain", small)], [0], tmp_path / "arms")
    assert found["plain"][0]["n"] == 6
    text = tables.report_arms(road, [Arm("plain", "plain", small)], found, tmp_path / "arms", against="plain", title="")
    assert "Scored on 6 test images" in text
