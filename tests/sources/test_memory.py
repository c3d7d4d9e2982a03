"""A second start reads no file that has not changed, and finds the same; what changed is read again."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from drawn_files import dicom
from PIL import Image

import pocketvit.sources.checks as checks_module
import pocketvit.sources.memory as memory_module
from pocketvit.sources import open_folds, open_images


@pytest.fixture
def read(monkeypatch):
    """The names of files that were read, one after the other."""
    names: list[str] = []
    real = checks_module.read_bytes

    def noted(path, name):
        names.append(name)
        return real(path, name)

    monkeypatch.setattr(checks_module, "read_bytes", noted)
    return names


def age(folder) -> None:
    """Let all files be an hour old."""
    for place, _, files in os.walk(folder):
        for name in files:
            os.utime(os.path.join(place, name), (time.time() - 3600,) * 2)


def test_a_second_start_reads_nothing_and_finds_the_same(photos, tmp_path, read):
    root = photos("cat", "dog")
    Image.fromarray(np.arange(35, dtype=np.uint16).reshape(7, 5) * 99).save(root / "cat/deep.png")
    (root / "dog/scan.dcm").write_bytes(dicom(np.arange(30, dtype=np.uint16).reshape(5, 6), patient="P1"))
    (root / "dog/torn.png").write_bytes((root / "dog/001.png").read_bytes()[:40])
    age(root)
    first = open_images(root, memory=tmp_path / "checked")
    assert len(read) == 23
    read.clear()
    second = open_images(root, memory=tmp_path / "checked")
    assert read == ["dog/torn.png"]
    assert (second.checks, second.notes) == (first.checks, first.notes)
    for split, source in first.splits.items():
        other = second.splits[split]
        assert (other.fingerprint, list(other.names), other.window) == (
            source.fingerprint, list(source.names), source.window
        )  # fmt: skip
    read.clear()
    open_folds(root, 3, memory=tmp_path / "checked")
    assert read == ["dog/torn.png"]


def test_what_changed_or_is_new_is_read_and_the_rest_is_not(photos, tmp_path, read):
    root = photos("cat", "dog")
    age(root)
    open_images(root, memory=tmp_path / "checked")
    before = {name: (root / name).read_bytes() for name in ("cat/003.png", "dog/004.png")}
    (root / "cat/003.png").write_bytes(before["dog/004.png"])
    (root / "cat/new.png").write_bytes(before["cat/003.png"])
    (root / "dog/005.png").unlink()
    read.clear()
    third = open_images(root, memory=tmp_path / "checked")
    assert sorted(read) == ["cat/003.png", "cat/new.png"]
    assert third.train.fingerprint == open_images(root).train.fingerprint
    assert any("cat/003.png = dog/004.png" in note for note in third.notes)


def test_files_written_just_now_are_not_trusted_by_their_time(photos, tmp_path, read, monkeypatch):
    monkeypatch.setattr(memory_module, "_FRESH", 600 * 10**9)  # that a busy machine takes long here changes nothing
    root = photos("cat", "dog")
    open_images(root, memory=tmp_path / "checked")
    read.clear()
    open_images(root, memory=tmp_path / "checked")
    assert len(read) == 20


@pytest.mark.parametrize("spoil", [b"", b"\0" * 100, b"\xff" * 8 + b"{}"])
def test_a_damaged_memory_costs_time_and_nothing_else(photos, tmp_path, read, spoil):
    root = photos("cat", "dog")
    age(root)
    first = open_images(root, memory=tmp_path / "checked")
    (place,) = (tmp_path / "checked").iterdir()
    place.write_bytes(spoil)
    read.clear()
    assert open_images(root, memory=tmp_path / "checked").train.fingerprint == first.train.fingerprint
    assert len(read) == 20
