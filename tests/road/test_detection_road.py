"""Boxes walk the whole road: from annotations on disk to a detector, its files and its report."""

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
from torch import nn

from pocketvit import bench, distill, label, predict, train
from pocketvit.errors import PocketError
from pocketvit.labels import LabelStore
from pocketvit.metrics.detection import score_boxes
from pocketvit.models import load_model
from pocketvit.rundir import Run
from pocketvit.sources import open_images
from pocketvit.tasks import task_named
from pocketvit.tasks.detection import detections
from pocketvit.training import read_metrics

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))
from drawn_boxes import CLASSES, scenes, write_coco, write_voc, write_yolo

pytestmark = pytest.mark.slow
SIDE = 32
CHOICES = {
    "student": "pocket_xs", "epochs": 2, "views": 2, "size": SIDE, "precision": "fp32", "batch_size": 8,
    "augment": "none",
}  # fmt: skip


class Colours(nn.Module):
    """A user's detector that finds the drawn rectangles without training, in transformers' form."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        side = x.shape[-1]
        boxes = torch.full((len(x), 3, 4), 0.5)
        logits = torch.full((len(x), 3, 3), -8.0)
        for row, image in enumerate(x):
            for kind, channel in enumerate((1, 0, 2)):  # bar is green, blob red, dot blue
                others = [c for c in range(3) if c != channel]
                mask = (image[channel] > 0.5) & (image[others].amax(0) < 0.5)
                if mask.sum() >= 4:
                    y, x_ = mask.nonzero(as_tuple=True)
                    low = torch.stack([x_.min(), y.min()]) / side
                    high = torch.stack([x_.max() + 1, y.max() + 1]) / side
                    boxes[row, kind] = torch.cat([(low + high) / 2, high - low])
                    logits[row, kind, kind] = 4.0
        return {"logits": logits + self.bias, "pred_boxes": boxes}


@pytest.fixture(scope="module")
def drawn():
    return scenes({"train": 24, "val": 6, "test": 8})


@pytest.fixture(scope="module")
def voc(drawn, tmp_path_factory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc") / "scenes", drawn)


@pytest.fixture(scope="module")
def teacher():
    from pocketvit.teachers import detector_teacher

    return detector_teacher(
        Colours(), activation="sigmoid", input_size=SIDE, norm=((0.0,) * 3, (1.0,) * 3), classes=sorted(CLASSES)
    )


@pytest.fixture(scope="module")
def walked(voc, teacher, tmp_path_factory) -> Run:
    return distill(str(voc), teacher=teacher, out=str(tmp_path_factory.mktemp("runs")), **CHOICES)


def row(run: Run, key: str) -> dict:
    return next(row for row in run.results["rows"] if row["key"] == key)


def test_every_row_has_the_figures_of_boxes(walked):
    assert walked.settings.objective == "boxes"
    for key in ("teacher-1", "student", "int8", "alone"):
        found = row(walked, key)
        assert 0 <= found["map"] <= found["map_50"] <= 1
        assert found["n"] == 8
        assert set(found["by_class"]) == set(CLASSES)
        assert "accuracy" not in found
    assert row(walked, "teacher-1")["map_50"] > 0.6  # rectangles of one colour may hide each other
    table = str(walked)
    assert "mAP" in table
    assert "AP50" in table
    assert "pretrained" in table  # what was not run is said
    lines = [json.loads(line) for line in (walked.folder / "metrics.jsonl").read_text().splitlines()]
    assert {"val_map", "val_map_50"} <= set(lines[-1])
    assert {"teacher_0_boxes", "distillation"} <= set(lines[-1]["terms"])


def test_figures_are_those_of_the_file(walked, voc):
    """The int8 row is what the shipped file answers, taken again from the file and the pictures on disk."""
    source = open_images(str(voc)).test
    data = predict(str(walked.folder / "model.onnx"), [voc / "JPEGImages" / Path(n).name for n in source.names]).data
    from pocketvit.deployment.opening import open_model

    model = open_model(walked.folder / "model-int8.onnx")
    pictures = [source[position][0] for position in range(len(source))]
    found = detections(model.label(pictures))
    again = score_boxes(found, source.targets, 3, interval=False)
    assert again.map == pytest.approx(row(walked, "int8")["map"], abs=1e-6)
    assert len(data["predictions"]) == 8
    assert all("boxes" in one for one in data["predictions"])


def test_the_teachers_boxes_are_stored_as_ragged_records(walked):
    store = LabelStore(next((walked.folder.parent / "shared" / "labels").iterdir()))
    (key,) = store.teachers()
    stored = store.read(key, 0)
    assert store.manifest[key]["kind"] == "boxes"
    assert len(stored) == 24
    assert len(stored[0]["boxes"]) == 0  # the first scene shows nothing


def test_pictures_are_drawn_on_and_none_overwrites_another(walked, tmp_path):
    names = []
    for folder in ("a", "b"):
        names.append(tmp_path / folder / "same.png")
        names[-1].parent.mkdir()
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(names[-1])
    said = predict(str(walked.folder), names, save=tmp_path / "drawn")
    assert f"drawn   {tmp_path / 'drawn'}" in str(said)
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["same-2.jpg", "same.jpg"]
    task = task_named("detection")
    answer = np.array([[4, 4, 20, 20, 0.9, 1], [0, 0, 0, 0, 0, 0]], np.float32)
    picture = np.zeros((40, 60, 3), np.uint8)
    drawing = task.draw(picture, answer, CLASSES)
    assert drawing[4, 4:20].any()
    assert not drawing[25:, 25:].any()


def test_the_device_finds_the_same_boxes(walked, voc, tmp_path):
    with zipfile.ZipFile(walked.folder / "device.zip") as archive:
        archive.extractall(tmp_path)
    picture = next((voc / "JPEGImages").iterdir())
    command = [sys.executable, "-c", f"import predict; print(predict.Model()(predict.load({str(picture)!r})).tolist())"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    theirs = np.array(json.loads(done.stdout)).reshape(-1, 6)
    from pocketvit.deployment.opening import open_model

    ours = open_model(walked.folder / "model-int8.onnx").label([np.asarray(Image.open(picture))])[0]
    ours = ours[ours[:, 4] > 0]
    assert len(ours) == len(theirs) > 0
    np.testing.assert_allclose(theirs, ours, atol=2e-3)
    checked = subprocess.run(
        [sys.executable, "bench.py", "--seconds", "0.1", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert json.loads(checked.stdout)["golden"]["matches"]
    said = subprocess.run(
        [sys.executable, "predict.py", str(picture), "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "boxes" in json.loads(said.stdout)


def test_the_report_shows_boxes_and_what_is_missed(walked):
    page = (walked.folder / "report.html").read_text()
    assert "Class by class" in page
    assert "What is found" in page
    assert "mAP against file size" in page
    assert " found, " in page
    hidden = page.count("data:image")
    from pocketvit import report

    report(str(walked.folder), out=str(walked.folder / "bare.html"), no_images=True)
    assert "data:image" not in (walked.folder / "bare.html").read_text()
    assert hidden > 8
    card = (walked.folder / "student" / "README.md").read_text()
    assert "best_boxes" in card
    assert "object-detection" in card
    assert (walked.folder / "student" / "boxes.py").is_file()


def test_a_detector_is_trained_and_measured_again_by_bench(voc, tmp_path):
    run = train(str(voc), model="pocket_xs", size=SIDE, epochs=1, precision="fp32", augment="none", out=str(tmp_path))
    assert row(run, "student")["map"] is not None
    assert load_model(run.folder / "student").task == "detection"
    rows = bench([str(run.folder)], images=str(voc)).data["rows"]
    assert rows[0]["map"] == pytest.approx(row(run, "int8")["map"], abs=1e-6)


def test_weights_that_are_named_become_detectors(voc, tmp_path):
    from walk_fakes import tiny

    from pocketvit.models import save_model

    published = save_model(tiny(), tmp_path / "published")  # a classifier
    choices = {"size": 64, "epochs": 1, "precision": "fp32", "augment": "none", "out": str(tmp_path / "runs")}
    run = train(str(voc), model=f"local-dir:{published}", **choices)
    assert row(run, "student")["map"] is not None
    with pytest.raises(PocketError, match=r"--init .* is a classifier's"):
        train(str(voc), model="pocket_xs", init=str(published), **choices)


def test_three_formats_give_one_student(drawn, voc, walked, teacher, tmp_path):
    coco, yolo = (write(tmp_path / write.__name__ / "scenes", drawn) for write in (write_coco, write_yolo))
    opened = [open_images(str(place)) for place in (voc, coco, yolo)]
    for other in opened[1:]:
        assert other.classes == opened[0].classes
        for split, source in opened[0].splits.items():
            same = other.splits[split]
            assert [Path(name).name for name in same.names] == [Path(name).name for name in source.names]
            assert np.array_equal(same.targets.labels, source.targets.labels)
            np.testing.assert_allclose(same.targets.corners, source.targets.corners, atol=0.01)  # txt rounds corners
            assert all(np.array_equal(same[row][0], source[row][0]) for row in range(len(source)))
    run = distill(str(coco), teacher=teacher, out=str(tmp_path / "runs"), baseline=False, **CHOICES)
    assert run.results["dataset"]["counts"] == walked.results["dataset"]["counts"]
    for key in ("student", "teacher-1"):
        assert row(run, key)["map"] == row(walked, key)["map"]


def test_a_teacher_that_knows_some_classes_teaches_these(voc, tmp_path, caplog):
    from pocketvit.teachers import detector_teacher

    some = detector_teacher(
        Colours(), activation="sigmoid", input_size=SIDE, norm=((0.0,) * 3, (1.0,) * 3), classes=("Bar", "blob", "cat")
    )
    with caplog.at_level("INFO", logger="pocketvit"):
        label(str(voc), teacher=some, size=SIDE, views=1, augment="none", out=str(tmp_path))
    assert "bar = its Bar, blob = its blob" in caplog.text
    assert "it does not know dot" in caplog.text
    store = LabelStore(next((tmp_path / "shared" / "labels").iterdir()))
    stored = store.read(store.teachers()[0], 0)
    assert stored.unknown == (2,)
    assert float(stored.probabilities[:, 2].max()) < 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "kl"}, "cannot be used for detection images"),
        ({"balance": "weights"}, "--balance"),
        ({"temperature": 4}, "--temperature 4.* softens one distribution"),
        ({"tokens": 1}, "--tokens"),
        ({"match": "cskd"}, "--match cskd compares answers of one class"),
        ({"teacher": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))}, "is no detector|one list"),
    ],
)
def test_what_is_for_classes_is_refused(voc, teacher, tmp_path, options, said):
    choices = {"teacher": teacher, "out": str(tmp_path), "size": SIDE, "epochs": 1, "views": 1, "precision": "fp32"}
    with pytest.raises(PocketError, match=said):
        distill(str(voc), **choices | options)


def test_features_of_detectors_are_matched_and_those_of_strangers_are_to_be_named(voc, tmp_path):
    from pocketvit.models.detector import create_detector
    from pocketvit.teachers import detector_teacher

    torch.manual_seed(0)
    own = create_detector("pocket_s", num_classes=len(CLASSES), image_size=SIDE)
    larger = detector_teacher(own, classes=CLASSES)
    choices = {**CHOICES, "epochs": 1, "views": 1, "baseline": False, "out": str(tmp_path)}
    run = distill(str(voc), teacher=larger, match="fitnets", store_features="9MB", **choices)
    assert read_metrics(run.folder / "metrics.jsonl")[0]["terms"]["fitnets"] > 0
    (store,) = (tmp_path / "shared" / "labels").iterdir()
    assert any("blocks" in path.name for path in store.iterdir())
    stranger = detector_teacher(Colours(), activation="sigmoid", input_size=SIDE, norm=((0.0,) * 3, (1.0,) * 3))
    with pytest.raises(PocketError, match=r"detector \(Colours\) are its features .*name them.*fitnets:1@body\.blocks"):
        distill(str(voc), teacher=stranger, match="fitnets", **choices)
    with pytest.raises(PocketError, match=r"has no layer 'body\.blokcs"):
        distill(str(voc), teacher=larger, match="fitnets:1@body.blokcs.1>body.blocks.1", **choices)


def test_a_detector_of_other_classes_or_for_other_images_is_named(voc, tmp_path):
    from walk_fakes import draw_photos

    from pocketvit.teachers import detector_teacher

    choices = {"size": SIDE, "epochs": 1, "views": 1, "precision": "fp32", "out": str(tmp_path / "runs")}
    stranger = detector_teacher(Colours(), activation="sigmoid", input_size=SIDE, classes=("cat", "dog", "cow"))
    with pytest.raises(PocketError, match="knows none of the images' classes"):
        distill(str(voc), teacher=stranger, **choices)
    photos = draw_photos(tmp_path / "photos", count=4)
    with pytest.raises(PocketError, match="is a detector, and these images have no boxes"):
        distill(str(photos), teacher=stranger, **choices)


def test_the_unnamed_teacher_is_a_larger_detector(voc, tmp_path, monkeypatch):
    monkeypatch.setattr(task_named("detection").__class__, "light", ("pocket_xxs",))
    run = distill(str(voc), out=str(tmp_path), baseline=False, **CHOICES | {"epochs": 1, "views": 1})
    assert row(run, "teacher-1")["name"] == "teacher: pocket_xxs"
    assert row(run, "teacher-1")["map"] is not None
    assert row(run, "teacher-1-int8")["map"] is not None


def test_a_detector_answers_images_that_nobody_annotated(voc, teacher, tmp_path):
    choices = CHOICES | {"epochs": 1, "views": 1, "baseline": False}
    run = distill(str(voc / "JPEGImages"), teacher=teacher, out=str(tmp_path), **choices)
    student = row(run, "student")
    assert run.results["dataset"]["task"] == "detection"
    assert student["map"] is None
    assert student["agreement"] is not None
    assert run.results["dataset"]["classes"] == sorted(CLASSES)
    assert "unknown" in str(run)


def test_stored_boxes_are_all_there_is_of_a_teacher(drawn, voc, tmp_path):
    entries = [
        {"image_id": scene.name, "category_id": sorted(CLASSES).index(label), "bbox": [x0, y0, x1 - x0, y1 - y0],
         "score": 0.9}
        for scene in drawn for label, x0, y0, x1, y1 in scene.boxes
    ]  # fmt: skip
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(entries))
    plan = distill(str(voc), teacher_labels=str(path), out=str(tmp_path / "runs"), plan=True, **CHOICES)
    assert "nothing was written" in str(plan)
    choices = CHOICES | {"epochs": 1, "views": 1, "baseline": False}
    run = distill(str(voc), teacher_labels=str(path), out=str(tmp_path / "runs"), **choices)
    assert row(run, "teacher-1")["map"] == pytest.approx(1.0)
    assert row(run, "student")["map"] is not None
    assert "stored answers" in str(run)
    with pytest.raises(PocketError, match="Leave --teacher away"):
        distill(str(voc), teacher_labels=str(path), teacher="pocket_s", out=str(tmp_path))
