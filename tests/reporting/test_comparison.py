"""The plot of an experiment shows what was seen as seen, and nothing without something to compare."""

from __future__ import annotations

from typing import Any

import pytest

from pocketvit.reporting.comparison import compared_words, difference_plot
from pocketvit.reporting.style import SENTINELS


def arm(name: str, accuracies: list[float], against: list[float] | None = None, **changes: Any) -> dict[str, Any]:
    mean = sum(accuracies) / len(accuracies)
    entry = {"key": name, "name": name, "accuracies": accuracies, "accuracy": mean, "step_ms": 12.0, "words": "words"}
    entry |= {"difference": None, "differences": [], "interval": None, "seen": False}
    if against is not None:
        pairs = [a - b for a, b in zip(accuracies, against, strict=True)]
        entry |= {"difference": sum(pairs) / len(pairs), "differences": pairs, "interval": [-0.1, 0.2]}
    return entry | changes


BASE = arm("alone", [0.5, 0.6])
BETTER = arm("kl", [0.7, 0.8], BASE["accuracies"], seen=True)
WORSE = arm("dkd", [0.4, 0.6], BASE["accuracies"])


def test_rows_are_ordered_by_gain_with_the_baseline_last_whatever_the_order_of_the_arms():
    figure = difference_plot([BASE, WORSE, BETTER])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["kl", "dkd", "alone (baseline)"]


def test_a_difference_that_is_not_seen_is_hollow():
    axes = difference_plot([BASE, BETTER, WORSE]).axes[0]
    marks = {line.get_ydata()[0]: line for line in axes.lines if line.get_markersize() == 9}
    assert marks[0].get_markerfacecolor() == SENTINELS["student"]
    assert marks[1].get_markerfacecolor() == SENTINELS["card"]


def test_seeds_and_interval_are_drawn_in_points():
    axes = difference_plot([BASE, BETTER]).axes[0]
    drawn = [list(line.get_xdata()) for line in axes.lines]
    assert any(xs == pytest.approx([-10, 20]) for xs in drawn)
    assert any(xs == pytest.approx([20, 20]) for xs in drawn)  # both seeds gain 20 points


def test_without_costs_there_is_one_panel_and_without_a_second_arm_no_plot():
    assert len(difference_plot([BASE, BETTER]).axes) == 2
    assert len(difference_plot([BASE | {"step_ms": None}, BETTER | {"step_ms": None}]).axes) == 1
    assert difference_plot([BASE]) is None
    assert difference_plot([]) is None


def test_the_best_arm_is_named_with_how_sure_that_is():
    assert compared_words([BASE, BETTER, WORSE]) == (
        "Of 3 arms, kl has the highest mean accuracy over 2 seeds: 75.0 %; minus alone: words."
    )
    assert "the others are compared with it" in compared_words([BASE, WORSE])
    assert compared_words([BASE]) == ""
    level = arm("kl", [0.35, 0.75], [0.5, 0.6])
    assert "alone and kl have the highest mean accuracy" in compared_words([BASE, level])
