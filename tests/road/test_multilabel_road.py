"""Several labels an image walk the whole road: from a file of them to a student, its files and its report."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from walk_fakes import CHOICES, SIDE

from pocketvit import compare, distill, label, predict, train
from pocketvit.errors import PocketError
from pocketvit.labels import LabelStore
from pocketvit.models import load_model
from pocketvit.rundir import Run
from pocketvit.sources import open_images

pytestmark = pytest.mark.slow
COUNT = {"train": 64, "val": 24, "test": 24}


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose red, green and blue are each bright or dark: one label a channel, all independent."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, 3))
    noise = rng.integers(-30, 30, (count, SIDE, SIDE, 3))
    images = 60 + 130 * labels[:, None, None, :] + noise
    return images.clip(0, 255).astype(np.uint8), labels


class Channels(nn.Module):
    """A user's network that knows the three labels without training."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            self.head.weight.copy_(8 * torch.eye(3))
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def lights(tmp_path_factory) -> Path:
    """A file as MedMNIST lays it out, of 0 and 1 [n, 3]."""
    arrays = {}
    for number, (split, count) in enumerate(COUNT.items()):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = draw(count, number)
    path = tmp_path_factory.mktemp("lights") / "lights.npz"
    np.savez(path, **arrays)
    return path


@dataclass
class Walked:
    run: Run
    picture: Path  # all three labels
    dark: Path  # none


@pytest.fixture(scope="module")
def walked(lights, tmp_path_factory) -> Walked:
    out = tmp_path_factory.mktemp("several")
    choices = CHOICES | {"epochs": 24, "lr": 3e-3, "augment": "none"}
    run = distill(str(lights), teacher=Channels(), out=str(out), **choices)
    paths = []
    for name, grey in (("bright.png", 190), ("dark.png", 60)):
        paths.append(out / name)
        Image.fromarray(np.full((SIDE, SIDE, 3), grey, np.uint8)).save(paths[-1])
    return Walked(run, *paths)


def row(run: Run, key: str) -> dict:
    return next(row for row in run.results["rows"] if row["key"] == key)


def test_the_loss_is_chosen_and_the_student_learns_all_labels(walked):
    assert walked.run.settings.objective == "mld"
    assert walked.run.results["dataset"]["task"] == "multilabel"
    for key in ("student", "int8"):
        figures = row(walked.run, key)
        assert figures["accuracy"] > 0.9
        assert figures["auc"] > 0.95
        assert len(figures["class_auc"]) == 3
        assert "min_class" not in figures
        assert figures["agreement"] > 0.9
    lines = [json.loads(line) for line in (walked.run.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["val_auc"] > 0.9
    assert 0 <= lines[-1]["train_accuracy"] <= 1


def test_the_store_holds_the_logits_as_they_are_and_says_their_kind(walked, lights):
    store = LabelStore(next((walked.run.folder.parent / "shared" / "labels").iterdir()))
    (key,) = store.teachers()
    assert store.manifest[key]["kind"] == "sigmoid"
    assert store.shards(key, 0)[0][1].kind == "sigmoid"
    stored = store.read(key, 0).logits
    pixels = torch.from_numpy(open_images(str(lights)).train.rgb(np.arange(COUNT["train"]))).permute(0, 3, 1, 2)
    expected = Channels()((pixels / 255 - 0.5) / 0.5).detach()
    assert torch.allclose(stored, expected, atol=0.05)
    with pytest.raises(PocketError, match="of the kind sigmoid"):
        store.check_kind(key, "softmax")


def test_every_label_that_is_there_is_named(walked):
    found = predict(str(walked.run.folder), [walked.picture, walked.dark])
    bright, dark = found.data["predictions"]
    assert len(bright["labels"]) == 3
    assert dark["labels"] == []
    assert str(found).splitlines()[1].endswith("none")
    student = predict(str(walked.run.folder / "student"), [walked.picture]).data["predictions"][0]
    assert len(student["labels"]) == 3
    assert load_model(walked.run.folder / "student").task == "multilabel"


def test_the_device_says_the_same(walked, tmp_path):
    with zipfile.ZipFile(walked.run.folder / "device.zip") as archive:
        archive.extractall(tmp_path)
    golden = json.loads((tmp_path / "golden.json").read_text())
    assert sum(golden["probabilities"]) != pytest.approx(1, abs=1e-3)
    command = [sys.executable, "predict.py", str(walked.picture), str(walked.dark)]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[1].endswith("none")
    assert said[0].count(",") == 2
    checked = subprocess.run(
        [sys.executable, "bench.py", "--seconds", "0.1", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert json.loads(checked.stdout)["golden"]["matches"]


def test_the_report_has_a_row_a_label_and_no_confusion_matrix(walked):
    page = (walked.run.folder / "report.html").read_text()
    assert "Label by label" in page
    assert "<h2>What is taken for what</h2>" not in page
    assert "a label is there from a probability of 0.5 on" in page
    card = (walked.run.folder / "student" / "README.md").read_text()
    assert ".sigmoid()" in card


def test_light_teachers_learn_the_labels(lights, tmp_path):
    choices = {key: value for key, value in CHOICES.items() if not key.startswith("teacher_")}
    run = distill(str(lights), out=str(tmp_path), baseline=False, **choices | {"augment": "none"})
    assert [r["role"] for r in run.results["rows"][:2]] == ["teacher", "teacher"]
    assert all(r["auc"] > 0.5 for r in run.results["rows"][:2])


def test_a_teacher_of_other_classes_is_adapted_and_a_model_is_trained(lights, tmp_path):
    options = {"epochs": 1, "precision": "fp32", "out": str(tmp_path), "augment": "none"}
    first = train(str(lights), model="cifar_resnet20", **options)
    assert row(first, "student")["auc"] is not None
    weights = str(first.folder / "student")
    again = train(str(lights), model="cifar_resnet20", init=weights, freeze=True, out=str(tmp_path))
    assert row(again, "student")["auc"] > 0.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "kl"}, "cannot be used for multilabel images"),
        ({"teacher_weights": "confidence"}, "--teacher-weights"),
        ({"balance": "weights"}, "--balance"),
        ({"tokens": 2}, "--tokens"),
        ({"top_k": 2}, "--top-k 0"),
        ({"match": "cskd"}, "--match cskd"),
    ],
)
def test_what_presumes_one_class_is_refused_before_any_work(lights, tmp_path, options, said):
    teachers = [Channels(), nn.Sequential(Channels(), nn.Linear(3, 3))]
    with pytest.raises(PocketError, match=said):
        distill(str(lights), teacher=teachers, teacher_size=SIDE, teacher_norm="half", out=str(tmp_path), **options)
    assert not any(tmp_path.iterdir())


def test_compare_and_the_top_logits_are_refused(lights, tmp_path):
    with pytest.raises(PocketError, match="one class per image"):
        compare(str(lights), teacher=Channels(), teacher_size=SIDE, teacher_norm="half", out=str(tmp_path))
    with pytest.raises(PocketError, match="--top-k 0"):
        label(str(lights), teacher=Channels(), teacher_size=SIDE, teacher_norm="half", top_k=2, out=str(tmp_path))
