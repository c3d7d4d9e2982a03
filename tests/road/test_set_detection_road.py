"""A set detector walks the same road: from true boxes and from stored ones, resumed, exported, packed."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pocketvit import distill, predict, train
from pocketvit.config import LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.errors import PocketError
from pocketvit.models import SetDetector, load_model
from pocketvit.road.images import open_road
from pocketvit.road.train import train_network
from pocketvit.rundir import Run
from pocketvit.training.step import Stepper

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))
from drawn_boxes import CLASSES, scenes, write_voc

pytest.importorskip("transformers.models.lw_detr")
pytestmark = pytest.mark.slow
CHOICES = {
    "detector": "detr", "size": 32, "precision": "fp32", "batch_size": 8, "augment": "none", "epochs": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn():
    return scenes({"train": 16, "val": 4, "test": 8})


@pytest.fixture(scope="module")
def voc(drawn, tmp_path_factory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc") / "scenes", drawn)


@pytest.fixture(scope="module")
def predictions(drawn, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "predictions.json"
    entries = [
        {"image_id": scene.name, "category_id": sorted(CLASSES).index(label), "bbox": [x0, y0, x1 - x0, y1 - y0],
         "score": 0.9}
        for scene in drawn for label, x0, y0, x1, y1 in scene.boxes
    ]  # fmt: skip
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture(scope="module")
def walked(voc, predictions, tmp_path_factory) -> Run:
    out = str(tmp_path_factory.mktemp("runs"))
    return distill(str(voc), teacher_labels=str(predictions), student="pocket_xxs", views=2, out=out, **CHOICES)


def test_it_learns_stored_boxes_and_its_files_answer_alike(walked, voc, tmp_path):
    rows = {row["key"]: row for row in walked.results["rows"]}
    for key in ("student", "alone"):
        assert 0 <= rows[key]["map"] <= rows[key]["map_50"] <= 1
    student = load_model(walked.folder / "student").module
    assert isinstance(student, SetDetector)
    lines = [json.loads(line) for line in (walked.folder / "metrics.jsonl").read_text().splitlines()]
    assert {"teacher_0_classes", "teacher_0_sides", "teacher_0_giou", "giou"} <= set(lines[-1]["terms"])
    picture = next((voc / "JPEGImages").iterdir())
    with zipfile.ZipFile(walked.folder / "device.zip") as archive:
        archive.extractall(tmp_path)
    command = [sys.executable, "-c", f"import predict; print(predict.Model()(predict.load({str(picture)!r})).tolist())"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    theirs = np.array(json.loads(done.stdout)).reshape(-1, 6)
    from pocketvit.deployment.opening import open_model
    from pocketvit.road.ship import shipped

    ours = open_model(shipped(walked.folder)).label([np.asarray(Image.open(picture))])[0]
    ours = ours[ours[:, 4] > 0]
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(theirs, ours, atol=2e-3)
    assert len(predict(str(walked.folder), picture).data["predictions"]) == 1


def test_a_stopped_training_goes_on_to_the_same_weights(voc, tmp_path, monkeypatch):
    view = ViewConfig(view_size=32, fit="pad", flip=0.5)
    road = open_road(str(voc), view, tmp_path / "shared")
    config = RunConfig(
        network=NetworkConfig("pocket_xxs", detector="detr"),
        view=view,
        loss=LossConfig(weight=0.0),
        train=TrainConfig(epochs=2, batch_size=8, precision="fp32"),
    )
    whole = train_network(road, config, tmp_path / "whole").state_dict()
    take, taken = Stepper.take, []

    def stopped(self, batches):
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return take(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "take", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_network(road, config, tmp_path / "parts")
    resumed = train_network(road, config, tmp_path / "parts").state_dict()
    assert len(taken) == 4
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_what_it_cannot_do_is_refused(voc, predictions, tmp_path):
    from walk_fakes import draw_photos

    given = {"teacher_labels": str(predictions), "out": str(tmp_path)}
    for options, said in (
        ({"objective": "grid"}, "--objective grid"),
        ({"size": 40}, "--size 40: .* Give --size 48"),
        ({"student": "resnet18"}, "puts a decoder on a ViT"),
    ):
        with pytest.raises(PocketError, match=said):
            distill(str(voc), **given, **CHOICES | {"student": "pocket_xxs"} | options)
    with pytest.raises(PocketError, match="--detector detr finds boxes, and these images have none"):
        train(str(draw_photos(tmp_path / "photos", count=4)), model="pocket_xxs", out=str(tmp_path), **CHOICES)
