"""Long work says how far it is, with and without a terminal."""

from __future__ import annotations

import sys

import pytest

from pocketvit import progress
from pocketvit.progress import Bar


@pytest.fixture
def minutes(monkeypatch):
    """A clock that goes on by half a minute each time it is read."""
    now = iter(range(0, 100_000, 30))

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return float(next(now))

    monkeypatch.setattr(progress, "time", Clock)


def test_without_a_terminal_there_is_a_line_a_minute(minutes, caplog, capfd):
    caplog.set_level("INFO", "pocketvit")
    with Bar(4000, "labelling") as bar:
        for _ in range(4):
            bar.update(1000)
    assert [record.getMessage().strip() for record in caplog.records] == [
        "labelling: 2,000 of 4,000 images, about 1 min left",
        "labelling: 4,000 of 4,000 images, about 0 s left",
    ]
    assert capfd.readouterr().err == ""


def test_other_processes_keep_quiet(minutes, caplog, capfd):
    caplog.set_level("INFO", "pocketvit")
    with Bar(2, "labelling", shown=False) as bar:
        for _ in range(8):
            bar.update(1)
    assert not caplog.records
    assert capfd.readouterr().err == ""


def test_a_terminal_has_a_bar(minutes, caplog, capfd, monkeypatch):
    caplog.set_level("INFO", "pocketvit")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Bar(2, "labelling") as bar:
        for _ in range(2):
            bar.update(1)
    assert not caplog.records
    assert "labelling: 100%" in capfd.readouterr().err
