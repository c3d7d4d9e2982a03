"""What twice the time would give: the validation errors of a run go on falling along a power law, or so one hopes.

Errors fall about as ``a t^-b`` with the time t (Hestness et al. 2017, arXiv 1712.00409). The exponent is that of the
epochs at full learning rate (all that is comparable, for the decay makes a jump, and so does the end of smaller
pictures), by least squares on logarithms; the error after the decay, which is the run's, is taken to fall alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from ..files import human_time

_FEWEST = 5  # epochs that a line is laid through
_SKIPPED = 0.1  # share of the time at the start, where errors fall otherwise


@dataclass(frozen=True)
class Forecast:
    """An accuracy at twice the time.

    Attributes:
        accuracy: The expected one.
        interval: 95 %: of the exponent, and of the count of errors at the end.
    """

    accuracy: float
    interval: tuple[float, float]


def forecast(lines: Sequence[Mapping[str, Any]], n: int) -> Forecast | None:
    """Return what twice the time is expected to give; None where too few epochs say so, or no error is left.

    Args:
        lines: Of ``metrics.jsonl``: ``elapsed`` seconds, ``lr``, ``val_accuracy``, and ``smaller`` where pictures were.
        n: Validation images.
    """
    known = [line for line in lines if "val_accuracy" in line and line.get("elapsed", 0) > 0]
    if not known or not 0 < known[-1]["val_accuracy"] < 1:
        return None
    peak, end = max(line["lr"] for line in known), known[-1]["elapsed"]
    level = [
        line
        for line in known
        if line["lr"] > 0.99 * peak and line["elapsed"] > _SKIPPED * end and line["val_accuracy"] < 1
    ]
    sizes = [[line for line in level if bool(line.get("smaller")) == smaller] for smaller in (False, True)]
    level = max(sizes, key=len)
    if len(level) < _FEWEST:
        return None
    x = np.log([line["elapsed"] for line in level])
    y = np.log([1 - line["val_accuracy"] for line in level])
    spread = float(np.square(x - x.mean()).sum())
    slope = float(((x - x.mean()) * y).sum()) / spread
    rest = y - y.mean() - slope * (x - x.mean())
    error = math.sqrt(float(np.square(rest).sum()) / (len(x) - 2) / spread)
    wrong = 1 - known[-1]["val_accuracy"]
    reach = math.log(2) * error * float(student_t.ppf(0.975, len(x) - 2))
    counted = 1.96 * math.sqrt((1 - wrong) / (wrong * n))
    width = math.hypot(reach, counted)
    low, middle, high = (min(1.0, wrong * math.exp(math.log(2) * slope + side)) for side in (-width, 0, width))
    return Forecast(1 - middle, (1 - high, 1 - low))


def told(lines: Sequence[Mapping[str, Any]], n: int, shorter: Sequence[Mapping[str, Any]] = ()) -> str:
    """Say what more time gave and would give; "" for a run that was never validated.

    Args:
        lines: Of ``metrics.jsonl``.
        n: Validation images.
        shorter: The last lines of the run before it was given more time.
    """
    known = [line for line in lines if "val_accuracy" in line]
    if not known:
        return ""
    last = known[-1]
    ends = [
        f"{100 * line['val_accuracy']:.1f} % after {human_time(line['elapsed'])}"
        for line in (*shorter, last)
        if "val_accuracy" in line
    ]
    reached = f"the student was right on {', '.join(ends)} of its training ({n:,} validation images)"
    expected = forecast(lines, n)
    if expected is None:
        return f"{reached}; what twice the time would give cannot be told from so few epochs or errors"
    low, high = (f"{100 * bound:.1f}" for bound in expected.interval)
    return (
        f"{reached}; twice the time would give about {100 * expected.accuracy:.1f} % (95 % interval {low} to {high}, "
        "if its errors go on falling as they did): --resume --hours +X goes on"
    )
