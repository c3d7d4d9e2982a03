"""Files are whole or not there, and what the system says of a disk becomes a sentence."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time

import numpy as np
import pytest

from pocketvit import files
from pocketvit.errors import PocketError


def test_a_file_appears_whole_and_alone(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    files.write_text(path, "Grüße")
    assert path.read_text(encoding="utf-8") == "Grüße"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with files.atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_files_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk is full: could not write .*a.bin.*--resume"),
        (errno.EROFS, "no permission to write .*a.bin.*--out"),
        (errno.EACCES, "no permission to write .*a.bin.*--out"),
        (errno.EIO, "could not write .*a.bin: Input/output error"),
    ],
)
def test_what_the_disk_says_becomes_a_sentence(tmp_path, number, says):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(PocketError, match=says), files.atomic(path):
        raise OSError(number, os.strerror(number))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_folder_below_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PocketError, match=r"could not write .*file/below/a\.txt"):
        files.write_text(tmp_path / "file" / "below" / "a.txt", "x")


def test_json_is_strict_and_comes_back(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"größe": [1, 0.5, None]})
    assert files.read_json(path) == {"größe": [1, 0.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, float("nan"))
    assert files.read_json(path) == {"größe": [1, 0.5, None]}


def test_a_name_of_any_bytes_is_written_and_comes_back(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    files.write_json(tmp_path / "a.json", {"name": name})
    assert files.read_json(tmp_path / "a.json") == {"name": name}
    files.write_text(tmp_path / "page.html", f"<p>{name}</p>")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "<p>caf\\udce9.png</p>"


@pytest.mark.parametrize("content", [b'{"half": ', b"\xff\xfe\x00", b"[" * 100_000, None])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PocketError, match=r"could not read .*a\.json"):
        files.read_json(path)


def test_space_is_asked_for_where_the_folder_will_be(tmp_path):
    files.require_space(tmp_path / "not" / "yet", 1, "a byte")
    with pytest.raises(PocketError, match=r"the labels needs .* TB, but only .* are free in .*--out"):
        files.require_space(tmp_path / "not" / "yet", 10**18, "the labels")


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (999_600, "1 MB"), (3_000_000, "3 MB"), (2.5e12, "2.5 TB")],
)
def test_bytes_as_people_say_them(count, said):
    assert files.human_bytes(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.123, "0.12 s"), (42.4, "42 s"), (90, "1.5 min"), (1800, "30 min"), (7200, "2 h")]
)
def test_times_as_people_say_them(seconds, said):
    assert files.human_time(seconds) == said


def test_one_thing_is_not_several():
    assert [files.counted(n, "epoch") for n in (0, 1, 2000)] == ["0 epochs", "1 epoch", "2,000 epochs"]


def test_hashes_do_not_depend_on_the_order_of_keys():
    assert files.sha256_of({"a": 1, "b": [2, 3]}) == files.sha256_of(json.loads('{"b": [2, 3], "a": 1}'))
    assert files.sha256_of({"a": [2, 3]}) != files.sha256_of({"a": [3, 2]})


def test_a_flipped_byte_among_arrays_is_found(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", numbers=np.arange(200), names=np.array(["Grüße"]))
    read = files.read_arrays(tmp_path / "a.npz")
    assert (read["numbers"] == np.arange(200)).all()
    assert read["names"][0] == "Grüße"
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[150] ^= 8
    (tmp_path / "b.npz").write_bytes(data)
    np.savez(tmp_path / "c.npz", objects=np.array([{}], object))
    (tmp_path / "d.npz").write_bytes(b"nothing")
    with open(tmp_path / "f.npz", "wb") as file:
        np.save(file, np.arange(3))
    for name in "bcdef":
        with pytest.raises(PocketError, match=f"could not read .*{name}.npz"):
            files.read_arrays(tmp_path / f"{name}.npz")


@pytest.mark.skipif(os.name != "posix", reason="locks on folders")
def test_a_folder_has_one_at_work_and_the_next_waits_and_says_so(tmp_path, caplog):
    caplog.set_level("INFO", "pocketvit")
    order: list[str] = []

    def second() -> None:
        with files.locked(tmp_path, waiting="waiting for the first"):
            order.append("second")

    with files.locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        while "waiting for the first" not in caplog.text:
            assert thread.is_alive()
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.skipif(os.name != "posix", reason="locks on folders")
def test_what_a_killed_process_left_half_written_goes_and_what_is_being_written_stays(tmp_path):
    old, new, other = (tmp_path / "deep" / name for name in (".model.onnx.x1.part", ".device.zip.x2.part", "a.part"))
    old.parent.mkdir()
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 3600,) * 2)
    with files.locked(tmp_path):
        assert not old.exists()
        assert new.exists()
        assert other.exists()  # no name of ours


@pytest.mark.skipif(os.name != "posix", reason="locks on folders")
def test_where_the_system_locks_nothing_work_goes_on(tmp_path, monkeypatch):
    import fcntl

    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with files.locked(tmp_path):
        pass


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path):
    """It is hidden, as large as the files, and a static web server would hand it out."""
    old, new = tmp_path / ".unfinished-old", tmp_path / ".unfinished-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    with files.whole_folder(tmp_path) as made:
        (made / "model.onnx").write_bytes(b"whole")
    assert not old.exists()
    assert new.exists()  # it may be somebody's who is at work
    assert (tmp_path / "model.onnx").read_bytes() == b"whole"
