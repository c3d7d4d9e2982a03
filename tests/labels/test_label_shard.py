"""A shard checks itself: no wrong byte goes unseen, and equal content is equal bytes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from safetensors import safe_open

from pocketvit.errors import PocketError
from pocketvit.labels import shard
from pocketvit.labels.record import Softmax
from pocketvit.labels.shard import ShardInfo, read_info, read_shard, write_shard


@pytest.fixture(name="written")
def _written(tmp_path):
    info = ShardInfo("t" * 64, "s" * 64, "v" * 64, view=3, start=0, rows=6, num_classes=300, k=4, ordered=True)
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(0))
    arrays = Softmax(300, 4).encode(logits, torch.full((6, 2), -1))
    path = tmp_path / "rows-0000000000.safetensors"
    write_shard(path, info, arrays)
    return path, info, arrays


def forget(monkeypatch):
    """Read files anew, also those that changed within the clock's last tick."""
    monkeypatch.setattr(shard, "_verified", set())
    shard._header_of.cache_clear()


def test_what_was_written_is_read(written):
    path, info, arrays = written
    read, back = read_shard(path)
    assert read == info == read_info(path)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(back[name], array)


def test_shards_are_safetensors_with_named_tensors_rows_first(written):
    path, _, _ = written
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"ids", "values", "maximum", "lse_rest", "mean_rest", "std_rest"}
        assert file.get_tensor("values").shape == (6, 4)
        assert file.get_tensor("ids").dtype == torch.uint16


def test_equal_content_is_equal_bytes(written, tmp_path):
    path, info, arrays = written
    write_shard(tmp_path / "again", info, dict(reversed(arrays.items())))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_any_flipped_byte_is_found(written, monkeypatch):
    """Every byte of the file in turn, header and data; the message names the shard and how to repair it."""
    path, info, arrays = written
    good = path.read_bytes()
    for place in range(len(good)):
        forget(monkeypatch)
        bad = bytearray(good)
        bad[place] ^= 1 << (place % 8)
        path.write_bytes(bad)
        message = ""
        try:
            read, back = read_shard(path)
        except PocketError as error:
            message = str(error)
        if message:
            assert str(path) in message
            assert "Delete this file and run `label` again" in message
        else:  # only white space of the header may be another
            assert good[place : place + 1] == b" "
            assert read == info
            assert all(np.array_equal(back[name], array) for name, array in arrays.items())


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_shard_is_found(written, keep):
    path, _, _ = written
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PocketError, match="damaged"):
        read_shard(path)


def test_checksums_are_verified_once_a_process_and_again_when_the_file_changes(written, monkeypatch):
    path, _, _ = written
    forget(monkeypatch)
    read_shard(path)
    calls = []
    monkeypatch.setattr(shard, "_checksum", lambda *_: calls.append(1) or "0")
    read_shard(path)
    assert not calls
    path.touch()
    with pytest.raises(PocketError, match="checksum"):
        read_shard(path)


def test_a_safetensors_file_of_something_else_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, tmp_path / "rows-0000000000.safetensors")
    with pytest.raises(PocketError, match="description"):
        read_shard(tmp_path / "rows-0000000000.safetensors")


GOLDEN = {
    (10, 0, True, "softmax"): "0699fd34e9acfa4b",
    (300, 4, False, "softmax"): "a9d7b0d290613a07",
    (70000, 2, True, "softmax"): "505a2f77fdcb9d1a",
    (5, 0, False, "sigmoid"): "472255c755d5858c",
}


@pytest.mark.parametrize(("classes", "k", "ordered", "kind"), GOLDEN)
def test_shards_have_the_bytes_of_version_0_1(tmp_path, classes, k, ordered, kind):
    """Hashes taken with that version: its stores are read, and go on growing."""
    info = ShardInfo("t" * 64, "s" * 64, "v" * 64, 3, 0, 6, classes, k, ordered, kind)
    arrays = {}
    for number, (name, field) in enumerate(sorted(info.fields().items())):
        numbers = np.arange(6 * int(np.prod(field.shape, dtype=int))).reshape(6, *field.shape)
        arrays[name] = ((numbers * 7 + number) % 251).astype(field.dtype)
    path = tmp_path / "rows-0000000000.safetensors"
    write_shard(path, info, arrays)
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == GOLDEN[classes, k, ordered, kind]
    assert read_shard(path)[0] == info
