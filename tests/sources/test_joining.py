"""Sets beside a set: their own splits by name, classes matched by name, images without labels in training alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from drawn_boxes import CLASSES, scenes, write_coco, write_voc
from PIL import Image

from pocketvit.errors import PocketError
from pocketvit.sources import open_folds, open_images


def draw(root, classes, count, seed=0):
    rng = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def photos(tmp_path):
    return draw(tmp_path / "photos", ("cat", "dog", "eel"), 12)


def test_sets_of_their_own_are_the_splits_and_nothing_is_held_out(photos, tmp_path):
    val, test = draw(tmp_path / "v", ("cat", "dog"), 3, 1), draw(tmp_path / "t", ("dog", "eel"), 2, 2)
    dataset = open_images(photos, val=val, test=test, progress=False)
    assert [len(source) for source in dataset.splits.values()] == [36, 6, 4]
    assert sorted(dataset.test.targets.tolist()) == [1, 1, 2, 2]  # in the first one's classes
    assert not any("held out" in note for note in dataset.notes)
    only = open_images(photos, test=test, progress=False)
    assert len(only.test) == 4
    assert len(only.val) > 0
    assert len(set(only.train.ids) | set(only.val.ids) | set(only.test.ids)) == 40


def test_images_without_labels_join_training_and_are_never_held_out(photos, tmp_path):
    flat = tmp_path / "more"
    flat.mkdir()
    for number in range(9):
        array = np.full((8, 8, 3), 7 * number + 3, np.uint8)
        Image.fromarray(array).save(flat / f"{number}.png")
    dataset = open_images(photos, unlabelled=flat, progress=False)
    assert (dataset.train.targets < 0).sum() == 9
    assert (dataset.val.targets >= 0).all()
    assert (dataset.test.targets >= 0).all()
    assert dataset.classes == ("cat", "dog", "eel")
    for fold in open_folds(photos, 3, unlabelled=flat, progress=False):
        assert (fold.train.targets < 0).sum() == 9
        assert (fold.test.targets >= 0).all()


def test_what_does_not_fit_is_refused_by_name(photos, tmp_path):
    with pytest.raises(PocketError, match="the class 'bird', which photos does not have"):
        open_images(photos, val=draw(tmp_path / "v", ("cat", "bird"), 2), progress=False)
    with pytest.raises(PocketError, match="different kinds"):
        open_images(photos, unlabelled=(np.zeros((2, 8, 8, 3), np.uint8), None), progress=False)
    own = tmp_path / "own"
    draw(own / "train", ("cat", "dog"), 6)
    draw(own / "test", ("cat", "dog"), 2, 5)
    with pytest.raises(PocketError, match="has a test split of its own"):
        open_images(own, test=photos, progress=False)


def test_an_opened_dataset_takes_no_more(photos):
    with pytest.raises(PocketError, match="give the images themselves"):
        open_images(open_images(photos, progress=False), val=photos)


def renamed(drawn, **names):
    return [
        dataclasses.replace(one, boxes=[(names.get(label, label), *box) for label, *box in one.boxes]) for one in drawn
    ]


def test_boxes_of_other_sets_are_joined_by_the_names_of_their_classes(tmp_path):
    drawn = scenes({"train": 8, "val": 4, "test": 4, "more": 3})
    parts = {split: [one for one in drawn if one.split == split] for split in ("train", "val", "test")}
    train = write_voc(tmp_path / "train", parts["train"])
    val = write_coco(tmp_path / "val", parts["val"])
    test = write_voc(tmp_path / "test", [one for one in parts["test"] if all(box[0] != "bar" for box in one.boxes)])
    flat = tmp_path / "flat"
    flat.mkdir()
    for scene in drawn[-3:]:
        scene.picture.save(flat / scene.name)
    dataset = open_images(train, val=val, test=test, unlabelled=flat, progress=False)
    assert [len(source) for source in dataset.splits.values()] == [11, 4, 2]
    assert dataset.classes == tuple(sorted(CLASSES))
    truth = dataset.train.targets
    assert truth.known.tolist() == [True] * 8 + [False] * 3
    assert truth.sizes.tolist() == [[40, 48]] * 11
    for source, name in ((dataset.val, "val"), (dataset.test, "test")):
        for row, path in enumerate(source.names):
            (scene,) = (one for one in parts[name] if path.endswith(one.name))
            found = [dataset.classes[label] for label in source.targets[row].labels]
            assert sorted(found) == sorted(box[0] for box in scene.boxes)


def test_what_does_not_fit_boxes_is_refused_by_name(photos, tmp_path):
    drawn = scenes({"train": 4})
    place = write_voc(tmp_path / "boxes", drawn)
    other = write_voc(tmp_path / "other", renamed(drawn, dot="kite"))
    with pytest.raises(PocketError, match="the class 'kite', which boxes does not have"):
        open_images(place, val=other, progress=False)
    with pytest.raises(PocketError, match="--val: photos has no boxes, and boxes has"):
        open_images(place, val=photos, progress=False)


@pytest.mark.parametrize("lone", ["train", "val"])
def test_several_labels_an_image_stay_so_where_a_split_has_one_each_by_chance(lone):
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), dtype=np.uint8)
    many, one = np.array([[1, 1, 0], [0, 1, 1]] * 4), np.eye(3, dtype=int)[np.arange(8) % 3]
    labels = {split: one if split == lone else many for split in ("train", "val")}
    dataset = open_images({split: (images, given) for split, given in labels.items()}, val_fraction=0)
    assert dataset.task == "multilabel"
    assert dataset.train.targets.tolist() == labels["train"].tolist()
    assert dataset.val.targets.tolist() == labels["val"].tolist()
    assert not any("taken as classes" in note for note in dataset.notes if lone == "train")


def test_a_split_beside_may_have_a_single_class(photos, tmp_path):
    draw(tmp_path, ("v",), 3, 1)
    (tmp_path / "v" / "s.csv").write_text("file,label\n0.png,dog\n1.png,dog\n")
    dataset = open_images(photos, val=tmp_path / "v" / "s.csv", progress=False)
    assert dataset.val.targets.tolist() == [1, 1]
    with pytest.raises(PocketError, match="one label only, 'dog'"):
        open_images(tmp_path / "v" / "s.csv", progress=False)


def test_each_split_says_whose_it_is(photos, tmp_path):
    dataset = open_images(photos, test=draw(tmp_path / "others", ("cat", "dog"), 3, 1), progress=False)
    assert (dataset.train.name, dataset.test.name) == ("photos", "others")
    assert any("splits are those of photos and others (--test)" in note for note in dataset.notes)
