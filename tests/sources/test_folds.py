"""Folds: each image is tested once, groups stay whole, classes stay even, and images are read once."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pocketvit import PocketError
from pocketvit.sources import checks, open_folds, open_images


def names_tested(folds):
    return [name for dataset in folds for name in dataset.test.names]


def test_every_image_is_tested_in_one_fold_and_trains_or_validates_in_the_others(photos):
    root = photos("cat", "dog", "eel", count=13)
    folds = open_folds(root, 4, val_fraction=0.2)
    assert len(folds) == 4
    everyone = sorted(open_images(root, val_fraction=0).train.names)
    assert sorted(names_tested(folds)) == everyone
    for dataset in folds:
        assert sorted(name for source in dataset.splits.values() for name in source.names) == everyone
        assert len(dataset.val) == 6
    assert folds[1].notes[0].startswith("fold 2 of 4: ")


def test_classes_are_even_over_folds(photos):
    folds = open_folds(photos("cat", "dog", count=25), 5)
    assert [np.bincount(dataset.test.targets).tolist() for dataset in folds] == [[5, 5]] * 5


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_images(tmp_path, noise):
    for end, order in (("a", range(20)), ("b", reversed(range(20)))):
        (tmp_path / end).mkdir()
        for number in order:
            Image.fromarray(noise(number)).save(tmp_path / end / f"{number}.png")
        rows = [f"{number}.png,{'xy'[number % 2]}" for number in range(20)]
        text = "\n".join(["file,label", *(rows if end == "a" else reversed(rows))])
        (tmp_path / f"{end}.csv").write_text(text)
    first, again = (names_tested(open_folds(tmp_path / end, 3, labels=tmp_path / f"{end}.csv")) for end in "ab")
    assert first == again
    assert names_tested(open_folds(tmp_path / "a", 3, labels=tmp_path / "a.csv", seed=1)) != first


def test_no_patient_is_tested_in_two_folds_or_on_two_sides(tmp_path, noise):
    rows = [(f"{n:02}.png", "well" if n % 3 else "sick", f"P{n // 4}") for n in range(48)]
    for number, (name, _, _) in enumerate(rows):
        Image.fromarray(noise(number)).save(tmp_path / name)
    (tmp_path / "scans.csv").write_text("\n".join(["file,label,patient", *(",".join(row) for row in rows)]))
    folds = open_folds(tmp_path / "scans.csv", 5, group="patient", val_fraction=0.2)
    homes = [set(dataset.test.groups.tolist()) for dataset in folds]
    assert sum(len(home) for home in homes) == len(set.union(*homes)) == 12
    for dataset in folds:
        train, val, test = (set(source.groups.tolist()) for source in dataset.splits.values())
        assert not train & val
        assert not train & test
        assert not val & test
        assert set(dataset.test.targets.tolist()) == {0, 1}
        assert any("12 groups (patient): none is on both sides" in note for note in dataset.notes)


def test_equal_images_are_tested_in_the_same_fold(photos, noise):
    root = photos("cat", "dog", count=12)
    for name in ("000", "005", "011"):
        Image.fromarray(noise(77)).save(root / "cat" / f"{name}.png")
    for dataset in open_folds(root, 3):
        assert dataset.checks.duplicates == ()


def test_images_are_read_once_and_have_one_window(tmp_path, monkeypatch):
    deep = np.random.default_rng(0).integers(0, 60000, (30, 6, 5)).astype(np.uint16)
    calls = []
    real = checks._check_arrays
    monkeypatch.setattr(checks, "_check_arrays", lambda arrays: calls.append(1) or real(arrays))
    folds = open_folds((deep, np.arange(30) % 2), 5)
    assert len(calls) == 1
    assert {dataset.train.window for dataset in folds} == {(deep.min(), deep.max())}


def test_ids_and_fingerprints_are_those_of_opening_the_same_split(photos, tmp_path):
    root = photos("cat", "dog")
    dataset = open_folds(root, 5)[2]
    split = {name: split for split, source in dataset.splits.items() for name in source.names}
    text = "\n".join(["file,label,split", *(f"{name},{name.split('/')[0]},{split[name]}" for name in sorted(split))])
    (tmp_path / "split.csv").write_text(text)
    same = open_images(root, labels=tmp_path / "split.csv")
    for name, source in same.splits.items():
        assert source.fingerprint == dataset.splits[name].fingerprint


def test_unlabelled_images_train_in_every_fold(tmp_path, noise):
    for number in range(30):
        Image.fromarray(noise(number)).save(tmp_path / f"{number:02}.png")
    rows = [f"{number:02}.png,{'' if number % 3 == 0 else 'xy'[number % 2]}" for number in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *rows]))
    folds = open_folds(tmp_path / "t.csv", 4)
    assert len(names_tested(folds)) == 20
    assert all((dataset.train.targets < 0).sum() == 10 for dataset in folds)


def test_several_labels_an_image_are_spread(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4), dtype=np.uint8)
    labels = (np.random.default_rng(1).random((200, 3)) < [0.5, 0.2, 0.1]).astype(int)
    for dataset in open_folds((images, labels), 4):
        assert (np.abs(dataset.test.targets.sum(0) - labels.sum(0) / 4) <= 2).all()


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ("split", {}, r"photos has a test split of its own, .* leave --folds out"),
        ("flat", {}, "has no labels"),
        ("two", {"k": 1}, "1 folds: give 2 or more"),
        ("two", {"k": 30}, "30 folds need as many different images with labels, but photos has 20"),
        ("rare", {}, "'rare' of photos is in one image only"),
    ],
)
def test_what_cannot_be_folded_says_why(photos, noise, images, options, message):
    root = photos("cat", "dog")
    if images == "split":
        for name in ("train", "test"):
            photos("cat", "dog", folder=root / name, seed=1)
        for name in ("cat", "dog"):
            for path in (root / name).iterdir():
                path.unlink()
            (root / name).rmdir()
    elif images == "flat":
        root = root / "cat"
    elif images == "rare":
        photos("rare", count=1, seed=2)
    with pytest.raises(PocketError, match=message):
        open_folds(root, **options)
