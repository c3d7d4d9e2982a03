"""Runs that use one store at the same time, and processes that wait for each other."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path

import pytest
from label_fakes import FakeSource, FakeTeacher, FakeViews

from pocketvit.errors import PocketError
from pocketvit.labels import LabelStore, sharing, write_labels


class Clock:
    """Stands in for the module `time`: waiting takes no time, and something may happen meanwhile."""

    def __init__(self, meanwhile=lambda now: None) -> None:
        self.now, self.meanwhile = 0.0, meanwhile

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile(self.now)


def label(folder, pause=0.0, images=60, **options):
    source = FakeSource(images)
    options = {"batch_size": 8, "rows_per_shard": 16, "progress": False} | options
    return write_labels(folder, source, FakeViews(source, True), [FakeTeacher("a", pause=pause)], 2, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _label(folder: str) -> None:
    label(Path(folder), pause=0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="locks on folders")
def test_two_runs_at_once_end_with_the_bytes_of_one(tmp_path):
    """None takes another's half-written shard for one that a killed run left."""
    label(tmp_path / "one")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["label_fakes", "pocketvit.labels"])
    runs = [context.Process(target=_label, args=(str(tmp_path / "two"),)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0] * 2
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.skipif(sys.platform == "win32", reason="locks on folders")
def test_what_a_killed_run_left_is_removed_only_when_nobody_else_is_at_work(tmp_path):
    place = tmp_path / "a"
    with sharing.at_work(place, {"first": True}):
        half = place / "view-00000" / ".rows-0000000000.safetensors.x1.part"
        half.parent.mkdir()
        half.touch()
        with sharing.at_work(place, {"second": True}):
            assert half.exists()
    assert json.loads((place / "manifest.json").read_text()) == {"first": True}
    with sharing.at_work(place, None):
        assert not half.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="locks on folders")
def test_where_there_are_no_locks_nothing_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing._Lock, "_flock", lambda *_: False)
    (tmp_path / ".rows.part").touch()
    with sharing.at_work(tmp_path, {"manifest": 1}):
        assert (tmp_path / ".rows.part").exists()
        assert (tmp_path / "manifest.json").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PocketError, match="no permission to write"):
        label(tmp_path / "store")


def test_waiting_for_a_process_that_died_ends_and_says_what_is_missing(tmp_path, monkeypatch):
    """Rank 0 of two has done its half; the other never comes."""
    monkeypatch.setattr(sharing, "time", Clock())
    with pytest.raises(PocketError, match=r"waited 20 min .* 4 files are missing, the first .*rows-.*the same command"):
        label(tmp_path, rank=0, world=2)
    monkeypatch.undo()
    label(tmp_path / "whole")
    label(tmp_path)  # what was finished stays
    assert {n: b for n, b in contents(tmp_path).items() if not n.startswith("whole")} == contents(tmp_path / "whole")


def test_waiting_for_a_plan_that_never_comes_ends_too(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "time", Clock())
    with pytest.raises(PocketError, match=r"waited 20 min .*manifest.json"):
        label(tmp_path, rank=1, world=2)


def test_patience_starts_anew_with_every_file(tmp_path, monkeypatch):
    paths = [tmp_path / str(number) for number in range(4)]

    def write(now: float) -> None:  # one every 15 minutes: an hour in all
        for number, path in enumerate(paths):
            if now >= 900 * (number + 1):
                path.touch()

    clock = Clock(write)
    monkeypatch.setattr(sharing, "_WAIT_SECONDS", 10)
    monkeypatch.setattr(sharing, "time", clock)
    sharing.wait_for(paths)
    assert clock.now >= 3600


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: ["a", "list"], "it holds a list"),
        (lambda _: None, "it holds a NoneType"),
        (lambda m: m | {"rows_per_shard": 0}, "its rows_per_shard is 0"),
        (lambda m: m | {"batch": "many"}, "its batch is 'many'"),
        (lambda m: m | {"k": -1}, "its k is -1"),
        (lambda m: m | {"ordered": 1}, "its ordered is 1"),
        (lambda m: m | {"teacher": 3}, "it says nothing of teacher name"),
        (lambda m: {n: v for n, v in m.items() if n != "source"}, "it says nothing of source images"),
        (lambda m: m | {"source": m["source"] | {"images": None}}, "its source images is None"),
        (lambda m: m | {"kind": {}}, "its kind is {}"),
        (lambda m: m | {"record": "many"}, "its record is 'many'"),
    ],
)
def test_a_broken_manifest_is_one_message_for_reading_and_for_labelling(tmp_path, change, words):
    path = tmp_path / label(tmp_path, images=20).teachers()[0] / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    for use in (lambda: LabelStore(tmp_path), lambda: label(tmp_path, images=20)):
        with pytest.raises(PocketError, match=f"{path} is not the manifest of a soft-label store .{words}"):
            use()


def test_records_of_what_their_kind_is_not_made_of_are_one_message(tmp_path):
    path = tmp_path / label(tmp_path, images=20).teachers()[0] / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"record": {"petals": 5}}))
    store = LabelStore(tmp_path)
    with pytest.raises(PocketError, match=r"petals.*which those of the kind 'softmax' are not made of"):
        store.record(store.teachers()[0])


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b'{"format": 1'])
def test_a_manifest_that_is_no_json_names_the_file(tmp_path, data):
    path = tmp_path / label(tmp_path, images=20).teachers()[0] / "manifest.json"
    path.write_bytes(data)
    with pytest.raises(PocketError, match=f"could not read {path}"):
        LabelStore(tmp_path)


def test_a_newer_manifest_asks_for_an_update(tmp_path):
    path = tmp_path / label(tmp_path, images=20).teachers()[0] / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(PocketError, match=r"newer pocketvit \(format 99\)"):
        LabelStore(tmp_path)
