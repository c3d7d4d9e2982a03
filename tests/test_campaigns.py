"""The campaigns in small: `make faults` and `make fuzz` run them at length (docs/reliability.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from campaigns import fuzz
from hypothesis import find
from hypothesis import settings as hypothesis_settings

INPUTS = 12
CAMPAIGNS = Path(fuzz.__file__).parent


@pytest.mark.parametrize("name", fuzz.READERS)
def test_what_is_broken_is_read_or_refused(name):
    tally = fuzz.campaign(name, INPUTS, seed=0)
    assert not tally.crashes
    assert tally.inputs == tally.read + tally.refused > INPUTS // 2


def test_a_reader_that_crashes_or_hangs_is_found(tmp_path, monkeypatch):
    def make(folder: Path) -> Path:
        (folder / "a.json").write_text('{"a": 1}')
        return folder / "a.json"

    def crash(path: Path) -> None:
        if path.read_bytes() != b'{"a": 1}':
            raise KeyError("a")

    monkeypatch.setitem(fuzz.READERS, "crashing", fuzz.Reader(make, crash, "json"))
    tally = fuzz.campaign("crashing", 5, 0, tmp_path)
    assert tally.crashes[0] == "KeyError: 'a'"
    assert len(list(tmp_path.glob("crashing-*.json"))) == len(tally.crashes)


def test_every_kind_of_edit_is_drawn():
    once = hypothesis_settings(database=None, deadline=None, max_examples=2000)
    data = bytes(range(32))
    for wanted in (lambda d: len(d) < 32, lambda d: len(d) > 32, lambda d: len(d) == 32 and d != data):
        find(fuzz.broken(data), wanted, settings=once)
    find(fuzz.exchanged(b'{"a": {"b": 1}}'), lambda d: json.loads(d).get("a") != {"b": 1}, settings=once)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts events of the file system by fork")
def test_a_run_that_is_struck_ends_with_the_result_of_an_unbroken_one():
    command = [sys.executable, str(CAMPAIGNS / "faults.py"), "--trials", "1", "--kind", "term", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all | | 1 | 1 |" in done.stdout
