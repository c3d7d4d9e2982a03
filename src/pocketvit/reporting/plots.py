"""The figures of the report: accuracy against cost, learning curves, confusion matrix, reliability, ROC, bars.

Each function returns a matplotlib figure, or None where the run does not hold what it would show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation
from sklearn.metrics import roc_curve

from ..files import human_bytes
from .results import Curve, Row
from .style import SENTINELS, figure, looks
from .text import accuracy_text

_TIMES = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))  # units of a time axis
_GAP = 11  # pixels between points of one cost, which would hide each other
_SHOWN = {"val_accuracy": "accuracy", "val_auc": "AUC", "val_map": "mAP"}


def accuracy_against(rows: Sequence[Row], cost: str, name: str = "accuracy") -> Figure | None:
    """Plot accuracy, with its interval, against ``cost``: "bytes" (file size) or "latency_p50" (milliseconds)."""
    points = [(row, getattr(row, cost)) for row in rows if row.accuracy is not None and getattr(row, cost)]
    if len(points) < 2:
        return None
    look = looks(rows)
    words = {"bytes": "file size", "latency_p50": "latency of one image, median"}[cost]
    show: Callable[[float], str] = human_bytes if cost == "bytes" else lambda ms: f"{ms:.3g} ms"
    with figure(440, 300, f"accuracy-{cost}") as drawing:
        axes = drawing.subplots()
        shifts = _side_by_side([x for _, x in points])
        for (row, x), shift in zip(points, shifts, strict=True):
            place = axes.transData + ScaledTranslation(shift / 72, 0, drawing.dpi_scale_trans)
            colour = SENTINELS[row.role]
            y = 100 * row.accuracy  # type: ignore[operator]
            if row.interval is not None:
                low, high = (100 * bound for bound in row.interval)
                axes.plot([x, x], [low, high], color=colour, linewidth=2, alpha=0.45, zorder=2, transform=place)
            (mark,) = axes.plot(x, y, look[row.key].marker, color=colour, markersize=9, zorder=3, transform=place)
            mark.set_markeredgecolor(SENTINELS["card"])
            spread = [100 * bound for bound in row.interval] if row.interval is not None else [y]
            axes.update_datalim([(x, value) for value in (y, *spread)])  # a shifted artist does not count by itself
        axes.autoscale_view()
        costs = [x for _, x in points]
        _cost_axis(axes, min(costs), max(costs), show)
        axes.set_xlabel(words)
        _percent_axis(axes, name)
        return drawing


def learning_curves(rows: Sequence[Row], curves: Mapping[str, list[dict[str, Any]]], what: str) -> Figure | None:
    """Plot ``what`` ("val_accuracy" or "loss") over the time of training, a line for each arm of ``curves``.

    Over the epochs where a line does not say when it was written.
    """
    look = looks(rows)
    timed = all("elapsed" in line for metrics in curves.values() for line in metrics)
    longest = max((line["elapsed"] for metrics in curves.values() for line in metrics), default=0.0) if timed else 0.0
    unit, word = next(pair for pair in _TIMES if longest >= 2 * pair[0] or pair is _TIMES[-1])
    lines = {}
    for key, metrics in curves.items():
        pairs = [(m["elapsed"] / unit if timed else m.get("epoch"), m.get(what)) for m in metrics]
        pairs = [(x, y) for x, y in pairs if isinstance(x, (int, float)) and isinstance(y, (int, float))]
        if pairs:
            lines[key] = np.array(pairs, dtype=float)
    if not lines:
        return None
    with figure(440, 270, f"curves-{what}") as drawing:
        axes = drawing.subplots()
        scale = 1 if what == "loss" else 100
        for key, points in lines.items():
            style = look.get(key)
            colour = SENTINELS[style.role if style else "other"]
            dashes = style.dashes if style else "-"
            axes.plot(points[:, 0], scale * points[:, 1], color=colour, linestyle=dashes, linewidth=2)
            axes.plot(
                points[-1:, 0], scale * points[-1:, 1], style.marker if style else "P", color=colour, markersize=7
            )
        axes.set_xlabel(f"{word} of training" if timed else "epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=not timed))
        if what != "loss":
            _percent_axis(axes, f"{_SHOWN[what]} on the validation split")
        else:
            axes.set_title("training loss", loc="left", fontsize=11.5, color=SENTINELS["muted"])
            axes.yaxis.set_major_locator(MaxNLocator(5))
        return drawing


def confusion_matrix(counts: np.ndarray, classes: Sequence[str]) -> Figure | None:
    """Draw a confusion matrix (rows: truth, columns: prediction), shaded by the share of each true class.

    Args:
        counts: int [C, C].
        classes: names of the C classes.

    Returns:
        None beyond 60 classes, where no screen shows the cells; the report then lists the confusions.
    """
    count = len(counts)
    if not 2 <= count <= 60:
        return None
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [name if len(name) <= 16 else name[:15] + "…" for name in classes]
    side = 420 if count <= 12 else 560
    with figure(side + 40, side, "confusion") as drawing:
        axes = drawing.subplots()
        axes.grid(False)
        for truth in range(count):
            for guess in range(count):
                share = shares[truth, guess]
                if counts[truth, guess] == 0:
                    continue
                colour = SENTINELS["student" if truth == guess else "teacher"]
                strength = 0.12 + 0.78 * share**0.6
                axes.fill(
                    np.array([0, 1, 1, 0]) * 0.94 + guess - 0.47,
                    np.array([0, 0, 1, 1]) * 0.94 + truth - 0.47,
                    color=colour,
                    alpha=strength,
                    linewidth=0,
                )
                if count <= 15:
                    axes.text(
                        guess,
                        truth,
                        f"{counts[truth, guess]}",
                        ha="center",
                        va="center_baseline",
                        fontsize=11 if count <= 12 else 9,
                        color=SENTINELS["card" if strength > 0.55 else "ink"],
                    )
        axes.set_xlim(-0.5, count - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.spines[["left", "bottom"]].set_visible(False)
        size = 11 if count <= 12 else 9 if count <= 25 else 6
        long = max(map(len, names)) > 3
        axes.set_xticks(range(count), names, rotation=45 if long else 0, ha="right" if long else "center")
        axes.set_yticks(range(count), names)
        axes.tick_params(labelsize=size)
        axes.set_xlabel("predicted")
        axes.set_ylabel("truth")
        return drawing


def reliability_curves(curves: Mapping[str, Curve]) -> Figure | None:
    """Plot how often answers of each confidence are right, "before" and "after" the temperature."""
    if not curves:
        return None
    with figure(440, 360, "reliability") as drawing:
        axes = drawing.subplots()
        low = min(min(*curve.confidence, *curve.accuracy) for curve in curves.values())
        start = 10 * np.floor(10 * min(low, 0.9))
        axes.plot([start, 100], [start, 100], color=SENTINELS["muted"], linewidth=1, linestyle=(0, (4, 3)))
        for name, role, marker in (("before", "baseline", "^"), ("after", "student", "o")):
            curve = curves.get(name)
            if curve is None:
                continue
            x, y = (100 * np.asarray(values) for values in (curve.confidence, curve.accuracy))
            label = f"{name} the temperature was fitted" if len(curves) > 1 else "no temperature was fitted on labels"
            axes.plot(x, y, color=SENTINELS[role], marker=marker, markersize=6, linewidth=1.6, label=label)
        axes.set_xlim(start, 101)
        axes.set_ylim(start, 101)
        axes.set_aspect("equal")
        axes.legend(loc="upper left", frameon=False, fontsize=10.5, labelcolor=SENTINELS["ink"])
        axes.set_xlabel("confidence of the answer")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        _percent_axis(axes, "answers that are right")
        return drawing


def roc(truth: np.ndarray, score: np.ndarray, row: Row, role: str) -> Figure | None:
    """Plot the ROC curve of two classes, and the row's operating point on it where it has one.

    Args:
        truth: bool [n], positive.
        score: floating [n], probability of the positive class.
        row: Whose they are.
        role: Names its colour.
    """
    if truth.all() or not truth.any():
        return None
    false, true, _ = roc_curve(truth, score)
    with figure(440, 360, "roc") as drawing:
        axes = drawing.subplots()
        axes.plot([0, 100], [0, 100], color=SENTINELS["muted"], linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(100 * false, 100 * true, color=SENTINELS[role], linewidth=2)
        if row.sensitivity is not None and row.specificity is not None:
            x, y = 100 * (1 - row.specificity), 100 * row.sensitivity
            if row.specificity_interval is not None:
                axes.plot(
                    [100 * (1 - b) for b in row.specificity_interval], [y, y], color=SENTINELS["ink"], linewidth=1.2
                )
            if row.sensitivity_interval is not None:
                axes.plot([x, x], [100 * b for b in row.sensitivity_interval], color=SENTINELS["ink"], linewidth=1.2)
            axes.plot(x, y, "o", color=SENTINELS["ink"], markersize=8, zorder=4)
        axes.set_xlim(-1, 101)
        axes.set_ylim(-1, 101)
        axes.set_aspect("equal")
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.set_xlabel("1 - specificity: others that are called positive")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axes.tick_params(axis="x", pad=6)
        _percent_axis(axes, "sensitivity: positives that are found")
        return drawing


def precision_recall(rows: Sequence[Row]) -> Figure | None:
    """Plot precision against recall of boxes at an overlap of .5, mean over classes, a line for each row."""
    look = looks(rows)
    shown = [row for row in rows if row.curve]
    if not shown:
        return None
    with figure(440, 360, "precision-recall") as drawing:
        axes = drawing.subplots()
        for row in shown:
            recall = np.linspace(0, 100, len(row.curve))
            style = look[row.key]
            axes.plot(recall, 100 * np.array(row.curve), color=SENTINELS[row.role], linestyle=style.dashes, linewidth=2)
        axes.set_xlim(-1, 101)
        axes.set_ylim(-1, 101)
        axes.set_xlabel("recall: true boxes that are found")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        _percent_axis(axes, "precision: boxes that are right")
        return drawing


def bars(rows: Sequence[Row], name: str = "accuracy") -> Figure | None:
    """Draw accuracy, with intervals, and file size of each row as bars that start at zero.

    Args:
        rows: in the order of the table.
        name: of the figure, where it is no accuracy.
    """
    if not any(row.accuracy is not None for row in rows):
        return None
    sizes = any(row.bytes for row in rows)
    with figure(720, 62 + 36 * len(rows), "bars") as drawing:
        panels = drawing.subplots(1, 2, width_ratios=(1.9, 1), squeeze=False)[0] if sizes else [drawing.subplots()]
        drawing.get_layout_engine().set(w_pad=0.2, h_pad=0.2, wspace=0.02)  # type: ignore[union-attr, call-arg]
        _bar_panel(
            panels[0],
            f"{name}, with its 95 % interval",
            [(100 * row.accuracy if row.accuracy is not None else None, accuracy_text(row), row) for row in rows],
            top=100,
        )
        panels[0].set_yticks(range(len(rows)), [row.name for row in rows], color=SENTINELS["ink"])
        for label, row in zip(panels[0].get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if row.role in ("student", "int8") else "normal")
        if sizes:
            largest = max(row.bytes or 0 for row in rows)
            _bar_panel(
                panels[1],
                "file size",
                [(row.bytes, human_bytes(row.bytes) if row.bytes else "–", row) for row in rows],
                top=largest,
            )
            panels[1].set_yticks([])
        return drawing


def _bar_panel(axes: Axes, title: str, bars: Sequence[tuple[float | None, str, Row]], *, top: float) -> None:
    """Fill ``axes`` with one horizontal bar a row, its value written behind it."""
    axes.grid(False)
    for place, (value, words, row) in enumerate(bars):
        end = value or 0.0
        if value is not None:
            axes.barh(place, value, height=0.62, color=SENTINELS[row.role], alpha=0.85, linewidth=0)
        if top == 100 and value is not None and row.interval is not None:
            low, high = (100 * bound for bound in row.interval)
            axes.plot([low, high], [place, place], color=SENTINELS["ink"], linewidth=1.6, solid_capstyle="butt")
            end = max(high, value)
        axes.annotate(
            words,
            (end, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center_baseline",
            color=SENTINELS["ink" if value is not None else "muted"],
            fontweight="bold" if row.role in ("student", "int8") else "normal",
            annotation_clip=False,
        )
    axes.set_title(title, loc="left", fontsize=11.5, color=SENTINELS["muted"], pad=8)
    axes.set_xlim(0, top * (1.2 if top == 100 else 1.5))
    axes.set_ylim(len(bars) - 0.45, -0.55)
    axes.set_xticks([])
    axes.spines[["bottom"]].set_visible(False)


def _side_by_side(costs: Sequence[float]) -> list[float]:
    """Return for each point a sideways shift in pixels, so that points of one cost do not hide each other."""
    groups: dict[float, list[int]] = {}
    for index, cost in enumerate(costs):
        groups.setdefault(float(f"{cost:.2g}"), []).append(index)
    shifts = [0.0] * len(costs)
    for group in groups.values():
        for order, index in enumerate(group):
            shifts[index] = _GAP * (order - (len(group) - 1) / 2)
    return shifts


def _percent_axis(axes: Axes, title: str) -> None:
    """Give the y axis whole percentages, room above and below, and its title where the eye starts."""
    low, high = axes.get_ylim()
    margin = max(0.5, 0.06 * (high - low))
    axes.set_ylim(max(0.0, low - margin), min(high + margin, 101.0))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %" if value <= 100 else ""))
    axes.set_title(title, loc="left", fontsize=11.5, color=SENTINELS["muted"])


def _cost_axis(axes: Axes, low: float, high: float, show: Callable[[float], str]) -> None:
    """Scale the x axis: from zero, or by factors where the costs differ by more than four times."""
    if high > 4 * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.6, high * 1.6)
        decades = np.log10(high / low)
        subs = (1.0, 2.0, 5.0) if decades < 1.3 else (1.0, 3.0) if decades < 2.2 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, high * 1.12)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show(value) if value > 0 else "0"))
