"""Tiles: all of an image and nothing else, on its side of the split, with its labels, and put together again."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from pocketvit import PocketError
from pocketvit.sources import Tiles, open_folds, open_images, pack_dataset, per_image
from pocketvit.sources.listing import FileSource
from pocketvit.sources.subset import Subset


@pytest.fixture
def slides(tmp_path, noise):
    """Return a folder of images of mixed size and kind, some smaller than a tile of 16."""
    sizes = [(40, 37), (16, 16), (33, 64), (9, 20), (17, 5), (48, 48)]
    for label in ("cat", "dog"):
        (tmp_path / "slides" / label).mkdir(parents=True)
        for number, (height, width) in enumerate(sizes * 2):
            picture = noise(number + 100 * (label == "dog"), height, width, 0 if number == 3 else 3)
            Image.fromarray(picture).save(tmp_path / "slides" / label / f"{number:02}.png")
    return tmp_path / "slides"


@pytest.fixture
def cut(slides):
    return open_images(slides, tile=16)


def test_tiles_cover_every_pixel_in_its_place_and_few_overlap(cut):
    for source in cut.splits.values():
        for parent in range(source.images):
            image = source.source[parent][0]
            covered = np.zeros(image.shape[:2], int)
            here = np.flatnonzero(source.parents == parent)
            for position in here:
                top, left = source.boxes[position]
                tile = source[position][0]
                assert tile.shape[:2] == (16, 16)
                whole = image[top : top + 16, left : left + 16]
                assert np.array_equal(tile[: whole.shape[0], : whole.shape[1]], whole)
                covered[top : top + 16, left : left + 16] += 1
            assert covered.min() == 1
            fewest = -(-image.shape[0] // 16) * -(-image.shape[1] // 16)
            assert len(here) == fewest


def test_only_images_smaller_than_a_tile_are_padded_by_mirroring():
    image = np.arange(10 * 20, dtype=np.uint8).reshape(1, 10, 20)
    source = open_images((image.repeat(4, 0), None), val_fraction=0, tile=16).train
    tile = source[1][0]
    assert source.boxes[:2].tolist() == [[0, 0], [0, 4]]
    assert np.array_equal(tile[:10], image[0, :, 4:])
    assert np.array_equal(tile[10:], image[0, 9:3:-1, 4:])


def test_tiles_are_named_after_their_image_and_place_and_have_its_labels(cut):
    source = cut.train
    for position in range(len(source)):
        parent = source.parents[position]
        name, _, place = source.names[position].partition("#")
        assert name == source.source.names[parent]
        assert source.targets[position] == source.source.targets[parent]
        row, column = map(int, place.split(","))
        assert (source.boxes[position] > 0).tolist() == [row > 0, column > 0]


def test_the_split_is_that_of_the_whole_images(slides, cut):
    whole = open_images(slides)
    for split, source in whole.splits.items():
        assert {name.split("#")[0] for name in cut.splits[split].names} == set(source.names)
    assert any("tiles of 16x16 pixels (train 20 images in" in note for note in cut.notes)


def test_ids_are_unique_stable_and_change_with_the_size(slides, cut):
    again, other = open_images(slides, tile=16).train, open_images(slides, tile=20).train
    assert np.array_equal(cut.train.ids, again.ids)
    assert len(np.unique(cut.train.ids)) == len(cut.train)
    assert not set(cut.train.ids.tolist()) & set(other.ids.tolist())
    assert len({cut.train.fingerprint, other.fingerprint, cut.train.source.fingerprint}) == 3
    assert cut.train.fingerprint == again.fingerprint


def test_any_order_gives_the_same_pixels(cut):
    source = cut.train
    order = np.random.default_rng(0).permutation(len(source))
    one_by_one = np.stack([source.rgb(np.array([position]))[0] for position in order])
    assert np.array_equal(source.rgb(order), one_by_one)
    assert source.rgb(order[:0]).shape == (0, 16, 16, 3)
    again = pickle.loads(pickle.dumps(source))
    assert np.array_equal(again.rgb(order[:5]), one_by_one[:5])


def test_an_image_is_decoded_once_for_all_its_tiles_of_a_batch_or_in_sequence(cut, monkeypatch):
    decoded = []
    real = FileSource.__getitem__
    monkeypatch.setattr(FileSource, "__getitem__", lambda self, row: decoded.append(row) or real(self, row))
    cut.train.rgb(np.random.default_rng(0).permutation(len(cut.train)))
    assert sorted(decoded) == list(range(cut.train.images))
    decoded.clear()
    for position in range(len(cut.train)):
        cut.train[position]
    assert decoded == list(range(cut.train.images))


def test_packed_tiles_are_the_same_and_know_their_images(cut, tmp_path, monkeypatch):
    decoded = []
    real = FileSource.__getitem__
    monkeypatch.setattr(FileSource, "__getitem__", lambda self, row: decoded.append(row) or real(self, row))
    packed = pack_dataset(cut, tmp_path / "packs")
    assert len(decoded) == sum(source.images for source in cut.splits.values())
    for split, source in cut.splits.items():
        everything = np.arange(len(source))
        assert np.array_equal(packed.splits[split].rgb(everything), source.rgb(everything))
        assert np.array_equal(packed.splits[split].parents, source.parents)
        assert np.array_equal(packed.splits[split][1][0], source[1][0])


def test_a_subset_of_tiles_knows_their_images(cut):
    some = Subset(cut.train, np.array([7, 2]))
    assert some.parents.tolist() == cut.train.parents[[7, 2]].tolist()


def test_tiles_of_folds_partition_the_images(slides):
    folds = open_folds(slides, 3, tile=16)
    images = [name for dataset in folds for name in {name.split("#")[0] for name in dataset.test.names}]
    assert sorted(images) == sorted(set(images))
    assert len(images) == 24


def test_deep_images_keep_their_depth_and_their_window():
    deep = np.random.default_rng(0).integers(0, 60000, (6, 20, 30)).astype(np.uint16)
    source = open_images((deep, None), val_fraction=0, tile=16).train
    assert source[0][0].dtype == np.uint16
    low, high = source.window
    assert deep.min() <= low < high <= deep.max()


def test_values_are_averaged_per_image():
    values = np.array([[0.2, 0.8], [0.4, 0.6], [1.0, 0.0]])
    assert per_image(values, np.array([0, 0, 1])) == pytest.approx(np.array([[0.3, 0.7], [1.0, 0.0]]))
    assert per_image(values, np.array([4, 2, 4])) == pytest.approx(np.array([[0.4, 0.6], [0.6, 0.4]]))


def test_an_image_that_changed_its_size_is_refused(slides, noise):
    source = open_images(slides, tile=16).train
    assert isinstance(source, Tiles)
    Image.fromarray(noise(5, 100, 100)).save(source.source.paths[0])
    with pytest.raises(PocketError, match="was changed since it was checked"):
        source.rgb(np.arange(3))


def test_tiles_of_a_few_pixels_are_refused(slides):
    with pytest.raises(PocketError, match="tiles of 4 pixels show nothing"):
        open_images(slides, tile=4)
