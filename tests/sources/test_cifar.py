"""CIFAR as torchvision lays it out, read without running anything that a file asks for."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest

from pocketvit import PocketError
from pocketvit.sources import open_images
from pocketvit.sources.cifar import read_pickle

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def batch(seed, count=20):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    return {"data": pixels, "labels": [index % 10 for index in range(count)], "filenames": ["x.png"] * count}


def write(path, value, protocol=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=protocol))


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "data/cifar-10-batches-py"
    for number in range(1, 6):
        write(folder / f"data_batch_{number}", batch(number), protocol=2 + number % 4)
    write(folder / "test_batch", batch(6))
    write(folder / "batches.meta", {"label_names": NAMES, "num_vis": 3072})
    return folder


@pytest.mark.parametrize("above", [True, False])
def test_cifar10_is_found_and_read(cifar10, above):
    dataset = open_images(cifar10.parent if above else cifar10)
    assert dataset.classes == tuple(NAMES)
    assert [len(source) for source in dataset.splits.values()] == [90, 10, 20]
    image, target = dataset.test[3]
    assert np.array_equal(image, batch(6)["data"][3].reshape(3, 32, 32).transpose(1, 2, 0))
    assert target == 3


def test_cifar100_uses_fine_labels(tmp_path):
    folder = tmp_path / "cifar-100-python"
    fine = {"data": batch(0, 200)["data"], "fine_labels": [i % 100 for i in range(200)], "coarse_labels": [0] * 200}
    write(folder / "train", fine)
    write(folder / "test", fine | {"data": batch(1, 200)["data"]})
    write(folder / "meta", {"fine_label_names": [f"kind {i}" for i in range(100)]})
    dataset = open_images(tmp_path)
    assert len(dataset.classes) == 100
    assert dataset.test[105][1] == 5


def test_python_2_batches_are_read(cifar10):
    """The published files were written by Python 2: the pixels are a byte string in protocol 2."""
    pixels = batch(1)["data"]
    text = pixels.tobytes()
    stream = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b"
        b"\x87Rq\x05(K\x01K\x14M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T" + len(text).to_bytes(4, "little") + text + b"tbu."
    )
    (cifar10 / "data_batch_1").write_bytes(stream)
    assert np.array_equal(np.asarray(read_pickle(cifar10 / "data_batch_1")["data"]), pixels)


class Harmful:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(cifar10, tmp_path, protocol):
    write(cifar10 / "data_batch_2", batch(2) | {"labels": Harmful(tmp_path / "ran")}, protocol)
    with pytest.raises(PocketError, match=r"data_batch_2 asks to load posix\.mkdir|nt\.mkdir"):
        open_images(cifar10)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__", "exec"])
def test_builtins_are_refused_too(cifar10, name):
    (cifar10 / "data_batch_3").write_bytes(f"cbuiltins\n{name}\n(S'1'\ntR.".encode())
    with pytest.raises(PocketError, match=f"builtins.{name}"):
        open_images(cifar10)


def test_an_array_of_objects_is_refused(cifar10):
    write(cifar10 / "data_batch_2", {"data": np.array([{}], object), "labels": [0]})
    with pytest.raises(PocketError, match="data_batch_2"):
        open_images(cifar10)


def test_missing_and_damaged_batches_are_named(cifar10):
    whole = (cifar10 / "data_batch_4").read_bytes()
    (cifar10 / "data_batch_4").write_bytes(whole[:1000])
    with pytest.raises(PocketError, match=r"data_batch_4 is damaged .*download CIFAR again"):
        open_images(cifar10)
    (cifar10 / "data_batch_4").unlink()
    with pytest.raises(PocketError, match="data_batch_4 is missing"):
        open_images(cifar10)
    write(cifar10 / "data_batch_4", {"pixels": 1})
    with pytest.raises(PocketError, match="data_batch_4 is not a CIFAR batch"):
        open_images(cifar10)


def test_the_index_files_alone_do_not_hide_a_folder_of_classes(tmp_path, photos):
    root = photos("train", "meta", folder=tmp_path / "railway")
    shutil.rmtree(root / "meta")
    photos("train", "car", folder=root)
    with pytest.raises(PocketError, match="split folders"):
        open_images(root)
