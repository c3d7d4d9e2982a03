"""The whole road on sixty drawn pictures: what lies there at the end, what is reused, what a stop costs."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import time

import killed_walk
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from walk_fakes import CHOICES, Own

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.files import read_arrays, read_json
from pocketvit.road import label, light, measuring, ship, train
from pocketvit.tasks import task_named
from pocketvit.teachers import load_teacher
from pocketvit.teachers.teacher import hash_tensors
from pocketvit.training import Stepper, read_metrics

pytestmark = pytest.mark.slow


def same_file(one, other):
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def same_students(one, other):
    return all(
        same_file(one / place / "last.safetensors", other / place / "last.safetensors")
        for place in ("checkpoints", "alone/checkpoints")
    )


def test_the_run_folder_holds_what_the_readme_says(walked):
    names = {path.name for path in walked.run.folder.iterdir()}
    wanted = (
        "config.yaml train.log metrics.jsonl checkpoints student model.onnx model-int8.onnx device.zip results.json"
    )
    assert {*wanted.split(), "predictions.npz", "report.html"} <= names
    assert (walked.run.folder / "student" / "README.md").is_file()
    assert not [name for name in names if name.endswith(".part")]
    log = (walked.run.folder / "train.log").read_text()
    assert all(line.strip().splitlines()[0] in log for line in walked.said[-3:])


def test_a_finished_run_is_shown_without_pictures_once_they_are_not_wanted(walked, tmp_path):
    folder = shutil.copytree(walked.run.folder, tmp_path / walked.run.folder.name)
    assert "data:image" in (folder / "report.html").read_text()
    again = pocketvit.distill(resume=str(folder), no_images=True)
    assert "data:image" not in (folder / "report.html").read_text()
    assert again.settings == dataclasses.replace(walked.run.settings, no_images=True)
    pocketvit.distill(resume=str(folder))  # and stays so
    assert "data:image" not in (folder / "report.html").read_text()


def test_the_users_module_is_unchanged(walked):
    """Scenario 5."""
    assert hash_tensors(walked.module) == hash_tensors(Own())
    assert walked.module.training
    assert all(parameter.requires_grad for parameter in walked.module.parameters())


def test_every_stretch_is_announced(walked):
    text = "\n".join(walked.said)
    for words in (
        "train: 48 images",
        "held out",
        "teacher  Own: input 16 px",
        "labels   stored in",
        "student  pocket_xs",
    ):
        assert words in text
    assert "100.0% on test" in text
    assert "no better than" not in text


def test_results_and_table(walked):
    results = walked.run.results
    assert [row["key"] for row in results["rows"]] == [
        "teacher-1",
        "student",
        "int8",
        "alone",
        "teacher-1-int8",
        "against",
    ]
    for row in results["rows"][:5]:
        assert row["status"] == "measured"
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
        assert row["n"] == 6
        assert min(row["parameters"], row["bytes"], row["latency_ms"]["p50"]) > 0
    assert results["rows"][5]["status"] == "not run"
    assert results["dataset"]["counts"] == {"train": 48, "val": 6, "test": 6}
    assert results["dataset"]["scored_on"] == "test"
    assert all((walked.run.folder / place).is_file() for place in results["curves"].values())
    table = str(walked.run.table)
    assert all(words in table for words in ("teacher: Own", "student, distilled", "int8 file", "not run", "interval"))
    assert "<table" in walked.run._repr_html_()
    assert str(walked.run.report) in str(walked.run)
    json.dumps(walked.run.data, allow_nan=False)
    stored = np.load(walked.run.folder / "predictions.npz")
    given, targets = stored["student"], stored["targets"]
    assert results["rows"][1]["accuracy"] == (given.argmax(1) == targets).mean()


def test_predictions_reproduce_the_table_to_the_last_digit(walked):
    """What is stored is what the figures were made of."""
    results, stored = walked.run.results, read_arrays(walked.run.folder / "predictions.npz")
    task, teacher = task_named("classification"), stored["teacher-1"]
    for row in results["rows"][:5]:
        reference = None if row["role"] == "teacher" else task.merged([teacher])
        given = stored[row["key"]]
        again = task.judge(given, stored["targets"], results["dataset"]["classes"], teacher=reference).fields()
        assert {"accuracy", "interval", "ece", "auc"} <= set(again)
        assert {name: row[name] for name in again} == json.loads(json.dumps(again))


def test_figures_of_the_int8_file_and_the_student_are_those_of_the_files(walked):
    rows = {row["key"]: row for row in walked.run.results["rows"]}
    for key, name in (("student", "model.onnx"), ("int8", "model-int8.onnx")):
        assert rows[key]["bytes"] == (walked.run.folder / name).stat().st_size
    assert rows["int8"]["parameters"] == rows["student"]["parameters"]
    assert rows["int8"]["bytes"] < rows["student"]["bytes"] / 3


def test_the_run_predicts_and_gives_its_student(walked, photos):
    files = sorted((photos / "red").iterdir())[:3]
    found = walked.run.predict(files)
    assert [entry["file"] for entry in found] == [str(file) for file in files]
    assert all(entry["label"] in ("blue", "green", "red") for entry in found)
    assert not walked.run.student.training
    with torch.no_grad():
        assert walked.run.student(torch.zeros(2, 3, 16, 16)).shape == (2, 3)


def test_a_finished_run_is_not_walked_again(walked, monkeypatch):
    monkeypatch.setattr("pocketvit.road.begin.begin", None)
    again = pocketvit.distill(resume=str(walked.run.folder))
    assert again.folder == walked.run.folder


class Stop(Exception):
    pass


def stopping(*_, **__):
    raise Stop


def test_another_student_reuses_packs_and_labels(walked, photos, monkeypatch, caplog):
    """Scenario 4: the second run says what it saved."""
    monkeypatch.setattr(train, "train_network", stopping)
    caplog.set_level("INFO", "pocketvit")
    choices = CHOICES | {"student": "pocket_s", "seed": 5}
    with pytest.raises(Stop):
        pocketvit.distill(str(photos), teacher=Own(), out=str(walked.run.folder.parent), **choices)
    assert "labels   reused from" in caplog.text
    assert "which saved about" in caplog.text
    assert "labelling" not in caplog.text


def test_objectives_on_features_are_the_students_alone(photos, tmp_path, monkeypatch):
    """The baseline has no teacher whose features it could match."""
    monkeypatch.setattr(ship, "calibrate", stopping)
    with pytest.raises(Stop):
        pocketvit.distill(str(photos), teacher=Own(), out=str(tmp_path), match="rkd", **CHOICES)
    (run,) = tmp_path.glob("photos-*")
    student, alone = (read_metrics(place / "metrics.jsonl")[0]["terms"] for place in (run, run / "alone"))
    assert "rkd" in student
    assert "rkd" not in alone


def test_another_teacher_joins_the_store(walked, photos, monkeypatch, caplog):
    monkeypatch.setattr(train, "train_network", stopping)
    caplog.set_level("INFO", "pocketvit")
    other = Own()
    with torch.no_grad():
        other.head.bias += 0.5
    with pytest.raises(Stop):
        pocketvit.distill(str(photos), teacher=other, out=str(walked.run.folder.parent), **CHOICES)
    assert "labels   stored in" in caplog.text
    (store,) = (walked.run.folder.parent / "shared" / "labels").iterdir()
    assert sorted(path.name[:-9] for path in store.iterdir() if path.is_dir()) == ["Own", "Own", "Own-stem", "Own-stem"]


def press(*_, **__):
    raise KeyboardInterrupt


def test_interrupted_in_every_stretch_and_resumed_equals_unbroken(walked, photos, tmp_path, monkeypatch):
    """Scenario 6: Ctrl-C while labelling, training, comparing and exporting; the final weights and figures agree."""

    def distill(resume=True):
        return pocketvit.distill(str(photos), teacher=Own(), out=str(tmp_path), resume=resume, **CHOICES)

    def press_at_step(count):
        take = Stepper.take
        taken = []

        def interrupted(self, batches):
            taken.append(self.step)
            if len(taken) == count:
                raise KeyboardInterrupt
            return take(self, batches)

        return interrupted

    stops = [
        (label, "label_road", press),
        (Stepper, "take", press_at_step(9)),  # the student's second epoch
        (Stepper, "take", press_at_step(7)),  # after its 4 remaining steps, the baseline's
        (ship, "write_student", press),
    ]
    for number, (place, name, action) in enumerate(stops):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, action)
            with pytest.raises(KeyboardInterrupt):
                distill(resume=number > 0)
    assert [path.name for path in tmp_path.iterdir() if path.name != "shared"] == ["photos-1"]
    monkeypatch.setattr(measuring, "_onnx_file", lambda entry, *_: entry.file)  # exports that only cost time here
    run = distill()
    assert same_students(run.folder, walked.run.folder)
    assert same_file(run.folder / "student/model.safetensors", walked.run.folder / "student/model.safetensors")
    mine, theirs = (np.load(folder / "predictions.npz") for folder in (run.folder, walked.run.folder))
    assert all(np.array_equal(mine[key], theirs[key]) for key in ("student", "alone", "int8", "targets"))


def test_killed_hard_and_resumed_equals_unbroken(walked, photos, tmp_path):
    processes = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")

    def start(pause, resume):
        (tmp_path / "started").unlink(missing_ok=True)
        process = processes.Process(target=killed_walk.go, args=(photos, tmp_path, pause, resume))
        process.start()
        return process

    process = start(0.1, resume=False)
    while not (tmp_path / "photos-1" / "checkpoints" / "last.safetensors").exists():
        assert process.is_alive()
        time.sleep(0.01)
    time.sleep(random.uniform(0.0, 2.0))
    process.kill()
    process.join()
    assert not (tmp_path / "trained").exists()
    last = start(0.0, resume=True)
    last.join()
    assert (tmp_path / "trained").exists()
    assert same_students(tmp_path / "photos-1", walked.run.folder)


def test_images_without_any_label_are_enough(photos, tmp_path, monkeypatch):
    """The teacher's classes are then the student's; nothing is scored but agreement."""
    monkeypatch.setattr(measuring, "_onnx_file", lambda entry, *_: entry.file)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in photos.rglob("*.png"):
        shutil.copy(path, flat / f"{path.parent.name}-{path.name}")
    teacher = load_teacher(Own(), input_size=16, norm="half", classes=("blue", "green", "red"))
    choices = CHOICES | {"epochs": 1, "views": 1, "out": str(tmp_path / "runs")}
    with pytest.raises(
        PocketError, match="--against test_resnet: it is fine-tuned on labels, and the images have none"
    ):
        pocketvit.distill(str(flat), teacher=teacher, against="test_resnet", **choices)
    run = pocketvit.distill(str(flat), teacher=teacher, **choices)
    rows = {row["key"]: row for row in run.data["rows"]}
    assert rows["student"]["accuracy"] is None
    assert 0 <= rows["student"]["agreement"] <= 1
    assert [rows[key]["status"] for key in ("alone", "against")] == ["not run", "not run"]
    assert "unknown" in str(run.table)
    assert run.predict(photos / "red" / "00.png")[0]["label"] in ("blue", "green", "red")


def test_other_choices_are_not_mixed_into_a_run(walked, photos):
    with pytest.raises(PocketError, match="epochs: 2 -> 3"):
        pocketvit.distill(
            str(photos), teacher=Own(), out=str(walked.run.folder.parent), resume=True, name="photos",
            **CHOICES | {"epochs": 3},
        )  # fmt: skip


def test_without_any_teacher_the_student_learns_the_labels_alone(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(light, "train_teacher", lambda *a, **k: pytest.fail("a teacher was made"))
    run = pocketvit.distill(
        str(photos), teacher="none", out=str(tmp_path),
        **{name: value for name, value in CHOICES.items() if not name.startswith(("teacher_", "views"))},
    )  # fmt: skip
    assert [row["key"] for row in read_json(run.folder / "results.json")["rows"]] == ["student", "int8"]
    assert "without a teacher" not in str(run.table)
    assert not (tmp_path / "shared" / "labels").exists()
    assert run.predict(next(photos.rglob("*.png")))
