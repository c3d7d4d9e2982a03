"""Figures touch no global state, draw nothing from nothing, and keep their text as text."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from pocketvit.reporting import plots
from pocketvit.reporting.results import Curve, Row
from pocketvit.reporting.style import inline_svg

ROWS = (
    Row("t", "teacher", "teacher", accuracy=0.97, interval=(0.95, 0.98), bytes=9_000_000, latency_p50=20.0),
    Row("s", "student $x_{$", "student", accuracy=0.94, interval=(0.9, 0.96), bytes=500_000, latency_p50=1.0),
    Row("n", "other", measured=False),
)


def test_global_settings_are_untouched():
    before = dict(matplotlib.rcParams)
    inline_svg(plots.bars(ROWS), "b", "title")
    assert dict(matplotlib.rcParams) == before


def test_nothing_to_show_is_none():
    assert plots.accuracy_against(ROWS[:1], "bytes") is None
    assert plots.bars(ROWS[2:]) is None
    assert plots.learning_curves(ROWS, {"s": [{"epoch": 1}]}, "loss") is None
    assert plots.confusion_matrix(np.eye(61, dtype=int), ["c"] * 61) is None


@pytest.mark.parametrize("cost", ["bytes", "latency_p50"])
def test_intervals_lie_inside_the_plot(cost):
    figure = plots.accuracy_against(ROWS, cost)
    low, high = figure.axes[0].get_ylim()
    assert low < 90
    assert 98 < high <= 101


def test_bars_start_at_zero_and_text_is_not_mathematics():
    figure = plots.bars(ROWS)
    assert [axes.get_xlim()[0] for axes in figure.axes] == [0, 0]
    svg = inline_svg(figure, "b", "a <b> title")
    assert "student $x_{$" in svg
    assert "not run" in svg
    assert "a &lt;b&gt; title" in svg


def test_an_arm_without_a_row_is_still_drawn():
    figure = plots.learning_curves(ROWS, {"else": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": None}]}, "loss")
    assert len(figure.axes[0].lines[0].get_xdata()) == 1


def test_curves_run_over_the_time_of_training():
    lines = [{"epoch": 1, "elapsed": 90.0, "loss": 2.0}, {"epoch": 2, "elapsed": 180.0, "loss": 1.0}]
    axes = plots.learning_curves(ROWS, {"s": lines}, "loss").axes[0]
    assert list(axes.lines[0].get_xdata()) == [1.5, 3.0]
    assert axes.get_xlabel() == "minutes of training"
    assert plots.learning_curves(ROWS, {"s": [{"epoch": 1, "loss": 2.0}]}, "loss").axes[0].get_xlabel() == "epoch"


def test_an_operating_point_lies_where_its_errors_say():
    truth = np.array([True, True, False, False])
    row = Row("s", "student", "student", sensitivity=0.5, specificity=0.75, sensitivity_interval=(0.2, 0.8))
    axes = plots.roc(truth, np.array([0.9, 0.4, 0.6, 0.1]), row, "student").axes[0]
    curve = axes.lines[1]
    assert (curve.get_xdata()[-1], curve.get_ydata()[-1]) == (100, 100)
    assert (axes.lines[-1].get_xdata()[0], axes.lines[-1].get_ydata()[0]) == (25, 50)
    assert plots.roc(np.ones(4, bool), np.ones(4), row, "student") is None


def test_reliability_before_and_after_are_told_apart():
    curve = Curve((0.5, 0.9), (0.6, 0.8), (40, 40))
    assert plots.reliability_curves({}) is None
    both = plots.reliability_curves({"before": curve, "after": curve}).axes[0]
    assert [text.get_text() for text in both.get_legend().get_texts()] == [
        "before the temperature was fitted", "after the temperature was fitted",
    ]  # fmt: skip
    assert both.get_xlim()[0] <= 50
    alone = plots.reliability_curves({"before": curve}).axes[0]
    assert "no temperature" in alone.get_legend().get_texts()[0].get_text()
