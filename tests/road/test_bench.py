"""`bench runs/*` measures the runs that are there."""

from __future__ import annotations

import shutil
import types

import pytest
import torch
from walk_fakes import SIDE, make_own

import pocketvit
from pocketvit.deployment.opening import open_model
from pocketvit.errors import PocketError
from pocketvit.models.detector import create_detector
from pocketvit.models.saving import save_model
from pocketvit.road.bench import _check_same, measurable
from pocketvit.tasks import task_named
from pocketvit.views.preprocessing import Preprocessing


def test_what_runs_share_and_unfinished_runs_are_left_out(tmp_path, caplog):
    for name in ("photos-1/student", "photos-2", "shared/labels"):
        (tmp_path / name).mkdir(parents=True)
    given = [str(tmp_path / name) for name in ("photos-1", "photos-2", "shared")]
    assert measurable([*given, "resnet18"]) == [given[0], "resnet18"]
    assert "left out" in caplog.text
    assert measurable(given[2:]) == given[2:]  # it says itself what is wrong


def test_images_may_have_none_of_a_class_that_the_model_knows(walked, photos, tmp_path, caplog):
    caplog.set_level("INFO", "pocketvit")
    few = shutil.copytree(photos, tmp_path / "few")
    rare = sorted(walked.run.results["dataset"]["classes"])[-1]
    for folder in [path for path in few.rglob(rare) if path.is_dir()]:
        shutil.rmtree(folder)
    whole, part = (pocketvit.bench(walked.run.folder, images=str(place)).data["rows"][0] for place in (photos, few))
    assert f"no images of {rare}, which the models know" in caplog.text
    assert 0 < part["n"] < whole["n"]
    assert 0 <= part["accuracy"] <= 1


def test_weights_beside_a_function_are_what_is_measured(photos, tmp_path):
    state = make_own().state_dict()
    state["head.weight"] = state["head.weight"].flip(0)  # blue for red
    torch.save(state, tmp_path / "other.pth")
    options = {"images": str(photos), "input_size": SIDE, "norm": "half"}
    own = pocketvit.bench("walk_fakes:make_own", **options).data["rows"][0]
    other = pocketvit.bench("walk_fakes:make_own", weights=str(tmp_path / "other.pth"), **options).data["rows"][0]
    assert own["accuracy"] == 1
    assert other["accuracy"] < 0.5


def test_a_folder_that_export_wrote_is_measured_and_answers(walked, tmp_path):
    out = tmp_path / "out"
    pocketvit.export(walked.run.folder, out=str(out))
    row = pocketvit.bench(str(out)).data["rows"][0]
    assert row["bytes"] == (out / "model-int8.onnx").stat().st_size
    assert open_model(out).classes == open_model(walked.run.folder).classes


def test_a_detectors_folder_is_exported_as_one(tmp_path):
    model = create_detector("pocket_xxs", num_classes=2, image_size=32).eval()
    about = Preprocessing.plain((32, (0.5,) * 3, (0.5,) * 3))
    save_model(model, tmp_path / "student", classes=("a", "b"), preprocessing=about, task=task_named("detection"))
    row = pocketvit.bench(str(tmp_path / "student")).data["rows"][0]
    assert "does not export" not in str(row.get("note"))
    assert row["memory_mb"] is not None


def test_another_task_is_told_before_other_classes(walked):
    model = open_model(walked.run.folder)
    source = types.SimpleNamespace(classes=("a", "b", "c"))
    with pytest.raises(PocketError, match="answers a classification task, and the images are a detection set"):
        _check_same("it", model.classes, model.task, source, task_named("detection"))
    with pytest.raises(PocketError, match=r"but the images have a, b, c\. Score it"):
        _check_same("it", model.classes, model.task, source, model.task)


def test_a_folder_of_test_images_alone_is_scored_whole(walked, photos, tmp_path):
    whole = shutil.copytree(photos, tmp_path / "whole")
    classes = [folder for folder in whole.iterdir() if folder.is_dir()]
    place = tmp_path / "alone/test"
    for folder in classes:
        shutil.copytree(folder, place / folder.name)
    row = pocketvit.bench(walked.run.folder, images=str(tmp_path / "alone")).data["rows"][0]
    assert row["n"] == sum(len(list(folder.iterdir())) for folder in classes)


def test_classes_without_names_are_to_be_named_first(road):
    source, task = road.dataset.train, task_named("classification")
    unnamed = [f"class {number}" for number in range(len(source.classes))]
    with pytest.raises(PocketError, match="pocketvit export runs/a-1 --classes") as caught:
        _check_same("runs/a-1", unnamed, task, source, task)
    assert ",".join(source.classes) in str(caught.value)
