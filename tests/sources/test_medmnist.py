"""MedMNIST's table: sets are found by file name, and only their own numbers make a split official."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvit import PocketError
from pocketvit.sources import open_images
from pocketvit.sources.arrays import list_npz
from pocketvit.sources.medmnist import SETS, named, resembling


@pytest.fixture
def npz(tmp_path):
    """Return a function that writes a file of tiny grey images, with these labels a split."""

    def write(name, **labels):
        arrays = {}
        for seed, (split, of) in enumerate(labels.items()):
            pixels = np.random.default_rng(seed).integers(0, 256, (len(of), 2, 3), dtype=np.uint8)
            arrays |= {f"{split}_images": pixels, f"{split}_labels": np.asarray(of)}
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


def cycle(count, classes):
    return (np.arange(count) % classes)[:, None].astype(np.uint8)


def test_the_table_holds_the_twelve_sets_with_their_classes_and_numbers():
    assert len(SETS) == 12
    images = {name: sum(about.samples[0]) for name, about in SETS.items()}
    # Yang et al. 2023, table 1; the organ sets as of release 3.0
    assert images == {
        "pathmnist": 107180, "chestmnist": 112120, "dermamnist": 10015, "octmnist": 109309, "pneumoniamnist": 5856,
        "retinamnist": 1600, "breastmnist": 780, "bloodmnist": 17092, "tissuemnist": 236386, "organamnist": 58830,
        "organcmnist": 23583, "organsmnist": 25211,
    }  # fmt: skip
    classes = [len(about.classes) for about in SETS.values()]
    assert classes == [9, 14, 7, 4, 2, 5, 2, 8, 8, 11, 11, 11]


@pytest.mark.parametrize("name", ["bloodmnist", "bloodmnist_64", "BloodMNIST_224"])
def test_any_size_is_found_by_name(name):
    assert named(name) is SETS["bloodmnist"]


def test_a_name_that_only_resembles_a_set_claims_nothing():
    assert named("blood_28") is None
    assert resembling("blood_28") is SETS["bloodmnist"]
    assert resembling("blood_of_mice") is None


def test_name_and_numbers_make_a_split_official(npz):
    path = npz("breastmnist_28.npz", train=cycle(546, 2), val=cycle(78, 2), test=cycle(156, 2))
    listing = list_npz(path)
    assert listing.whose.startswith("the official BreastMNIST")
    assert listing.classes == ("malignant", "normal, benign")
    assert listing.modality == "ultrasound"
    other = list_npz(npz("breastmnist_64.npz", train=cycle(545, 2), val=cycle(79, 2), test=cycle(156, 2)))
    assert other.whose == "breastmnist_64 (not the official BreastMNIST split: that has 546/78/156 images)"


def test_a_file_that_resembles_a_set_keeps_its_own_names_and_gets_the_kind_of_image_with_a_note(npz):
    dataset = open_images(npz("blood_28.npz", train=cycle(40, 8), val=cycle(16, 8), test=cycle(16, 8)))
    assert dataset.classes == tuple("01234567")  # whose numbers these are is not known
    assert dataset.modality == "microscopy"
    assert any("by its name blood_28 shows what BloodMNIST does" in note for note in dataset.notes)
    assert any("splits are those of blood_28 (not the official BloodMNIST split" in note for note in dataset.notes)
    other = open_images(npz("blood_29.npz", train=cycle(40, 3)))
    assert (other.modality, other.research) == (None, False)


def test_grades_of_the_table_are_ordinal(npz):
    dataset = open_images(npz("retinamnist_64.npz", train=cycle(60, 5)))
    assert dataset.task == "ordinal"
    assert open_images(npz("cells.npz", train=cycle(60, 5))).task == "classification"


def chest(count, seed=0, labels=14):
    return (np.random.default_rng(seed).random((count, labels)) < 0.3).astype(np.uint8)


def test_several_labels_an_image_are_read_with_their_names(npz):
    labels = chest(200)
    dataset = open_images(npz("chestmnist.npz", train=labels, val=chest(30, 1), test=chest(30, 2)))
    train = dataset.train
    assert dataset.task == "multilabel"
    assert train.targets.ndim == 2
    assert train.targets.dtype == np.int64
    assert np.array_equal(train.targets, labels)
    assert np.array_equal(train[3][1], labels[3])
    assert train.classes[13] == "hernia"
    assert dataset.checks.counts["train"]["hernia"] == labels[:, 13].sum()
    assert dataset.checks.lines()[0] == "train: 200 images"


def test_held_out_images_with_several_labels_have_their_rarest_label_drawn_evenly(npz):
    labels = np.zeros((400, 3), np.uint8)
    labels[:, 0] = 1
    labels[::10, 1] = 1  # 40 images: 4 for each of validation and test
    labels[5::40, 2] = 1  # 10 images
    labels[7] = 0
    dataset = open_images(npz("scans.npz", train=labels))
    assert dataset.val.targets.sum(0).tolist()[1:] == [4, 1]
    assert dataset.test.targets.sum(0).tolist()[1:] == [4, 1]
    assert any("each image by its rarest label" in note for note in dataset.notes)


def test_unknown_labels_are_a_whole_row_and_never_held_out(npz):
    labels = chest(100, labels=3).astype(np.int64)
    labels[::4] = -1
    dataset = open_images(npz("scans.npz", train=labels))
    assert dataset.checks.counts["train"][""] == 25
    assert (dataset.val.targets >= 0).all()


def test_labels_of_which_each_image_has_one_are_classes(npz):
    dataset = open_images(npz("scans.npz", train=np.eye(3, dtype=np.uint8)[np.arange(60) % 3]))
    assert dataset.train.targets.ndim == 1
    assert dataset.task == "classification"
    assert any("exactly one of the 3 labels" in note for note in dataset.notes)


def test_a_label_that_nobody_has_is_said(npz):
    labels = chest(100, labels=3)
    labels[:, 1] = 0
    dataset = open_images(npz("scans.npz", train=labels))
    assert "the train split has no images of 1" in dataset.notes


def test_splits_with_different_numbers_of_labels_are_refused(npz):
    with pytest.raises(PocketError, match="different numbers of labels"):
        open_images(npz("scans.npz", train=chest(20, labels=3), test=chest(20, labels=4)))
