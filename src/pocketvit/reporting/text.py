"""Figures as people read them, and text that fits a terminal or a markdown page."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from .results import Row

MISSING = "–"


def percent(share: float | None, n: int | None = None) -> str:
    """Return a share as a percentage, with the second decimal only where 10,000 images or more carry it."""
    if share is None:
        return MISSING
    return f"{100 * share:.{2 if n and n >= 10_000 else 1}f} %"


def interval_text(row: Row) -> str:
    """Return the interval of a row's accuracy in percent: ``91.6–96.4``."""
    if row.accuracy is None or row.interval is None:
        return MISSING
    digits = 2 if row.n and row.n >= 10_000 else 1
    return f"{100 * row.interval[0]:.{digits}f}–{100 * row.interval[1]:.{digits}f}"


def accuracy_text(row: Row) -> str:
    """Return the accuracy, or why there is none."""
    if not row.measured:
        return "not run"
    if row.accuracy is None and row.map is not None:  # of another task
        return MISSING
    return "unknown" if row.accuracy is None else percent(row.accuracy, row.n)


def map_text(row: Row) -> str:
    """Return the mean average precision with its interval, or why there is none."""
    if not row.measured:
        return "not run"
    if row.map is None and row.accuracy is not None:  # of another task
        return MISSING
    return "unknown" if row.map is None else figure_text(row.map, row.map_interval)


def auc_text(row: Row) -> str:
    """Return the AUC with its interval: ``0.913 (0.881–0.940)``."""
    return figure_text(row.auc, row.auc_interval)


def share_text(value: float | None, interval: tuple[float, float] | None) -> str:
    """Return a share with its interval in whole percent: ``85.7 % (72–93)``."""
    if value is None:
        return MISSING
    return f"{percent(value)}" + (f" ({100 * interval[0]:.0f}–{100 * interval[1]:.0f})" if interval is not None else "")


def figure_text(value: float | None, interval: tuple[float, float] | None) -> str:
    """Return a figure between 0 and 1 with its interval: ``0.913 (0.881–0.940)``."""
    if value is None:
        return MISSING
    return f"{value:.3f}" + (f" ({interval[0]:.3f}–{interval[1]:.3f})" if interval is not None else "")


def human_count(count: float | None) -> str:
    """Return a count with three digits: ``1.05 M``."""
    if count is None:
        return MISSING
    for unit in ("", " k", " M", " G"):
        if abs(count) < 999.5:
            return f"{count:.0f}" if unit == "" else f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} T"


def milliseconds(value: float | None) -> str:
    """Return a latency in milliseconds with three digits, without the unit."""
    if value is None:
        return MISSING
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def describe_machine(machine: Mapping[str, Any]) -> str:
    """Return ``{"cpu", "cores", "threads", "torch", "os"}`` as one line; what is not known is left out."""
    parts = [str(machine[key]) for key in ("cpu", "gpu") if machine.get(key)]
    for key, word in (("cores", "core"), ("threads", "thread")):
        if machine.get(key):
            parts.append(f"{machine[key]} {word}{'' if machine[key] == 1 else 's'}")
    parts += [f"{name} {machine[name]}" for name in ("torch", "onnxruntime") if machine.get(name)]
    if machine.get("os"):
        parts.append(str(machine["os"]))
    return ", ".join(parts)


def escape_markdown(text: str) -> str:
    """Make text that others wrote harmless inside a markdown table or paragraph."""
    text = " ".join(str(text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_[]|":
        text = text.replace(character, "\\" + character)
    return text


def printable(text: str) -> str:
    """Drop control characters: a class name must not move the terminal's cursor."""
    return "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)


def columns_of(text: str) -> int:
    """Columns that ``text`` takes in a terminal: wide East Asian characters take two, combining ones none."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text if not unicodedata.combining(c))


def padded(text: str, size: int, right: bool = False) -> str:
    """Return text filled up to ``size`` columns of a terminal."""
    space = " " * (size - columns_of(text))
    return space + text if right else text + space


def shortened(text: str, size: int) -> str:
    """Return text cut to ``size`` columns of a terminal."""
    if columns_of(text) <= size:
        return text
    while text and columns_of(text) > size - 1:
        text = text[:-1]
    return text + "…"
