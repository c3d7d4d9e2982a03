"""Whether one method is better than another: paired differences over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from ..errors import PocketError

_ALIKE = 1e-9  # far less than one image of any test set: 0.9 - 0.8 and 0.2 - 0.1 are no two differences


@dataclass(frozen=True)
class Difference:
    """A difference between two methods over paired seeds.

    Attributes:
        mean: Mean of ``a - b``.
        interval: 95 % interval of it (Student's t); None from a single pair, or where all pairs differ alike.
        seeds: Number of pairs.
        seen: Whether a difference is seen: at least three pairs and an interval without zero.
    """

    mean: float
    interval: tuple[float, float] | None
    seeds: int
    seen: bool

    def words(self, unit: str = "points", scale: float = 100.0) -> str:
        """Say it: "+1.2 points (95 % interval +0.5 to +1.9, 3 seeds)", or that no difference was seen."""
        if self.interval is None:
            why = "one seed" if self.seeds == 1 else f"the same in all {self.seeds} seeds"
            return f"{scale * self.mean:+.1f} {unit} ({why}: no interval over seeds)"
        low, high = self.interval
        figures = f"{scale * self.mean:+.1f} {unit}, 95 % interval {scale * low:+.1f} to {scale * high:+.1f}"
        figures += f", {self.seeds} seeds"
        if self.seen:
            first, rest = figures.split(", ", 1)
            return f"{first} ({rest})"
        few = "; three are needed to claim one" if self.seeds < 3 else ""
        return f"no difference seen ({figures}{few})"


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Difference:
    """Compare two methods over the same seeds by the t interval of their differences.

    Args:
        a: One score per seed, e.g. accuracies of the distilled student.
        b: The other method's scores, seeds in the same order.
        level: Of the interval.
    """
    if len(a) != len(b) or len(a) == 0:
        raise PocketError(f"a paired difference needs the same seeds on both sides, not {len(a)} and {len(b)}.")
    d = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    n, mean = len(d), float(d.mean())
    if n == 1 or np.ptp(d) < _ALIKE:  # alike in every seed is chance on few images: no interval can come of it
        return Difference(mean, None, n, False)
    half = float(t.ppf(0.5 + level / 2, n - 1) * d.std(ddof=1) / math.sqrt(n))
    low, high = mean - half, mean + half
    return Difference(mean, (low, high), n, n >= 3 and not low <= 0 <= high)
