"""What is said while training goes on, where there is no terminal."""

from __future__ import annotations

import logging

import pytest
from training_fakes import train

from pocketvit.training import progress
from pocketvit.training.progress import Progress

LINE = {"loss": 0.5, "train_accuracy": 0.75, "seconds": 65.0}


@pytest.fixture
def said(caplog, monkeypatch):
    """Return the texts of the log, and move the clock."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    caplog.set_level(logging.INFO, "pocketvit")

    def texts() -> list[str]:
        return [record.getMessage().strip() for record in caplog.records]

    texts.clock = clock  # type: ignore[attr-defined]
    return texts


def test_a_line_an_epoch_and_a_line_a_minute(said):
    shown = Progress(100, True)
    for second in range(0, 130, 5):
        said.clock[0] = float(second)
        shown.within(1, second, 100, 240.0, 1.25, 0.5)
    shown.epoch(1, LINE, 0.7, last=False)
    assert said() == [
        "epoch 1, step 60 of 100: loss 1.250, train 50.0%, about 4 min left",
        "epoch 1, step 120 of 100: loss 1.250, train 50.0%, about 4 min left",
        "epoch 1: loss 0.500, train 75.0%, val 70.0%, 1.1 min",
    ]


def test_short_epochs_do_not_get_a_line_each_but_the_last_one_does(said):
    shown = Progress(100, True)
    for epoch in range(1, 21):
        said.clock[0] = float(epoch)
        shown.epoch(epoch, LINE, None, last=epoch == 20)
    assert [text.split(":")[0] for text in said()] == ["epoch 5", "epoch 10", "epoch 15", "epoch 20"]


def test_other_processes_keep_quiet(said):
    said.clock[0] = 100.0
    Progress(100, False).epoch(1, LINE, None, last=True)
    assert said() == []


def test_a_terminal_gets_a_bar_and_no_lines(said, monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    shown = Progress(100, True)
    shown.within(1, 10, 100, 5.0, 1.25, None)
    shown.goto(40, 80)
    shown.epoch(1, LINE, None, last=True)
    shown.bar.refresh()
    shown.close()
    assert said() == []
    assert "40/80" in capsys.readouterr().err


def test_a_run_speaks(tmp_path, caplog):
    caplog.set_level(logging.INFO, "pocketvit")
    train(tmp_path, epochs=1)
    assert "epoch 1: loss" in caplog.text


def test_another_score_than_the_accuracy_is_named(caplog, monkeypatch):
    caplog.set_level("INFO", logger="pocketvit")
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    progress = Progress(4, shown=True)
    progress.epoch(1, {"loss": 0.5, "train_accuracy": 0.67, "seconds": 2.0}, 1.0, True, "val_auc")
    progress.epoch(1, {"loss": 0.5, "seconds": 2.0}, 0.457, True, "val_map")
    assert "train 67.0%, val AUC 1.000" in caplog.text
    assert "val mAP 0.457" in caplog.text
