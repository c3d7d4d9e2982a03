"""A plot over the values of a choice: a line a method, with the interval over its seeds as a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from ..metrics import paired_difference
from .style import MARKERS, SENTINELS, figure

_COLOURS = ("teacher", "student", "ceiling", "other", "int8")


def curve_plot(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], values: Sequence[float], choice: str
) -> Figure:
    """Draw a panel beside the other, each with a line a method; the band is the 95 % interval over its seeds.

    Args:
        panels: {title of a panel: {method: for each value its figures in percent, one a seed}}; a method has the same
            colour in every panel.
        values: of the choice, drawn on a scale of factors.
        choice: what they are, under the axis.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    looks = dict(zip(names, zip(_COLOURS, MARKERS, strict=False), strict=False))
    with figure(380 * len(panels), 300, "curves") as drawing:
        for axes, (title, lines) in zip(
            drawing.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for name, figures in lines.items():
                _draw(axes, values, figures, name, *looks[name])
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(list(values)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
            axes.set_xlabel(choice)
            axes.set_title(title, loc="left", fontsize=11.5, color=SENTINELS["muted"])
            axes.legend(frameon=False, fontsize=9.5, labelcolor=SENTINELS["ink"])
        return drawing


def _draw(
    axes: Axes, values: Sequence[float], figures: Sequence[Sequence[float]], name: str, role: str, marker: str
) -> None:
    colour = SENTINELS[role]
    spreads = [paired_difference(one, [0.0] * len(one)) for one in figures]
    axes.plot(values, [one.mean for one in spreads], marker=marker, color=colour, linewidth=2, markersize=6, label=name)
    if all(one.interval is not None for one in spreads):
        low, high = zip(*(one.interval for one in spreads if one.interval is not None), strict=True)
        axes.fill_between(values, low, high, color=colour, alpha=0.16, linewidth=0)
