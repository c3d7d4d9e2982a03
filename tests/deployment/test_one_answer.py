"""No artefact answers otherwise than another: one picture, asked of every file that a run or an export leaves."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pocketvit.config import ViewConfig
from pocketvit.deployment import Network, OnnxModel, export_onnx, open_model, predict_images, write_device_zip
from pocketvit.deployment import export as exporting
from pocketvit.models import create_model, load_model, save_model
from pocketvit.tasks import task_named
from pocketvit.views.preprocessing import Preprocessing

MEAN, STD = (0.4, 0.45, 0.5), (0.2, 0.25, 0.3)
CLASSES = ("cat", "dog", "eel", "größer")

# Each is what a run was made with: odd shapes, a window, tiles, another kernel, an input that is not the view's size.
KINDS = {
    "pad": Preprocessing(24, 24, MEAN, STD, aspect="pad"),
    "stretch": Preprocessing(24, 32, MEAN, STD, aspect="stretch", resample="bicubic"),
    "three lobes": Preprocessing(24, 24, MEAN, STD, lobes=3),
    "nearest": Preprocessing(40, 24, MEAN, STD, resample="nearest"),
    "window": Preprocessing(24, 24, MEAN, STD, window=(200.0, 49823.0)),
    "tiles": Preprocessing(24, 24, MEAN, STD, tile=20),
    "tiles of scans": Preprocessing(16, 24, MEAN, STD, resample="bilinear", window=(200.0, 49823.0), tile=23),
}


def network() -> nn.Module:
    """A small network of timm's without a fixed input size, whose answers differ from picture to picture."""
    torch.manual_seed(0)
    model = create_model("test_resnet", num_classes=len(CLASSES))
    model.train()
    with torch.no_grad():
        model(torch.randn(16, 3, 24, 24))
        model.fc.weight.mul_(8)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module", autouse=True)
def _translated_once():
    """Translate the network once for each size of its input: that takes seconds, and depends on nothing else."""
    known, translate = {}, exporting._translate

    def cached(whole, example, *names, **options):
        key = tuple(example.shape)
        known[key] = known.get(key) or translate(whole, example, *names, **options)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_translate", cached)
        yield


def picture(tmp_path, about):
    """A picture of odd size: 16-bit grey where there is a window, else colour."""
    rng = np.random.default_rng(0)
    shape = (37, 61)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(*shape, 3)), 0), 1)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    path = tmp_path / "picture.png"
    if about.window is not None:
        Image.fromarray((smooth[..., 0] * 60000).astype(np.uint16)).save(path)
    else:
        Image.fromarray((smooth * 255).astype(np.uint8)).save(path)
    return path


def scores(prediction):
    return dict(map(tuple, prediction.data["topk"]))


@pytest.mark.parametrize(("kind", "task"), [*((kind, "classification") for kind in KINDS), ("tiles", "multilabel")])
def test_every_artefact_gives_the_same_probabilities(model, tmp_path, kind, task):
    """The run's ONNX, the student's folder, what `export FOLDER` makes of it, and the device's own scripts."""
    about, task = KINDS[kind], task_named(task)
    path = picture(tmp_path, about)
    live = Network(model, classes=CLASSES, task=task, preprocessing=about)
    run = export_onnx(model, tmp_path / "model.onnx", classes=CLASSES, preprocessing=about, task=task)
    student = save_model(model, tmp_path / "student", classes=CLASSES, preprocessing=about, task=task)
    loaded = load_model(student)
    assert (loaded.preprocessing, loaded.task, loaded.classes) == (about, task.name, CLASSES)
    again = export_onnx(
        loaded.module, tmp_path / "again.onnx", classes=loaded.classes, preprocessing=loaded.preprocessing,
        task=task_named(loaded.task),
    )  # fmt: skip
    assert OnnxModel(again).signature == OnnxModel(run).signature
    answers = {
        name: scores(predict_images(one, path, top=len(CLASSES))[0])
        for name, one in {"live": live, "run": run, "student": student, "export": again}.items()
    }
    with zipfile.ZipFile(write_device_zip(tmp_path / "device.zip", again)) as packed:
        packed.extractall(tmp_path / "device")
    command = [sys.executable, "predict.py", str(path), "--json"]
    done = subprocess.run(command, cwd=tmp_path / "device", capture_output=True, check=True)
    answers["device"] = dict(json.loads(done.stdout)["scores"])
    expected = answers["live"]
    assert max(expected.values()) - min(expected.values()) > 0.1  # it is no answer that anything would give
    for name, found in answers.items():
        for label, score in found.items():
            assert score == pytest.approx(expected[label], abs=2e-5), name


@pytest.mark.parametrize("field", ["aspect", "resample", "lobes", "window", "tile", "view_size", "mean"])
def test_each_part_of_the_description_changes_the_answer(model, tmp_path, field):
    """Otherwise the test above would prove nothing of it."""
    about = KINDS["tiles of scans"] if field in ("window", "tile") else Preprocessing(24, 24, MEAN, STD)
    changed = {
        "aspect": "pad", "resample": "bilinear", "lobes": 2, "window": (0.0, 30000.0), "tile": None, "view_size": 12,
        "mean": (0.1, 0.1, 0.1),
    }  # fmt: skip
    path = picture(tmp_path, about)
    both = [
        scores(
            predict_images(
                Network(model, classes=CLASSES, task=task_named("classification"), preprocessing=one), path, top=4
            )[0]
        )
        for one in (about, replace(about, **{field: changed[field]}))
    ]
    assert max(abs(both[0][name] - both[1][name]) for name in CLASSES) > 1e-4


def test_the_views_of_a_description_are_those_of_training_and_validation(tmp_path):
    view = ViewConfig(view_size=24, resample="bicubic", fit="pad", crop="random_resized", flip=0.5, mixup=0.2)
    about = Preprocessing.of(view, (32, MEAN, STD), window=(0, 9), tile=20)
    assert about.view == view.plain()
    assert about.input == (32, MEAN, STD)
    assert Preprocessing.from_dict(json.loads(json.dumps(about.to_dict()))) == about


def test_a_folder_of_the_version_before_is_read_with_a_word_on_what_it_does_not_say(tmp_path, caplog):
    folder = save_model(network(), tmp_path / "student", classes=CLASSES)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["pocketvit"] = {"needs_pocketvit": True, "activation": "sigmoid", "tile": 20}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    opened = open_model(folder)
    assert (opened.task.name, opened.preprocessing.tile, opened.preprocessing.aspect) == ("multilabel", 20, "crop")
    assert "is of an older pocketvit" in caplog.text


def test_a_folder_of_timms_alone_is_read_without_a_word(tmp_path, caplog):
    folder = save_model(network(), tmp_path / "student", classes=CLASSES)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["pocketvit"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert open_model(folder).task.name == "classification"
    assert not caplog.text
