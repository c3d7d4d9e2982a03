"""The plot of an experiment: what each arm gains over the baseline, seed by seed, with its interval and its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .style import SENTINELS, figure


def difference_plot(arms: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw a row an arm: points over the baseline at the left, milliseconds a training step at the right.

    A filled mark is a difference that is seen (see `tasks.classification.paired_difference`), a hollow one is not.

    Args:
        arms: As ``results.json`` lists them under "comparison", the baseline ("difference" is None) among them.

    Returns:
        None without a second arm.
    """
    baseline = next((arm for arm in arms if arm.get("difference") is None), None)
    others = [arm for arm in arms if arm.get("difference") is not None]
    if baseline is None or not others:
        return None
    rows = [*sorted(others, key=lambda arm: -arm["difference"]), baseline]
    costs = [arm.get("step_ms") for arm in rows]
    with figure(720, 74 + 30 * len(rows), "differences") as drawing:
        if any(costs):
            axes, cost_axes = drawing.subplots(1, 2, width_ratios=(2.2, 1))
            _draw_costs(cost_axes, costs)
        else:
            axes = drawing.subplots()
        axes.grid(False)
        axes.grid(True, axis="x")
        axes.axvline(0, color=SENTINELS["baseline"], linewidth=1.5)
        for place, arm in enumerate(rows):
            _draw_difference(axes, place, arm)
        names = [arm["name"] + (" (baseline)" if arm is baseline else "") for arm in rows]
        axes.set_yticks(range(len(rows)), names, color=SENTINELS["ink"])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
        _title(axes, f"accuracy minus that of {baseline['name']}, points")
        return drawing


def compared_words(arms: Sequence[Mapping[str, Any]]) -> str:
    """Return which arm came out best, and how sure that is; nothing without a second arm."""
    if len(arms) < 2:
        return ""
    highest = max(arm["accuracy"] for arm in arms)
    level = [arm for arm in arms if arm["accuracy"] > highest - 1e-9]  # equal means differ in their last bit
    baseline = next(arm for arm in arms if arm["difference"] is None)
    seeds = len(baseline["accuracies"])
    over = f"{seeds} seeds" if seeds > 1 else "one seed"
    names = " and ".join(arm["name"] for arm in level)
    first = (
        f"Of {len(arms)} arms, {names} {'has' if len(level) == 1 else 'have'} the highest mean accuracy over {over}: "
        f"{100 * highest:.1f} %"
    )
    if baseline in level:
        return f"{first}; the others are compared with {'it' if len(level) == 1 else baseline['name']}."
    return f"{first}; minus {baseline['name']}: {level[0]['words']}."


def _draw_difference(axes: Axes, place: int, arm: Mapping[str, Any]) -> None:
    if arm["difference"] is None:
        axes.plot(0, place, "^", color=SENTINELS["baseline"], markersize=9)
        return
    colour = SENTINELS["student"]
    if arm["interval"] is not None:
        low, high = (100 * bound for bound in arm["interval"])
        axes.plot([low, high], [place, place], color=colour, linewidth=2, alpha=0.45)
    seeds = [100 * value for value in arm["differences"]]
    axes.plot(seeds, [place] * len(seeds), "o", color=colour, markersize=3.5, alpha=0.6)
    (mark,) = axes.plot(100 * arm["difference"], place, "o", color=colour, markersize=9, zorder=3)
    if not arm["seen"]:
        mark.set_markerfacecolor(SENTINELS["card"])
        mark.set_markeredgecolor(colour)
        mark.set_markeredgewidth(2)


def _draw_costs(axes: Axes, costs: Sequence[float | None]) -> None:
    axes.grid(False)
    for place, cost in enumerate(costs):
        if cost:
            axes.barh(place, cost, height=0.55, color=SENTINELS["baseline"], alpha=0.5, linewidth=0)
        words = f"{cost:.3g} ms" if cost else "–"
        axes.annotate(
            words, (cost or 0, place), xytext=(6, 0), textcoords="offset points", va="center_baseline",
            color=SENTINELS["ink"], annotation_clip=False,
        )  # fmt: skip
    axes.set_ylim(len(costs) - 0.4, -0.6)
    axes.set_xlim(0, 1.4 * max(cost or 0 for cost in costs))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["bottom"]].set_visible(False)
    _title(axes, "a training step")


def _title(axes: Axes, words: str) -> None:
    axes.set_title(words, loc="left", fontsize=11.5, color=SENTINELS["muted"], pad=8)
