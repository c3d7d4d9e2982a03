"""What twice the time would give: exact on a power law, within its interval under noise, silent on too little."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvit.reporting.forecast import forecast, told


def lines(error, count=40, decayed=0.8):
    """A run of ``count`` epochs of a minute, whose decay divides the error by a constant."""
    level = round(0.7 * count)
    made = [
        {"elapsed": 60.0 * t, "lr": 1.0 if t <= level else 0.5, "val_accuracy": 1 - error(60.0 * t)}
        for t in range(1, count + 1)
    ]
    made[-1]["val_accuracy"] = 1 - decayed * error(60.0 * count)
    return made


def test_a_power_law_is_continued():
    expected = forecast(lines(lambda t: t**-0.3), 10_000)
    assert expected.accuracy == pytest.approx(1 - 0.8 * 4800**-0.3)
    assert expected.interval[0] < expected.accuracy < expected.interval[1]


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng, n, hits = np.random.default_rng(0), 500, 0
    for _ in range(300):
        expected = forecast(lines(lambda t: rng.binomial(n, t**-0.2) / n), n)
        hits += expected.interval[0] <= 1 - 0.8 * 4800**-0.2 <= expected.interval[1]
    assert hits / 300 > 0.9


def test_smaller_pictures_are_a_power_law_of_their_own():
    """The step at their end is no progress that would go on."""
    made = lines(lambda t: t**-0.3)
    for line in made[:24]:
        line["smaller"], line["val_accuracy"] = True, 1 - 1.5 * (1 - line["val_accuracy"])
    expected = forecast(made, 10_000)
    assert expected.accuracy == pytest.approx(1 - 0.8 * 4800**-0.3)


@pytest.mark.parametrize("count", [1, 5])
def test_few_epochs_say_nothing(count):
    few = lines(lambda t: t**-0.3, count)
    assert forecast(few, 100) is None
    assert "cannot be told" in told(few, 100)


def test_no_errors_and_no_validation_say_nothing():
    assert forecast(lines(lambda t: 0.0), 100) is None
    assert told([{"elapsed": 1.0, "lr": 1.0}], 100) == ""


def test_what_more_time_gave_stands_beside_what_it_would_give():
    text = told(lines(lambda t: t**-0.3), 1000, [{"elapsed": 1200.0, "val_accuracy": 0.8}])
    assert "80.0 % after 20 min" in text
    assert "after 40 min" in text
    assert "twice the time would give about 93.7 %" in text
