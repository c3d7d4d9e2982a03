"""The learning rate over a run, and a run that turns out longer or shorter."""

from __future__ import annotations

import pytest
from training_fakes import config

from pocketvit.training.schedule import DECAY, Schedule


def factors(kind: str, steps: int = 50) -> list[float]:
    schedule = Schedule(config(schedule=kind, warmup=0.2), steps)
    return [schedule.factor(step) for step in range(steps)]


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
def test_it_warms_up_and_ends_near_zero(kind):
    rates = factors(kind)
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(rates) == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.08


def test_a_cosine_is_halfway_in_the_middle():
    assert factors("cosine")[30] == pytest.approx(0.5)


def test_stable_until_the_decay_and_then_a_straight_line():
    rates = factors("wsd", 100)
    start = round(100 * (1 - DECAY))
    assert set(rates[20 : start + 1]) == {1.0}
    steps = [a - b for a, b in zip(rates[start:], rates[start + 1 :], strict=False)]
    assert steps == pytest.approx([1 / (100 - start)] * len(steps))


def test_what_lies_before_the_decay_does_not_know_how_long_the_run_is():
    short, long = (Schedule(config(schedule="wsd", warmup=0.1), steps) for steps in (100, 400))
    long.warmup = short.warmup
    before = range(round(100 * (1 - DECAY)))
    assert [short.factor(step) for step in before] == [long.factor(step) for step in before]
    assert not short.decays(60)
    assert short.decays(80)


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
@pytest.mark.parametrize("total", [70, 200])
def test_another_length_bends_what_is_left_without_a_jump(kind, total):
    schedule = Schedule(config(schedule=kind, warmup=0.1), 100)
    before = [schedule.factor(step) for step in range(61)]
    schedule.replan(60, total)
    assert schedule.factor(60) == pytest.approx(before[60])
    rest = [schedule.factor(step) for step in range(60, total)]
    assert rest == sorted(rest, reverse=True)
    assert 0 < rest[-1] < 0.2
    assert schedule.progress(total) == 1


def test_a_state_brings_the_plan_back():
    schedule, other = (Schedule(config(schedule="wsd"), 100) for _ in range(2))
    schedule.replan(40, 130)
    other.restore(schedule.state())
    assert [schedule.factor(step) for step in range(130)] == [other.factor(step) for step in range(130)]
