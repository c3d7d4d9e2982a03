"""Run folders are numbered, never overwritten, found again, and refuse other choices."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
from pathlib import Path

import pytest

from pocketvit.errors import PocketError
from pocketvit.rundir import Outcome, Run, machine
from pocketvit.settings import Distill, speak

CONFIG = Distill(images="photos", window=(0.0, 1.0), epochs=3)


def test_runs_are_numbered_and_never_overwritten(tmp_path):
    first, second = (Run.create(tmp_path / "runs", "photos", CONFIG) for _ in range(2))
    assert [run.folder.name for run in (first, second)] == ["photos-1", "photos-2"]
    (tmp_path / "runs" / "photos-41").mkdir()
    (tmp_path / "runs" / "photos-x").mkdir()
    (tmp_path / "runs" / "other.photos-50").mkdir()
    assert Run.create(tmp_path / "runs", "photos", CONFIG).folder.name == "photos-42"


def test_a_faster_process_is_stepped_aside_for(tmp_path, monkeypatch):
    make = Path.mkdir

    def raced(self, *args, **kwargs):
        if self.name == "photos-1":
            make(self)
        return make(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", raced)
    assert Run.create(tmp_path, "photos", CONFIG).folder.name == "photos-2"


def test_the_choices_come_back(tmp_path):
    assert Run(Run.create(tmp_path, "photos", CONFIG).folder).settings == CONFIG


def test_the_newest_run_is_resumed(tmp_path):
    for _ in range(10):
        newest = Run.create(tmp_path, "photos", CONFIG)
    assert Run.unfinished(tmp_path, "photos", CONFIG).folder == newest.folder


def test_a_folder_that_was_killed_before_its_config_is_passed_over(tmp_path):
    kept = Run.create(tmp_path, "photos", CONFIG)
    (tmp_path / "photos-2").mkdir()
    assert Run.unfinished(tmp_path, "photos", CONFIG).folder == kept.folder


@pytest.mark.skipif(os.name != "posix", reason="locks on folders")
def test_a_run_that_another_command_works_in_is_not_gone_on_with(tmp_path):
    run = Run.create(tmp_path, "photos", CONFIG)
    with (
        run.alone(),
        pytest.raises(PocketError, match=r"another command is at work in .*photos-1.*leave --resume away"),
        Run(run.folder).alone(),
    ):
        pass
    with Run(run.folder).alone():  # it goes with the one that had it
        pass


def test_other_choices_are_refused_by_name(tmp_path):
    run = Run.create(tmp_path, "photos", CONFIG)
    other = dataclasses.replace(CONFIG, epochs=5)
    with pytest.raises(PocketError, match=r"epochs: 3 -> 5.*`--resume .*photos-1`"):
        Run.unfinished(tmp_path, "photos", other)
    assert run.settings == CONFIG


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(PocketError, match="nothing to resume: no run photos-N in"):
        Run.unfinished(tmp_path / "runs", "photos", CONFIG)


def test_what_is_no_run_folder_is_said(tmp_path):
    with pytest.raises(PocketError, match="is not a run folder"):
        Run(tmp_path)
    with pytest.raises(PocketError, match="is not a run folder"):
        Run(tmp_path / "none")


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    run = Run.create(tmp_path, "photos", CONFIG)
    assert not run.finished
    assert "unfinished" in repr(run)
    with pytest.raises(PocketError, match=r"is not finished; give its command again with --resume .*photos-1\."):
        _ = run.results


def test_what_is_to_be_typed_holds_for_a_folder_with_a_space(tmp_path):
    run = Run.create(tmp_path / "my runs", "photos", CONFIG)
    with pytest.raises(PocketError, match=r"--resume '.*my runs/photos-1'\."):
        _ = run.results
    with pytest.raises(PocketError, match=r"`--resume '.*my runs/photos-1'`"):
        Run.unfinished(tmp_path / "my runs", "photos", dataclasses.replace(CONFIG, epochs=5))


@pytest.mark.parametrize("text", ["[1]", "{}", '{"rows": 3}', "{"])
def test_results_that_are_none_are_one_message(tmp_path, text):
    run = Run.create(tmp_path, "photos", CONFIG)
    (run.folder / "results.json").write_text(text)
    for use in (lambda: run.data, lambda: run.table, lambda: str(run)):
        with pytest.raises(PocketError, match=r"results\.json"):
            use()


def test_an_impossible_place_is_one_message(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(PocketError, match=r"could not write .*file"):
        Run.create(tmp_path / "file" / "runs", "photos", CONFIG)

    def read_only(self, *args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(PocketError, match=r"no permission to write .*--out"):
        Run.create(tmp_path / "runs", "photos", CONFIG)


def test_what_is_said_goes_to_the_log_while_the_run_lasts(tmp_path):
    run = Run.create(tmp_path, "photos", CONFIG)
    log = logging.getLogger("pocketvit")

    def fail():
        with run.logging():
            log.warning("inside")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    log.warning("outside")
    text = (run.folder / "train.log").read_text()
    assert "inside" in text
    assert "outside" not in text


@contextlib.contextmanager
def bare_logging():
    """Logging as it is in a fresh Python program: without pytest's handlers."""
    root, log = logging.getLogger(), logging.getLogger("pocketvit")
    before = root.handlers[:], log.handlers[:], log.level, log.propagate
    root.handlers[:], log.handlers[:] = [], []
    try:
        yield root, log
    finally:
        root.handlers[:], log.handlers[:], level, log.propagate = before
        log.setLevel(level)


def test_a_name_of_any_bytes_goes_to_the_log(tmp_path, capfd, monkeypatch):
    run = Run.create(tmp_path, "photos", CONFIG)
    monkeypatch.setattr(logging.getLogger("pocketvit"), "propagate", False)  # pytest cannot send such names on
    with run.logging():
        logging.getLogger("pocketvit").warning("broken: %s", os.fsdecode(b"caf\xe9.png"))
    assert "broken: caf\\udce9.png" in (run.folder / "train.log").read_text(encoding="utf-8")
    assert "Logging error" not in capfd.readouterr().err


def test_a_python_caller_reads_every_line_once(capsys):
    """Libraries call `logging.basicConfig` under way; what we say must not come twice then."""
    with bare_logging() as (_, log):
        speak()
        speak()
        logging.basicConfig(level=logging.INFO)
        log.info("said")
    assert capsys.readouterr().err == "said\n"


def test_logging_that_a_caller_has_set_up_is_left_alone(capsys):
    with bare_logging() as (root, log):
        root.addHandler(logging.NullHandler())
        speak()
        log.warning("said")
        assert log.handlers == []
    assert capsys.readouterr().err == ""


def test_an_outcome_is_its_text():
    assert str(Outcome("text")) == repr(Outcome("text")) == "text"


def test_the_machine_is_named():
    here = machine()
    assert here["cores"] == os.cpu_count()
    assert here["cpu"]
    assert here["torch"]
