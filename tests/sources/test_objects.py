"""Dataset objects: what torchvision, Hugging Face and plain lists hold is opened as a folder of the same images is."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import v2

from pocketvit import PocketError
from pocketvit.sources import open_images, pack_dataset


def pictures(count: int = 20, seed: int = 0) -> list[Image.Image]:
    random = np.random.default_rng(seed)
    return [Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)) for _ in range(count)]


class Columns:
    """A dataset as Hugging Face's `datasets` shows it: rows are dictionaries, columns come by name."""

    class ClassLabel:
        names = ("cat", "dog")

    def __init__(self, images: list[Image.Image]) -> None:
        self.images = images
        self.labels_read = 0
        self.column_names = ["image", "label"]
        self.features = {"image": object(), "label": self.ClassLabel()}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key):
        if key == "label":
            return [index % 2 for index in range(len(self))]
        return {"image": self.images[key], "label": key % 2}


def test_a_list_of_pairs_with_names_as_labels():
    data = [(image, ("cat", "dog")[index % 2]) for index, image in enumerate(pictures())]
    dataset = open_images(data)
    assert dataset.classes == ("cat", "dog")
    assert {split: len(source) for split, source in dataset.splits.items()} == {"train": 16, "val": 2, "test": 2}
    for source in dataset.splits.values():
        for position, name in enumerate(source.names):
            pixels, target = source[position]
            assert np.array_equal(pixels, np.asarray(data[int(name)][0]))
            assert target == int(name) % 2


def test_hugging_faces_columns_and_class_names_are_used():
    dataset = open_images(Columns(pictures()), val_fraction=0)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.targets.tolist() == [0, 1] * 10


def test_a_mapping_of_splits_keeps_them():
    dataset = open_images({"train": Columns(pictures()), "validation": Columns(pictures(6, 1))}, val_fraction=0)
    assert {split: len(source) for split, source in dataset.splits.items()} == {"train": 20, "val": 6}
    beside = open_images(Columns(pictures()), test=Columns(pictures(6, 1)), val_fraction=0)
    assert len(beside.test) == 6
    assert np.array_equal(beside.test[3][0], np.asarray(pictures(6, 1)[3]))
    with pytest.raises(PocketError, match=r"images by split are good, bad: name them train, val and test"):
        open_images({"good": [], "bad": []})


def test_torchvisions_image_folder_is_read_from_its_files(photos):
    root = photos("cat", "dog")
    dataset = open_images(ImageFolder(root, transform=v2.ToTensor()))
    assert dataset.train.fingerprint == open_images(root).train.fingerprint
    assert dataset.classes == ("cat", "dog")


def test_torchvisions_other_datasets_and_their_transforms():
    dataset = open_images(FakeData(12, (3, 8, 8), num_classes=2), val_fraction=0)
    assert len(dataset.train) == 12
    assert dataset.train.rgb(np.arange(2)).shape == (2, 8, 8, 3)
    whole = open_images(FakeData(12, (3, 8, 8), num_classes=2, transform=v2.PILToTensor()), val_fraction=0)
    assert np.array_equal(whole.train[5][0], dataset.train[5][0])
    with pytest.raises(PocketError, match=r"a floating-point tensor, as a transform makes it: give .*transform=None"):
        open_images(FakeData(12, (3, 8, 8), num_classes=2, transform=v2.ToTensor()))


def test_bytes_arrays_and_several_labels():
    images = pictures(12)
    stored = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        stored.append(buffer.getvalue())
    data = [{"image": {"bytes": data, "path": None}, "labels": [1, i % 2, i % 3 == 0]} for i, data in enumerate(stored)]
    dataset = open_images(data, val_fraction=0)
    assert dataset.task == "multilabel"
    assert np.array_equal(dataset.train[4][0], np.asarray(images[4]))
    deep = [(np.full((5, 4), 900 + i, np.int64), i % 2) for i in range(8)]
    assert open_images(deep, val_fraction=0).train[3][0].dtype == np.uint32
    unlabelled = open_images([torch.full((3, 5, 4), i, dtype=torch.uint8) for i in range(8)], val_fraction=0)
    assert unlabelled.classes == ()
    assert unlabelled.train[3][0].tolist() == np.full((5, 4, 3), 3).tolist()


def test_a_broken_item_is_left_out_by_name():
    class Torn(list):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("disk on fire")
            return super().__getitem__(index)

    data = Torn((image, index % 2) for index, image in enumerate(pictures()))
    data.targets = [index % 2 for index in range(20)]
    dataset = open_images(data, val_fraction=0)
    assert dataset.checks.broken == (("3", "cannot be read (disk on fire); replace it or leave it out"),)
    assert len(dataset.train) == 19


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "images are a int: give a folder, a file"),
        ([], "the list has no items"),
        ([("cat",)], "item 0 is a tuple without an image"),
        ([(pictures(1)[0], 0)] * 3 + [(pictures(1)[0], "cat")] * 3, "the labels of the list are of several kinds"),
        ([(np.zeros((2, 3, 4, 5)), 0)] * 3, r"item 0 is an array \[2, 3, 4, 5\] of float64"),
    ],
)
def test_what_is_no_dataset_says_what_would_be(data, message):
    with pytest.raises(PocketError, match=message):
        open_images(data)


def test_items_are_packed_and_large_ones_bounded(tmp_path):
    large = [(Image.fromarray(np.full((900, 1000, 3), 10 * i, np.uint8)), i % 2) for i in range(4)]
    small = [(image, index % 2) for index, image in enumerate(pictures(8))]
    dataset = open_images(large + small, val_fraction=0)
    packed = pack_dataset(dataset, tmp_path, progress=False)
    assert packed.train[1][0].shape == (448, 498, 3)
    assert (packed.train[1][0] == 10).all()
    assert np.array_equal(packed.train[6][0], np.asarray(small[2][0]))


def test_a_pair_of_images_of_several_sizes_and_their_labels():
    images = [np.full((5 + i, 4, 3), i, np.uint8) for i in range(8)]
    dataset = open_images((images, ["cat", "dog"] * 4), val_fraction=0)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train[7][0].shape == (12, 4, 3)
    assert len(open_images((pictures(8), None), val_fraction=0).train) == 8


def test_a_transform_of_targets_is_heeded_and_one_of_pictures_told(photos):
    root = photos("cat", "dog")
    turned = ImageFolder(root, target_transform=lambda label: 1 - label, transform=lambda image: image.resize((5, 5)))
    dataset = open_images(turned, val_fraction=0)
    assert dataset.train.targets.tolist() == [label for _, label in turned]
    assert any("transform is left out" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, float("nan"), 1], "nan is no class"),
        ([0, 1, 0.5, 1], "0.5 is no class"),
        ([0, 1, -3, 1], "label -3"),
        ([[0, 1], [1], [1, 0], [0, 0]], "as many"),
    ],
)
def test_labels_that_are_no_classes_are_one_message(labels, words):
    with pytest.raises(PocketError, match=words):
        open_images(list(zip(pictures(4), labels, strict=True)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: ([(one, 0) for one in pictures(3)], [(one, 1) for one in pictures(3)]), "datasets by split"),
        (lambda: (pictures(3), [0, 1]), "3 images and 2 labels"),
        (lambda: (pictures(2), [["a", "b"], ["a"]]), "as many"),
    ],
)
def test_pairs_that_are_none_are_one_message(given, words):
    with pytest.raises(PocketError, match=words):
        open_images(given())


def test_an_item_that_cannot_be_read_is_left_out_by_name(tmp_path):
    paths = []
    for number, image in enumerate(pictures(12)):
        image.save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:50])

    class Lazy:
        def __len__(self):
            return len(paths)

        def __getitem__(self, index):
            return Image.open(paths[index]).convert("RGB"), index % 2

    dataset = open_images(Lazy(), val_fraction=0)
    assert [name for name, _ in dataset.checks.broken] == ["0"]
    assert len(dataset.train) == 11


def test_images_that_differ_each_time_are_refused(tmp_path):
    class Random:
        def __init__(self):
            self.generator = np.random.default_rng(0)

        def __len__(self):
            return 20

        def __getitem__(self, index):
            return self.generator.integers(0, 256, (8, 8, 3), dtype=np.uint8), index % 2

    dataset = open_images(Random(), val_fraction=0)
    with pytest.raises(PocketError, match=r"differs each time that it is read.*random transforms"):
        pack_dataset(dataset, tmp_path)


def test_large_grey_arrays_with_a_channel_are_packed(tmp_path):
    data = [(np.full((700, 900, 1), 9 * index, np.uint8), index % 2) for index in range(6)]
    packed = pack_dataset(open_images(data, val_fraction=0), tmp_path)
    assert [int(packed.train.rgb(np.array([row]))[0].max()) for row in range(6)] == [9 * row for row in range(6)]


def test_whole_numbers_of_64_bits_are_of_one_depth():
    dark = [(np.full((6, 6), value, np.int64), value % 2) for value in (7, 8, 900, 901)]
    with pytest.raises(PocketError, match="give arrays of the depth that they were taken in"):
        open_images(dark, val_fraction=0, window=(0, 1000))


def test_columns_without_a_label_are_named():
    class Species(Columns):
        def __init__(self, images):
            super().__init__(images)
            self.column_names, self.features = ["image", "species"], {}

    assert any("columns image, species is called a label" in note for note in open_images(Species(pictures())).notes)


class Held:
    """A dataset object with a column of labels; its items may say otherwise."""

    def __init__(self, labels, column, name: str) -> None:
        self.images, self.own = pictures(len(labels)), labels
        setattr(self, name, column)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.images[index], self.own[index]


@pytest.mark.parametrize("classes", [2, 4])
def test_a_list_of_one_label_is_a_class(classes):
    labels = np.arange(12)[:, None] % classes  # as the datasets of the medmnist package have them
    dataset = open_images(Held(labels, labels, "labels"), val_fraction=0)
    assert dataset.task == "classification"
    assert dataset.train.targets.tolist() == labels[:, 0].tolist()


def test_a_column_that_is_not_the_items_label_is_not_taken_for_it():
    labels = [index % 2 for index in range(12)]
    dataset = open_images(Held(labels, [f"{index}.xml" for index in range(12)], "targets"), val_fraction=0)
    assert dataset.train.targets.tolist() == labels
    boxes = [{"annotation": {}} for _ in range(12)]  # as torchvision's VOCDetection gives them
    with pytest.raises(PocketError, match=r"dictionaries, as those of boxes are: give the folder .*Pascal VOC XML"):
        open_images(Held(boxes, [f"{index}.xml" for index in range(12)], "targets"))


def test_a_folder_that_makes_something_else_of_its_files_is_asked_for_it(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number, image in enumerate(pictures(4, seed=len(name))):
            image.save(tmp_path / name / f"{number}.png")

    class Cropped(ImageFolder):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image.crop((0, 0, 5, 5)), 1 - label

    dataset = open_images(Cropped(tmp_path), val_fraction=0)
    assert dataset.train[0][0].shape == (5, 5, 3)
    assert dataset.train.targets.tolist() == [1] * 4 + [0] * 4
    grey = ImageFolder(tmp_path, loader=lambda path: Image.open(path).convert("L"))
    assert open_images(grey, val_fraction=0).train[0][0].ndim == 2


def test_pairs_of_arrays_by_split():
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), dtype=np.uint8)
    dataset = open_images({"train": (images, np.arange(8) % 2), "test": (images[:3], np.ones(3, int))})
    assert dataset.test.targets.tolist() == [1, 1, 1]
    assert np.array_equal(dataset.test[2][0], images[2])
