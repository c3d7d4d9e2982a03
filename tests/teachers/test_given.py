"""Stored detections teach as the detector would: matched by image and class, carried into every view."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pocketvit.config import ViewConfig
from pocketvit.errors import PocketError
from pocketvit.labels import LabelStore, verify, write_labels
from pocketvit.road.rates import forward_seconds
from pocketvit.sources import open_images
from pocketvit.teachers.given import given_teacher
from pocketvit.views import Views
from pocketvit.views.geometry import carried, placements

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))
from drawn_boxes import CLASSES, scenes, write_coco, write_voc, write_yolo

VIEW = ViewConfig(view_size=32, fit="pad", crop="zoom", flip=0.5)


def results(drawn, *, image=lambda number, scene: scene.name, first=0) -> list[dict]:
    """The true boxes as if a detector had found them, each with another score."""
    entries = []
    for scene in drawn:
        for label, x0, y0, x1, y1 in scene.boxes:
            score = 0.5 + 0.4 * len(entries) / 100
            box = [x0, y0, x1 - x0, y1 - y0]
            number = [one for one in drawn if one.split == scene.split].index(scene)
            entries.append(
                {"image_id": image(number, scene), "category_id": first + sorted(CLASSES).index(label), "bbox": box,
                 "score": min(score, 1)}
            )  # fmt: skip
    return entries


@pytest.fixture(scope="module")
def drawn():
    return scenes({"train": 12, "val": 4, "test": 4})


@pytest.fixture(scope="module")
def voc(drawn, tmp_path_factory) -> Path:
    return write_voc(tmp_path_factory.mktemp("given") / "scenes", drawn)


def written(tmp_path: Path, document) -> Path:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("form", ["name", "stem", "coco ids", "yolo"])
def test_images_and_classes_are_found_however_they_are_called(drawn, tmp_path, form):
    # ids of COCO files of several splits are the same here, so that it is one file
    train = [scene for scene in drawn if scene.split == "train"]
    write = {"coco ids": write_coco, "yolo": write_yolo}.get(form, write_voc)
    place = write(tmp_path / "scenes", train)
    entries = {
        "name": results(train),
        "stem": results(train, image=lambda number, scene: scene.name.removesuffix(".png")),
        "coco ids": results(train, image=lambda number, scene: 10 + number, first=5),
        "yolo": results(train, image=lambda number, scene: "images/train/" + scene.name),
    }[form]
    dataset = open_images(place, val_fraction=0)
    teacher = given_teacher(written(tmp_path, entries), dataset, place)
    found, truth = teacher.given(dataset.train), dataset.train.targets
    assert teacher.classes == dataset.classes
    for row in range(len(truth)):
        mine = found[row][found[row][:, 4] > 0]
        order = np.lexsort(mine[:, :4].T)
        true = truth[row]
        expected = np.lexsort(true.corners.T)
        np.testing.assert_allclose(mine[order, :4], true.corners[expected], atol=0.01)
        assert mine[order, 5].tolist() == true.labels[expected].tolist()


def test_dots_in_a_name_without_an_ending_are_part_of_it(drawn, tmp_path):
    # as Roboflow names what it exports
    train = [
        dataclasses.replace(one, name=one.name.replace(".", f"_png.rf.0{one.name[5:7]}abc.")) for one in drawn[:12]
    ]
    place = write_yolo(tmp_path / "scenes", train)
    entries = results(train, image=lambda number, scene: scene.name.removesuffix(".png"))
    dataset = open_images(place, val_fraction=0)
    teacher = given_teacher(written(tmp_path, entries), dataset, place)
    assert int((teacher.given(dataset.train)[..., 4] > 0).sum()) == len(entries)


def test_boxes_follow_every_view_and_are_stored(drawn, voc, tmp_path):
    dataset = open_images(voc)
    teacher = given_teacher(written(tmp_path, results(drawn)), dataset, voc)
    views = Views(dataset.train, VIEW, seed=3)
    store = write_labels(tmp_path / "store", dataset.train, views, [teacher], 2, progress=False)
    positions = np.arange(len(dataset.train))
    for view in (0, 1):
        labels = store.read(store.teachers()[0], view)
        truth = dataset.train.targets
        wanted = carried(truth, placements(views, positions, view, truth.sizes), 32)
        wanted = wanted.where(wanted.flags == 0)
        assert np.diff(labels.offsets).tolist() == wanted.counts.tolist()
        middle, half = labels.boxes[:, :2], labels.boxes[:, 2:] / 2
        corners = 32 * np.concatenate([middle - half, middle + half], 1)
        order, expected = (
            np.lexsort((*one.T, images))
            for one, images in ((np.round(corners), labels.rows.numpy()), (np.round(wanted.corners), wanted.images))
        )
        np.testing.assert_allclose(corners[order], wanted.corners[expected], atol=0.01)
        assert labels.probabilities.argmax(1)[order].tolist() == wanted.labels[expected].tolist()
    found = verify(LabelStore(tmp_path / "store"), dataset.train, views, [teacher], records=24)
    assert found[0].worst < 0.01


def test_stored_boxes_cost_no_time_in_a_plan(drawn, voc, tmp_path):
    dataset = open_images(voc)
    teacher = given_teacher(written(tmp_path, results(drawn)), dataset, voc)
    assert forward_seconds(teacher, Views(dataset.train, VIEW, seed=3)) == 0


def test_what_it_does_not_know_and_what_does_not_fit_is_said(drawn, voc, tmp_path):
    dataset = open_images(voc)
    entries = [one for one in results(drawn) if one["category_id"] != 2]
    entries += [
        {"image_id": "elsewhere.png", "category_id": 0, "bbox": [1, 1, 5, 5], "score": 0.5},
        {"image_id": "train01.png", "category_id": 7, "bbox": [1, 1, 5, 5], "score": 0.5},
        {"image_id": "train01.png", "category_id": 0, "bbox": [1, 1, 0, 5], "score": 0.5},
    ]
    teacher = given_teacher(written(tmp_path, entries), dataset, voc)
    said = " ".join(teacher.notes)
    assert teacher.unknown == (2,)
    assert "it says nothing of dot" in said
    assert "class map: 0 = bar, 1 = blob" in said
    for what in ("1 boxes of other images", "1 boxes of other classes", "1 boxes of no size"):
        assert what in said
    assert teacher.given(dataset.test) is not None
    own = {"categories": [{"id": 0, "name": "Dot"}, {"id": 1, "name": "cat"}], "annotations": entries}
    assert given_teacher(written(tmp_path, own), dataset, voc).unknown == (0, 1)


def test_numbers_of_classes_are_those_of_the_yaml_file(drawn, tmp_path):
    train = [scene for scene in drawn if scene.split == "train"]
    place = write_yolo(tmp_path / "scenes", train, order=("dot", "blob", "bar"))
    dataset = open_images(place, val_fraction=0)
    entries = [one | {"category_id": 2 - one["category_id"]} for one in results(train)]
    teacher = given_teacher(written(tmp_path, entries), dataset, place)
    assert "class map: 2 = bar, 1 = blob, 0 = dot" in teacher.notes
    assert "category ids are taken to start at 0" in teacher.notes


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_of_classes_start_where_the_boxes_fit(drawn, tmp_path, first):
    train = [scene for scene in drawn if scene.split == "train"]
    place = write_yolo(tmp_path / "scenes", train)
    dataset = open_images(place, val_fraction=0)
    entries = results(train, image=lambda number, scene: scene.name, first=first)
    entries += [one | {"category_id": 1, "score": 0.01} for one in entries for _ in range(3)]  # unsure, of any class
    teacher = given_teacher(written(tmp_path, entries), dataset, place)
    assert f"category ids are taken to start at {first}" in teacher.notes
    shown = ", ".join(f"{first + number} = {name}" for number, name in enumerate(dataset.classes))
    assert f"class map: {shown}" in teacher.notes
    best = teacher.given(dataset.train)[1][0]
    assert best[5] in dataset.train.targets[1].labels
    wrong = [one | {"category_id": (one["category_id"] - first + 2) % 3} for one in entries]
    with pytest.raises(PocketError, match=r"of its boxes over true ones 0% have the true class"):
        given_teacher(written(tmp_path, [one for one in wrong if one["score"] > 0.1]), dataset, place)


def test_images_of_the_file_itself_say_what_its_ids_are(drawn, voc, tmp_path):
    dataset = open_images(voc)
    numbers = {scene.name: 100 + number for number, scene in enumerate(drawn)}
    entries = results(drawn, image=lambda _, scene: numbers[scene.name])
    listed = [{"id": number, "file_name": f"somewhere/{name}"} for name, number in numbers.items()]
    teacher = given_teacher(written(tmp_path, {"images": listed, "annotations": entries}), dataset, voc)
    assert "in 12 of 12 training images" in teacher.notes[0]  # the first has no box, and was looked at
    assert [len(found.labels) for found in teacher._found.values()] == [
        len(source.targets.labels) for source in dataset.splits.values()
    ]


def test_ids_that_several_splits_have_are_refused_and_names_are_not(drawn, tmp_path):
    place = write_coco(tmp_path / "scenes", drawn)  # numbers the images of each split from 10 on
    dataset = open_images(place)
    with pytest.raises(PocketError, match=r"the image id 11 is that of test01.png and of train01.png"):
        given_teacher(
            written(tmp_path, results(drawn, image=lambda number, _: 10 + number, first=5)), dataset, place
        )  # fmt: skip
    assert given_teacher(written(tmp_path, results(drawn, first=5)), dataset, place).unknown == ()


def test_images_with_objects_and_without_predictions_are_counted_and_not_too_many(drawn, voc, tmp_path):
    dataset = open_images(voc)
    entries = results(drawn)
    teacher = given_teacher(written(tmp_path, [e for e in entries if e["image_id"] != "train04.png"]), dataset, voc)
    assert any("1 of these have true boxes" in note and "train04" in note for note in teacher.notes)
    few = [one for one in entries if one["image_id"] not in ("train04.png", "train05.png", "train06.png")]
    with pytest.raises(PocketError, match="no box in 3 of 11 training images with true boxes"):
        given_teacher(written(tmp_path, few), dataset, voc)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"a": 1}, "COCO's results format"),
        ([], "COCO's results format"),
        ([{"image_id": 1}], "none of its categories|lacks image_id"),
        ([{"image_id": "train01", "category_id": 0, "bbox": [1, 2, 3], "score": 0.5}], "four numbers"),
        ([{"image_id": "train01", "category_id": 0, "bbox": [1, 2, 3, 4], "score": 2}], "score of 0 to 1"),
        ([{"image_id": "train01", "category_id": 0, "bbox": [1, 2, 1e300, 4], "score": 0.5}], "four numbers"),
        (
            [{"image_id": "train01", "category_id": one, "bbox": [1, 2, 3, 4], "score": 0.5} for one in (0, [1], None)],
            "entry 1 lacks image_id",
        ),
        ([{"image_id": "train01", "category_id": 9, "bbox": [1, 2, 3, 4], "score": 0.5}], "none of its categories"),
        ([{"image_id": "other", "category_id": 0, "bbox": [1, 2, 3, 4], "score": 0.5}], "0 of 12 training images"),
    ],
)
def test_a_file_of_another_form_is_one_message(voc, tmp_path, document, said):
    with pytest.raises(PocketError, match=said):
        given_teacher(written(tmp_path, document), open_images(voc), voc)


def test_a_file_that_is_no_json_is_one_message(voc, tmp_path):
    path = tmp_path / "predictions.json"
    path.write_text("[{")
    with pytest.raises(PocketError, match="cannot be read as JSON"):
        given_teacher(path, open_images(voc), voc)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x, y, w, h: [x / 48, y / 40, w / 48, h / 40], "shares of the image"),
        (lambda x, y, w, h: [x + 2000, y, w, h], "left, top, width and height, in pixels"),
    ],
)
def test_boxes_that_lie_nowhere_near_the_objects_are_refused(drawn, voc, tmp_path, wrong, words):
    entries = results([scene for scene in drawn if scene.split == "train"])
    moved = written(tmp_path, [entry | {"bbox": wrong(*entry["bbox"])} for entry in entries])
    with pytest.raises(PocketError, match=f"0% of its boxes .by score. lie on a true one.*{words}"):
        given_teacher(moved, open_images(voc), voc)
