"""Packs: the same images as their source, whatever killed the packing, and never half of one."""

from __future__ import annotations

import errno
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import pocketvit.sources.pack
import pocketvit.sources.packing as pack_module
from pocketvit import PocketError
from pocketvit.sources import Pack, open_images, pack_dataset, to_rgb8
from pocketvit.sources.findings import DEPTHS
from pocketvit.sources.pack import pack_source
from pocketvit.sources.packing import pack_bytes
from pocketvit.sources.subset import Subset


def same(a, b) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def equals_its_source(pack, source) -> bool:
    everything = np.arange(len(source))
    return (
        pack.fingerprint == source.fingerprint
        and np.array_equal(pack.ids, source.ids)
        and list(pack.names) == list(source.names)
        and (pack.classes, pack.window, pack.size) == (source.classes, source.window, source.size)
        and all(np.array_equal(pack[i][0], source[i][0]) and pack[i][1] == source[i][1] for i in everything)
        and same(pack.rgb(everything[::-1]), source.rgb(everything[::-1]))
    )


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_arrays_of_any_channels_and_depth(tmp_path, channels, depth):
    shape = (12, 6, 5, channels) if channels else (12, 6, 5)
    images = np.random.default_rng(0).integers(0, np.iinfo(depth).max, shape).astype(depth)
    dataset = open_images((images, [0, 1] * 6))
    packed = pack_dataset(dataset, tmp_path, progress=False)
    for split, source in dataset.splits.items():
        assert equals_its_source(packed.splits[split], source)
    assert isinstance(packed.train, Pack)


@pytest.mark.parametrize("small", [0, 64 * 1024])
def test_mixed_sizes_depths_and_kinds_as_files_and_as_pixels(photos, tmp_path, monkeypatch, noise, small):
    monkeypatch.setattr(pack_module, "SMALL", small)
    root = photos("cat", "dog")
    Image.fromarray(noise(7, 5, 3, 0)).save(root / "cat/grey.png")
    Image.fromarray(noise(8, 5, 4, 4)).save(root / "cat/alpha.png")
    Image.fromarray(np.arange(35, dtype=np.uint16).reshape(7, 5) * 999).save(root / "dog/deep.png")
    dataset = open_images(root, val_fraction=0)
    packed = pack_dataset(dataset, tmp_path / "pack", progress=False)
    assert equals_its_source(packed.train, dataset.train)
    assert (packed.train.depths == len(DEPTHS)).all() == (small == 0)


def test_equal_sizes_as_files_come_as_one_array(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(pack_module, "SMALL", 0)
    packed = pack_dataset(open_images(photos("cat", "dog")), tmp_path / "pack", progress=False)
    assert packed.train.rgb(np.arange(3)).shape == (3, 9, 12, 3)


def test_large_images_keep_their_files_and_small_ones_are_decoded(photos, tmp_path):
    small = pack_dataset(open_images(photos("cat", "dog")), tmp_path / "pack", progress=False)
    assert small.train.stacked is not None
    root = tmp_path / "large"
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (300, 200), (index, 0, 0)).save(root / label / f"{index}.jpg")
    large = pack_dataset(open_images(root), tmp_path / "pack", progress=False)
    stored = large.train.bytes[: large.train.offsets[1]].tobytes()
    assert stored == (root / large.train.names[0]).read_bytes()


def test_a_pack_is_reused_and_not_written_again(tmp_path):
    dataset = open_images("digits")
    first = pack_dataset(dataset, tmp_path, progress=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = pack_dataset(open_images("digits"), tmp_path, progress=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert second.train.folder == first.train.folder
    assert pack_dataset(second, tmp_path / "other", progress=False).train is second.train


def test_a_pack_opens_by_its_folder_alone(tmp_path):
    dataset = open_images("digits")
    packed = pack_dataset(dataset, tmp_path, progress=False)
    assert equals_its_source(Pack(packed.train.folder), dataset.train)


def test_a_corrected_label_keeps_the_pixels_and_replaces_the_label(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    wrong = pack_dataset(open_images((images, [0, 1] * 10), val_fraction=0), tmp_path, progress=False)
    pixels = (wrong.train.folder / "images.bin").stat().st_mtime_ns
    right = pack_dataset(open_images((images, [1, 0] + [0, 1] * 9), val_fraction=0), tmp_path, progress=False)
    assert right.train.folder == wrong.train.folder
    assert right.train.targets[:4].tolist() == [1, 0, 0, 1]
    assert (right.train.folder / "images.bin").stat().st_mtime_ns == pixels


def test_other_images_get_a_pack_of_their_own(photos, tmp_path, noise):
    root = photos("cat", "dog")
    first = pack_dataset(open_images(root), tmp_path / "pack", progress=False)
    Image.fromarray(noise(77)).save(root / first.train.names[0])
    second = pack_dataset(open_images(root), tmp_path / "pack", progress=False)
    assert first.train.folder != second.train.folder
    assert np.array_equal(second.train[0][0], noise(77))
    assert np.array_equal(Pack(first.train.folder)[0][0], first.train[0][0])


def test_pickled_packs_carry_changed_targets_and_no_pixels(tmp_path):
    train = pack_dataset(open_images("digits"), tmp_path, progress=False).train
    train.targets = np.full(len(train), -1)
    sent = pickle.dumps(train)
    again = pickle.loads(sent)
    assert len(sent) < train.bytes.size
    assert (again.targets == -1).all()
    assert np.array_equal(again.rgb(np.arange(9)), train.rgb(np.arange(9)))


PACK = """
import sys
import pocketvit.sources.packing as module
from pocketvit.sources import open_images, pack_dataset
module.PIECE = 2048
pack_dataset(open_images(sys.argv[1], val_fraction=0, progress=False), sys.argv[2], progress=False)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a POSIX signal")
@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_killed_three_times_at_random_moments_the_pack_equals_an_unbroken_one(tmp_path, photos, kind):
    if kind == "arrays":
        images = np.random.default_rng(0).integers(0, 256, (4000, 8, 8, 3), dtype=np.uint8)
        np.savez(tmp_path / "images.npz", train_images=images, train_labels=np.arange(4000) % 3)
        place = tmp_path / "images.npz"
    else:
        place = photos("cat", "dog", count=400)
    unbroken = pack_dataset(open_images(place, val_fraction=0), tmp_path / "unbroken", progress=False).train
    pieces = -(-unbroken.bytes.size // 2048)
    journal = tmp_path / "killed" / unbroken.folder.name / "journal.jsonl"
    command = [sys.executable, "-c", PACK, str(place), str(tmp_path / "killed")]
    kills, reached = 0, 0
    chance = random.Random()
    while kills < 3:
        process = subprocess.Popen(command)
        goal = reached + chance.randint(0, max(pieces // 5, 1))
        while process.poll() is None and (not journal.exists() or journal.read_text().count("\n") <= goal):
            time.sleep(0.0005)
        time.sleep(chance.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            break  # it was faster: what follows must hold all the same
        kills += 1
        lines = journal.read_text().count("\n") - 1 if journal.exists() else 0
        assert lines >= reached, "what was finished is not lost"
        reached = lines
    assert kills
    resumed = pack_dataset(open_images(place, val_fraction=0), tmp_path / "killed", progress=False).train
    before, after = files_of(unbroken.folder), files_of(resumed.folder)
    assert before == after
    assert equals_its_source(resumed, open_images(place, val_fraction=0).train)


class Stop(Exception):
    """Stands for a kill at a chosen moment."""


def stop_after(monkeypatch, pieces: int):
    note = pack_module._note
    count = iter(range(10**9))

    def noting(journal, line):
        if next(count) > pieces:
            raise Stop
        note(journal, line)

    monkeypatch.setattr(pack_module, "PIECE", 4096)
    monkeypatch.setattr(pack_module, "_note", noting)


def test_resuming_goes_on_where_it_was_and_cuts_off_what_was_torn(tmp_path, monkeypatch):
    dataset = open_images("digits", val_fraction=0)
    whole = pack_dataset(dataset, tmp_path / "whole", progress=False).train
    with monkeypatch.context() as patched:
        stop_after(patched, 5)
        with pytest.raises(Stop):
            pack_dataset(dataset, tmp_path / "torn", progress=False)
    place = tmp_path / "torn" / whole.folder.name
    with open(place / "images.bin", "ab") as images, open(place / "journal.jsonl", "a") as journal:
        images.write(b"torn")
        journal.write('{"images": 9')
    read, piece = [], pack_module._piece
    monkeypatch.setattr(pack_module, "_piece", lambda s, layout, rows: read.extend(rows) or piece(s, layout, rows))
    resumed = pack_dataset(dataset, tmp_path / "torn", progress=False).train
    assert min(read) == 5 * 4096 // 64
    assert files_of(resumed.folder) == files_of(whole.folder)


def test_a_torn_journal_does_not_cost_a_second_killed_process_its_work(tmp_path, monkeypatch):
    dataset = open_images("digits", val_fraction=0)
    for _ in range(2):
        with monkeypatch.context() as patched:
            stop_after(patched, 5)
            with pytest.raises(Stop):
                pack_dataset(dataset, tmp_path, progress=False)
        journal = next(tmp_path.rglob("journal.jsonl"))
        with open(journal, "a") as file:
            file.write('{"images')
    done = 5 * 64 + 6 * 64  # 4096 bytes are 64 digits; the second process has no first line to write
    read, piece = [], pack_module._piece
    monkeypatch.setattr(pack_module, "_piece", lambda s, layout, rows: read.extend(rows) or piece(s, layout, rows))
    assert equals_its_source(pack_dataset(dataset, tmp_path, progress=False).train, dataset.train)
    assert min(read) == done


def test_a_subset_of_mixed_sizes_is_packed_too(photos, tmp_path, noise):
    root = photos("cat", "dog")
    Image.fromarray(noise(7, 5, 3, 0)).save(root / "cat/a.png")
    whole = open_images(root, val_fraction=0).train
    some = Subset(whole, np.array([10, 0, 3]))
    assert equals_its_source(pack_source(some, tmp_path / "pack", progress=False), some)


def test_a_journal_of_another_layout_starts_again(tmp_path, photos, monkeypatch):
    dataset = open_images(photos("cat", "dog"), val_fraction=0)
    with monkeypatch.context() as patched:
        stop_after(patched, 1)
        patched.setattr(pack_module, "SMALL", 0)
        with pytest.raises(Stop):
            pack_dataset(dataset, tmp_path / "pack", progress=False)
    assert equals_its_source(pack_dataset(dataset, tmp_path / "pack", progress=False).train, dataset.train)


def test_a_full_disk_is_found_out_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(PocketError, match="packing digits/train needs 115 kB, but only 1 kB are free"):
        pack_dataset(open_images("digits", val_fraction=0), tmp_path, progress=False)
    assert not list(tmp_path.rglob("images.bin"))


def test_a_disk_that_fills_up_while_packing_is_named_and_the_rest_is_kept(tmp_path, monkeypatch):
    dataset = open_images("digits", val_fraction=0)
    with monkeypatch.context() as patched:
        patched.setattr(pack_module, "PIECE", 4096)
        sync, count = os.fsync, iter(range(10**9))

        def full(descriptor):
            if next(count) > 8:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(descriptor)

        patched.setattr(os, "fsync", full)
        with pytest.raises(PocketError, match="the disk is full: could not write"):
            pack_dataset(dataset, tmp_path, progress=False)
    journal = next(tmp_path.rglob("journal.jsonl"))
    assert journal.read_text().count("\n") > 3
    assert equals_its_source(pack_dataset(dataset, tmp_path, progress=False).train, dataset.train)


def test_an_image_that_changes_while_packing_is_named(photos, tmp_path):
    dataset = open_images(photos("cat", "dog"))
    name = dataset.train.names[3]
    Image.new("RGB", (12, 9)).save(tmp_path / "photos" / name)
    with pytest.raises(PocketError, match=f"{name} in photos was changed"):
        pack_dataset(dataset, tmp_path / "pack", progress=False)
    (tmp_path / "photos" / name).unlink()
    with pytest.raises(PocketError, match=f"{name} in photos can no longer be read"):
        pack_dataset(dataset, tmp_path / "pack", progress=False)


def test_damaged_packs_say_what_to_delete(tmp_path):
    folder = pack_dataset(open_images("digits"), tmp_path, progress=False).train.folder
    with open(folder / "images.bin", "ab") as images:
        images.write(b"x")
    with pytest.raises(PocketError, match=r"images\.bin is not the .* bytes .*delete"):
        Pack(folder)
    index = (folder / "index.safetensors").read_bytes()
    (folder / "index.safetensors").write_bytes(index[:100])
    with pytest.raises(PocketError, match=r"index\.safetensors is damaged .*pack again"):
        Pack(folder)
    with pytest.raises(PocketError, match="not a finished pack"):
        Pack(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PocketError, match="no permission to write"):
        pack_dataset(open_images("digits"), tmp_path / "pack", progress=False)


def test_large_originals_are_read_in_threads_to_the_same_result(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(pack_module, "SMALL", 0)
    packed = pack_dataset(open_images(photos("cat", "dog", count=40)), tmp_path / "pack", progress=False).train
    one_by_one = np.stack([to_rgb8(packed[i][0]) for i in range(len(packed))])
    assert np.array_equal(packed.rgb(np.arange(len(packed))), one_by_one)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(PocketError, match=r"could not write .*taken"):
        pack_dataset(open_images("digits"), tmp_path / "taken", progress=False)


def test_mixed_kinds_of_one_size_are_one_array_as_they_are_without_a_pack(tmp_path, noise):
    for number in range(6):
        (tmp_path / "in" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(noise(number, channels=3 if number % 3 else 0))
        picture.save(tmp_path / "in" / "ab"[number % 2] / f"{number}.png")
    source = open_images(tmp_path / "in", val_fraction=0).train
    packed = pack_source(source, tmp_path / "packs")
    everything = np.arange(6)
    assert isinstance(packed.rgb(everything), np.ndarray)
    assert np.array_equal(packed.rgb(everything), source.rgb(everything))


def test_several_labels_and_groups_travel_with_the_pack(tmp_path, noise):
    rows = [f"{number}.png,{number % 2},{int(number < 5)},P{number // 2}" for number in range(12)]
    for number in range(12):
        Image.fromarray(noise(number)).save(tmp_path / f"{number}.png")
    (tmp_path / "t.csv").write_text("\n".join(["file,edema,fracture,patient", *rows]))
    source = open_images(tmp_path / "t.csv", group="patient").train
    packed = pack_source(source, tmp_path / "packs")
    assert packed.targets.ndim == 2
    assert np.array_equal(packed.targets, source.targets)
    assert np.array_equal(packed.groups, source.groups)
    source.groups = None  # opened without --group, by chance with the same split
    assert pack_source(source, tmp_path / "packs").groups is None


def photograph(seed: int, height: int, width: int) -> Image.Image:
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def snapshots(folder: Path) -> Path:
    """Photographs of a phone: large, small, turned, as PNG with transparency, of 16 bits."""
    for number, label in enumerate(("cat", "dog")):
        (folder / label).mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        photograph(number, 900, 1200).save(folder / label / "large.jpg", quality=95)
        photograph(10 + number, 900, 1200).save(folder / label / "turned.jpg", quality=95, exif=exif)
        photograph(20 + number, 300, 400).save(folder / label / "small.jpg")
        photograph(30 + number, 950, 900).convert("RGBA").save(folder / label / "clear.png")
        deep = np.random.default_rng(number).integers(0, 4000, (900, 900)).astype(np.uint16)
        Image.fromarray(deep).save(folder / label / "deep.png")
    return folder


def test_photos_much_larger_than_any_view_are_kept_small_upright_and_said(tmp_path):
    dataset = open_images(snapshots(tmp_path / "p"), val_fraction=0)
    packed = pack_dataset(dataset, tmp_path / "pack", progress=False)
    assert packed.notes[-1] == "6 photos much larger than any view are kept with 448 pixels on their shorter side"
    assert packed.train.bound == 448
    shapes = dict(zip(packed.train.names, (packed.train[i][0].shape for i in range(10)), strict=True))
    assert shapes["cat/large.jpg"] == (448, 597, 3)
    assert shapes["cat/turned.jpg"] == (597, 448, 3)
    assert shapes["cat/small.jpg"] == (300, 400, 3)
    assert shapes["cat/clear.png"] == (473, 448, 4)
    assert shapes["cat/deep.png"] == (900, 900)
    for row, name in enumerate(packed.train.names):
        pixels = packed.train[row][0]
        if packed.train.bounded[row]:
            whole = Image.fromarray(dataset.train[row][0]).resize(pixels.shape[1::-1], Image.Resampling.LANCZOS)
            assert np.abs(np.asarray(whole).astype(int) - pixels).mean() < 1.5, name
        else:
            assert np.array_equal(pixels, dataset.train[row][0])
    assert pack_dataset(dataset, tmp_path / "pack", progress=False).train.folder == packed.train.folder
    larger = pack_dataset(dataset, tmp_path / "pack", progress=False, bound=600)
    assert larger.train.bound is None
    assert larger.train.folder != packed.train.folder
    assert pack_bytes(dataset.train) == (packed.train.folder / "images.bin").stat().st_size


def test_two_runs_of_the_same_images_with_other_labels_keep_their_own(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 6, 5), dtype=np.uint8)
    one = open_images((images, [0, 1] * 6), val_fraction=0).train
    other = open_images((images, [0, 0, 1] * 4), val_fraction=0).train
    assert one.fingerprint == other.fingerprint
    with ThreadPoolExecutor(4) as pool:
        packs = list(pool.map(lambda source: pack_source(source, tmp_path, progress=False), [one, other] * 20))
    for number, pack in enumerate(packs):
        assert np.array_equal(pack.targets, (one, other)[number % 2].targets)


def test_a_pack_of_another_version_is_packed_again(tmp_path, monkeypatch):
    source = open_images("digits", val_fraction=0).train
    for module in (pack_module, pocketvit.sources.pack):
        monkeypatch.setattr(module, "VERSION", 1)
    old = pack_source(source, tmp_path, progress=False)
    monkeypatch.undo()
    with pytest.raises(PocketError, match="by another version: delete it and pack again"):
        Pack(old.folder)
    assert equals_its_source(pack_source(source, tmp_path, progress=False), source)


@pytest.mark.parametrize("small", [0, 64 * 1024])
def test_a_bit_that_turned_in_the_pixels_is_told_before_they_are_used(photos, tmp_path, monkeypatch, small):
    monkeypatch.setattr(pack_module, "SMALL", small)
    source = open_images(photos("cat", "dog"), val_fraction=0).train
    pack = pack_source(source, tmp_path, progress=False)
    assert (pack.stacked is None) == (small == 0)
    pixels = pack.folder / "images.bin"
    data = bytearray(pixels.read_bytes())
    data[int(pack.offsets[1]) + 5] ^= 1
    pixels.write_bytes(data)
    with pytest.raises(PocketError, match=rf"images\.bin is damaged: image {pack.names[1]} is .* Delete .* again"):
        Pack(pack.folder).rgb(np.arange(3))
    if small == 0:
        assert len(Pack(pack.folder).rgb(np.array([0]))) == 1  # the others can be used


def test_checksums_survive_a_corrected_label(photos, tmp_path):
    source = open_images(photos("cat", "dog"), val_fraction=0).train
    pack = pack_source(source, tmp_path, progress=False)
    source.targets = 1 - source.targets
    again = pack_source(source, tmp_path, progress=False)
    assert np.array_equal(again.checksums, pack.checksums)
    assert equals_its_source(Pack(pack.folder), source)


@pytest.mark.parametrize("name", ["targets", "shapes", "offsets", "depths"])
def test_a_bit_that_turned_in_the_index_is_told(photos, tmp_path, name):
    pack = pack_source(open_images(photos("cat", "dog"), val_fraction=0).train, tmp_path, progress=False)
    index = load_file(pack.folder / "index.safetensors")
    with safe_open(pack.folder / "index.safetensors", "numpy") as file:
        about = file.metadata()
    index[name].reshape(-1)[0] ^= 1
    save_file(index, pack.folder / "index.safetensors", metadata=about)
    with pytest.raises(PocketError, match=r"index\.safetensors is damaged \(its checksum is wrong.*pack again"):
        Pack(pack.folder)
