"""A run ends on the clock, whatever the machine does meanwhile, and can be given more time later."""

from __future__ import annotations

import pytest
from test_resume import metrics_without_times, stop_after
from training_fakes import same_weights, tiny_vit, train

from pocketvit.errors import PocketError
from pocketvit.training import Stepper, budget, read_metrics
from pocketvit.training.budget import Clock, next_look, steps_left
from pocketvit.training.checkpoint import read_checkpoint

STEP, EVALUATION = 0.1, 0.3  # seconds of the clock that the tests move


class Watch:
    """A clock that moves as steps and evaluations are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slower_from: int | None = None, factor: float = 1.0) -> None:
        self.time = 0.0
        monkeypatch.setattr(budget, "now", lambda: self.time)
        take = Stepper.take

        def taking(stepper, batches):
            slow = slower_from is not None and stepper.step >= slower_from
            self.time += STEP * (factor if slow else 1.0)
            return take(stepper, batches)

        monkeypatch.setattr(Stepper, "take", taking)
        evaluate = Clock.evaluated

        def evaluated(clock):
            self.time += EVALUATION
            evaluate(clock)

        monkeypatch.setattr(Clock, "evaluated", evaluated)


@pytest.mark.parametrize(("slower_from", "factor"), [(None, 1.0), (30, 2.0), (30, 0.5), (50, 3.0)])
@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_run_takes_the_time_it_was_given(tmp_path, monkeypatch, schedule, slower_from, factor):
    watch = Watch(monkeypatch, slower_from, factor)
    rates = []
    train(tmp_path, seconds=10.0, schedule=schedule, on_epoch=rates.append)
    assert watch.time == pytest.approx(10.0, rel=0.05)
    assert rates[-1]["elapsed"] == pytest.approx(watch.time)
    assert rates[-1]["lr"] < 0.5 * 3e-3  # the decay came to its end, too, in however few steps


def test_a_budget_too_short_for_an_epoch_is_refused_after_a_few_steps(tmp_path, monkeypatch):
    watch = Watch(monkeypatch)
    with pytest.raises(PocketError, match=r"1 s are too short: one epoch takes about 1\.2 s"):
        train(tmp_path, seconds=1.0, batch_size=4)  # 12 steps an epoch
    assert watch.time < 1.0


def test_the_last_epoch_may_be_a_part_of_one_and_is_evaluated(tmp_path, monkeypatch):
    Watch(monkeypatch)
    train(tmp_path, seconds=5.0)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["step"] for line in lines[:-1]] == [6 * line["epoch"] for line in lines[:-1]]
    assert lines[-2]["step"] < lines[-1]["step"] <= 6 * len(lines)
    assert all("val_accuracy" in line for line in lines)


def test_an_interrupted_budget_goes_on_with_what_was_left_of_it(tmp_path, monkeypatch):
    watch = Watch(monkeypatch)
    with monkeypatch.context() as patch:
        stop_after(patch, 30)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, seconds=10.0)
    assert watch.time < 6
    watch.time += 1000  # it lay about for a while
    train(tmp_path, seconds=10.0, resume=True)
    assert watch.time - 1000 == pytest.approx(10.0, rel=0.05)


@pytest.mark.parametrize("interrupted_at", [None, 20])
def test_a_finished_run_that_is_extended_equals_one_that_was_longer_from_the_start(
    tmp_path, monkeypatch, interrupted_at
):
    """But for the warm-up, which is a share of what was planned first: here it is none."""
    settings = {"schedule": "wsd", "warmup": 0.0}
    long = train(tmp_path / "long", epochs=6, **settings)
    train(tmp_path / "short", epochs=3, **settings)
    _, stable = read_checkpoint(tmp_path / "short" / "checkpoints" / "stable.safetensors")
    assert stable["step"] == 13  # of 18 steps the last 30 % decay
    if interrupted_at is not None:
        with monkeypatch.context() as patch:
            stop_after(patch, interrupted_at)
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path / "short", epochs=6, resume=True, **settings)
    assert same_weights(train(tmp_path / "short", epochs=6, resume=True, **settings), long)
    assert metrics_without_times(tmp_path / "short") == metrics_without_times(tmp_path / "long")
    before = read_metrics(tmp_path / "short" / "extended.jsonl")
    assert [(line["epoch"], line["step"]) for line in before] == [(3, 18)]


def test_a_budget_of_time_is_extended_too(tmp_path, monkeypatch):
    watch = Watch(monkeypatch)
    train(tmp_path, seconds=6.0, schedule="wsd")
    _, stable = read_checkpoint(tmp_path / "checkpoints" / "stable.safetensors")
    used = watch.time
    train(tmp_path, seconds=12.0, schedule="wsd", resume=True)
    assert watch.time - used == pytest.approx(12.0 - stable["clock"][0], rel=0.05)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert lines[-1]["elapsed"] == pytest.approx(12.0, rel=0.05)
    assert lines[-1]["lr"] < 0.15 * 3e-3


def test_an_unfinished_run_is_extended_from_where_it_is(tmp_path, monkeypatch):
    settings = {"schedule": "wsd", "warmup": 0.0}
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "short", epochs=3, **settings)
    resumed = train(tmp_path / "short", epochs=6, resume=True, **settings)
    assert same_weights(resumed, train(tmp_path / "long", epochs=6, **settings))
    assert not (tmp_path / "short" / "extended.jsonl").exists()


def test_a_cosine_cannot_be_extended_and_nothing_can_be_shortened(tmp_path):
    train(tmp_path / "cosine", epochs=1)
    with pytest.raises(PocketError, match="Train anew, with --hours"):
        train(tmp_path / "cosine", epochs=2, resume=True)
    train(tmp_path / "wsd", epochs=2, schedule="wsd")
    with pytest.raises(PocketError, match="epochs was 2, now 1"):
        train(tmp_path / "wsd", epochs=1, schedule="wsd", resume=True)
    with pytest.raises(PocketError, match="learning_rate"):
        train(tmp_path / "wsd", epochs=3, schedule="wsd", learning_rate=0.1, resume=True)


def test_steps_left_leave_room_for_the_evaluations():
    assert steps_left(10.0, 0.1, 0.0, 50) == 100
    assert steps_left(10.0, 0.1, 1.0, 50) == 75  # 9 s for steps of 0.1 s and a fiftieth of an evaluation
    assert steps_left(-1.0, 0.1, 0.0, 50) == 0
    assert next_look(0) >= 1


def test_a_trained_network_with_a_budget_is_as_long_on_resume_as_it_was(tmp_path, monkeypatch):
    Watch(monkeypatch)
    first = train(tmp_path, seconds=5.0)
    monkeypatch.setattr(Stepper, "take", None)
    assert same_weights(train(tmp_path, tiny_vit(), seconds=5.0, resume=True), first)
