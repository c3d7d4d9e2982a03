"""Arrays: digits, MedMNIST-layout files and pairs."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import pocketvit.sources.arrays as arrays_module
from pocketvit import PocketError
from pocketvit.sources import open_images, open_test_images

SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.fixture
def npz(tmp_path):
    """Return a function that writes an .npz of the given arrays."""

    def write(name="cells.npz", **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


def some(count, seed=0, shape=(6, 5, 3)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labels(count, classes=2):
    return (np.arange(count) % classes).astype(np.uint8)[:, None]


def test_digits_are_whole_grey_and_split():
    dataset = open_images("digits")
    assert dataset.classes == tuple("0123456789")
    assert {split: len(source) for split, source in dataset.splits.items()} == {"train": 1259, "val": 179, "test": 359}
    image, target = dataset.train[0]
    assert image.shape == (8, 8)
    assert image.dtype == np.uint8
    assert dataset.train.targets[0] == target
    assert dataset.train.rgb(np.arange(4)).shape == (4, 8, 8, 3)
    assert max(dataset.train[i][0].max() for i in range(20)) == 255


def test_digits_have_the_fingerprint_of_every_machine():
    """Golden: a change here orphans every label store of digits."""
    assert open_images("digits").train.fingerprint == (
        "f5d4c850949c058f12573754c265683740c565883eacdf31d72bb40b2ece66ee"
    )


def test_npz_keeps_its_splits_and_class_names(npz):
    arrays = {f"{split}_images": some(count, seed) for seed, (split, count) in enumerate(SPLITS)}
    arrays |= {f"{split}_labels": labels(count) for split, count in SPLITS}
    dataset = open_images(npz(**arrays, classes=np.array(["round", "long"])))
    assert dataset.classes == ("round", "long")
    for split, count in SPLITS:
        source = dataset.splits[split]
        assert len(source) == count
        assert source.targets.tolist() == labels(count)[:, 0].tolist()
        assert np.array_equal(source.rgb(np.array([2, 0])), arrays[f"{split}_images"][[2, 0]])
        assert np.array_equal(source[1][0], arrays[f"{split}_images"][1])


SPLITS = (("train", 12), ("val", 6), ("test", 8))


def test_npz_without_validation_and_test_holds_them_out(npz):
    dataset = open_images(npz(train_images=some(40), train_labels=labels(40)))
    assert [len(source) for source in dataset.splits.values()] == [32, 4, 4]
    images = np.concatenate([source.rgb(np.arange(len(source))) for source in dataset.splits.values()])
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in some(40))
    assert any("by their numbers" in note for note in dataset.notes)


def test_medmnist_files_get_their_class_names(npz):
    dataset = open_images(npz("pneumoniamnist_64.npz", train_images=some(20), train_labels=labels(20)))
    assert dataset.classes == ("normal", "pneumonia")
    dataset = open_images(npz("pneumoniamnist_other.npz", train_images=some(20), train_labels=labels(20, 3)))
    assert dataset.classes == ("0", "1", "2")


def test_a_pair_with_names_with_numbers_and_without_labels():
    named = open_images((some(20), ["dog", "cat"] * 10))
    assert named.classes == ("cat", "dog")
    assert named.train.targets.tolist() == [1 - int(name) % 2 for name in named.train.names]
    assert open_images((some(20).tolist(), [0, 1] * 10)).train[0][0].dtype == np.uint8
    bare = open_images((some(20), None))
    assert bare.classes == ()
    assert len(bare.val) == 2


def test_deep_arrays_get_a_window_and_float_asks_for_one():
    deep = np.random.default_rng(0).integers(500, 3000, (20, 4, 4)).astype(np.uint16)
    deep[3, 0, 0], deep[5, 0, 0] = 500, 3000
    dataset = open_images((deep, labels(20)))
    assert dataset.train.window == (500, 3000)
    assert dataset.train[0][0].dtype == np.uint16
    with pytest.raises(PocketError, match="floating-point"):
        open_images((deep / 3000, labels(20)))
    assert open_images((deep / 3000, labels(20)), window=(0, 1)).train.rgb(np.array([0])).dtype == np.uint8


def test_not_a_number_is_left_out_by_name():
    images = np.random.default_rng(0).random((20, 4, 4))
    images[7, 0, 0] = np.nan
    assert [name for name, _ in open_images((images, labels(20)), window=(0, 1)).checks.broken] == ["7"]


def test_sources_can_be_sent_to_another_process():
    source = open_images("digits").train
    again = pickle.loads(pickle.dumps(source))
    assert np.array_equal(again.rgb(np.arange(5)), source.rgb(np.arange(5)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": some(4)}, "holds x: expected train_images"),
        ({"train_images": some(0), "train_labels": labels(0)}, "holds no images"),
        ({"train_images": some(4), "train_labels": np.full((4, 14), 2)}, "14 labels per image, .* 0 or 1 each"),
        ({"train_images": some(4), "train_labels": labels(5)}, "4 images but 5 labels"),
        ({"train_images": some(4, shape=(3, 9, 9)), "train_labels": labels(4)}, "channels first"),
        ({"train_images": some(4, shape=(9, 9, 9)), "train_labels": labels(4)}, "a volume"),
        ({"train_images": some(4, shape=(1, 1)), "train_labels": labels(4)}, "single pixel"),
        ({"train_images": some(4), "train_labels": np.array([0, 1, 2, -5])}, "a label -5"),
        ({"train_images": some(4), "train_labels": labels(4, 3), "classes": np.array(["a"])}, "only 1 classes"),
        ({"train_images": np.array([{}, {}]), "train_labels": labels(2)}, "could run code"),
    ],
)
def test_files_that_cannot_be_used_say_why(npz, arrays, message):
    with pytest.raises(PocketError, match=message):
        open_images(npz(**arrays))


def test_a_file_of_test_images_alone_is_for_testing(npz):
    beside = {"val_images": some(3, seed=1), "val_labels": labels(3)}
    for others in ({}, beside):
        alone = npz(test_images=some(6), test_labels=labels(6), **others)
        found = open_test_images(alone)
        assert np.array_equal(found.test.rgb(np.arange(len(found.test))), some(6))
        assert found.test.split == "test"
        with pytest.raises(PocketError, match=r"expected train_images .*--test .*\.npz"):
            open_images(alone)
    given = open_images(npz("train.npz", train_images=some(8, seed=2), train_labels=labels(8)), test=alone)
    assert len(given.test) == 6  # its test split, and not its validation images
    assert given.test.name == "cells"


def test_a_damaged_file_says_so(npz, tmp_path):
    (tmp_path / "no.npz").write_bytes(b"nothing")
    whole = npz(train_images=some(40), train_labels=labels(40))
    data = bytearray(whole.read_bytes())
    data[600] ^= 1
    (tmp_path / "flipped.npz").write_bytes(data)
    (tmp_path / "half.npz").write_bytes(whole.read_bytes()[:900])
    locked = bytearray(whole.read_bytes())
    for entry, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # a bit says that a member is encrypted
        locked[locked.index(entry) + flags] |= 1
    (tmp_path / "locked.npz").write_bytes(locked)
    for name in ("no", "flipped", "half", "locked"):
        with pytest.raises(PocketError, match=f"{name}.npz is not a readable .npz file .*copy it again"):
            open_images(tmp_path / f"{name}.npz")


@pytest.mark.skipif(not (SHARED / "blood_28.npz").exists(), reason="the shared data are not here")
def test_blood_cells_have_their_own_split_and_names():
    dataset = open_images(SHARED / "blood_28.npz")
    assert [len(source) for source in dataset.splits.values()] == [11965, 1708, 3419]
    assert dataset.classes[1] == "eosinophil"
    assert any(
        note.startswith("the train, val, test splits are those of blood_28 (not the official BloodMNIST split")
        for note in dataset.notes
    )
    assert dataset.modality == "microscopy"
    assert dataset.research


@pytest.mark.skipif(not (SHARED / "retinamnist_28.npz").exists(), reason="the shared data are not here")
def test_the_official_split_is_recognized_and_grades_are_noticed():
    dataset = open_images(SHARED / "retinamnist_28.npz")
    assert any("are those of the official RetinaMNIST" in note for note in dataset.notes)
    assert any("5 classes are ordered grades" in note for note in dataset.notes)
    assert (dataset.task, dataset.modality) == ("ordinal", "fundus")


def test_big_endian_arrays_are_read_with_their_values():
    """FITS and some TIFF readers give them; 2551 once came back as 63241."""
    images = np.full((8, 4, 4), 2551, ">u2")
    images[:, 0, 0] = np.arange(8)
    source = open_images((images, [0, 1] * 4), val_fraction=0).train
    assert source[0][0].dtype.isnative
    assert sorted(int(source[i][0][1, 1]) for i in range(8)) == [2551] * 8
    assert source.window[1] == 2551


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 10**9] * 4, "has a label 1000000000, and 65,536 classes are the most: .* give -1 where"),
        ([-1, 0] * 4, r"has one label only, 0 \(-1 means unknown\): two or more are needed"),
        (np.array([0, 2**64 - 1] * 4, np.uint64), "has a label 18446744073709551615: expected whole numbers"),
        ([0, -2] * 4, "has a label -2"),
    ],
)
def test_labels_that_stand_for_something_else_are_refused(labels, message):
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4), dtype=np.uint8)
    with pytest.raises(PocketError, match=message):
        open_images((images, labels))


def test_two_classes_of_one_name_would_lose_half_the_labels(npz):
    path = npz(train_images=some(8), train_labels=labels(8), classes=np.array(["a", "a"]))
    with pytest.raises(PocketError, match="names two classes 'a': give each class one name"):
        open_images(path)


def test_an_archive_that_unpacks_to_more_than_memory_is_refused_before_it_is_read(npz, monkeypatch):
    monkeypatch.setattr(arrays_module, "total_memory", lambda: 1000)
    with pytest.raises(PocketError, match=r"more than half of the memory .*use a folder of images"):
        open_images(npz(train_images=some(8), train_labels=labels(8)))
