"""How sure one can be of a figure: images, or groups of them, drawn again with replacement, many draws at a time.

Efron & Tibshirani 1993, *An Introduction to the Bootstrap*; percentile intervals. Where several images come from one
patient, patients are drawn and not images (Field & Welsh 2007, "Bootstrapping clustered data"): images of one patient
resemble each other, and an interval that takes them for independent is too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 1000
FEWEST = 200  # resamples, for large test sets, whose intervals are narrow anyway
Interval = tuple[float, float]

_CELLS = 3e8  # resamples x images x classes that are worth their second
_CHUNK = 2_000_000  # counts held at once


def wilson_interval(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share (Wilson 1927): it stays in [0, 1] and is honest for few images and shares near 1."""
    interval = binomtest(right, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def affordable(images: int, classes: int) -> int:
    """Return how many resamples are drawn for so many images and classes."""
    return int(np.clip(_CELLS / max(images * classes, 1), FEWEST, RESAMPLES))


def resamples(
    strata: np.ndarray, count: int, *, groups: np.ndarray | None = None, seed: int = 0
) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, float32 [b, N], until ``count`` resamples have been drawn.

    Args:
        strata: int [N]; each is drawn as often as it has images, so that no class disappears.
        count: Of resamples.
        groups: int [N]; whole groups are drawn, within the commonest stratum of each.
        seed: Keys the draws; two networks on the same images are judged on the same draws.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    group_N = None
    if groups is not None:
        strata, group_N = _group_strata(strata, groups)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    length = max(1, _CHUNK // max(len(strata), 1 if group_N is None else len(group_N)))
    for start in range(0, count, length):
        rows = min(length, count - start)
        drawn = np.zeros((rows, len(strata)), np.float32)
        for where in members:
            picks = rng.integers(0, len(where), (rows, len(where))) + len(where) * np.arange(rows)[:, None]
            drawn[:, where] = np.bincount(picks.ravel(), minlength=rows * len(where)).reshape(rows, -1)
        yield drawn if group_N is None else drawn[:, group_N]


def percentile_interval(values: np.ndarray, level: float = 0.95) -> Interval | None:
    """Return the interval that the middle ``level`` of the resampled figures span.

    None where the resamples are all alike: a figure without a single error, of which they can say nothing, or where
    most of them have no figure (NaN).
    """
    known = values[np.isfinite(values)]
    if len(known) < len(values) / 2 or len(known) == 0 or np.ptp(known) < 1e-9:
        return None
    low, high = np.quantile(known, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def resampled_auc(scores: np.ndarray, positive: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of each resample, float64 [b]; NaN where a side is empty.

    As ``sklearn.metrics.roc_auc_score(positive, scores, sample_weight=counts)``, for all resamples together: the share
    of pairs of a positive and a negative image that the scores put in order, a tie being half (Mann & Whitney 1947).

    Args:
        scores: floating [N].
        positive: bool [N].
        drawn: float32 [b, N], how often each image was drawn (whole numbers, so that their sums are exact).
    """
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    ranked, wanted = scores[negatives], scores[positive]
    below = np.zeros((len(drawn), len(negatives) + 1), np.float32)
    np.cumsum(drawn[:, negatives], axis=1, out=below[:, 1:])
    lower = below[:, np.searchsorted(ranked, wanted, "left")]
    upper = below[:, np.searchsorted(ranked, wanted, "right")]
    weight = drawn[:, positive]
    ordered = np.einsum("bp,bp->b", weight, lower + upper, dtype=np.float64) / 2
    pairs = weight.sum(1, dtype=np.float64) * below[:, -1]
    return np.divide(ordered, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)


def share_interval(right: Any, groups: Any = None, *, seed: int = 0) -> Interval | None:
    """Return the 95 % interval of a share of images: Wilson's, or that of resampled groups.

    Where every answer is right, or every one wrong, resampling says nothing; then each group counts as one image, which
    is as careful as one can be. None where there is nothing to count, or a single group.

    Args:
        right: bool or floating [N], 1 where an image counts.
        groups: int [N], or None where images are independent.
        seed: Keys the draws.
    """
    right_N = np.asarray(right, np.float64)
    if len(right_N) == 0:
        return None
    if groups is None:
        return wilson_interval(round(right_N.sum()), len(right_N))
    names, group_N = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return None
    totals_GK = np.stack([np.bincount(group_N, weights=right_N), np.bincount(group_N)], 1)
    drawn = resamples(np.zeros(len(names), np.int64), RESAMPLES, seed=seed)
    sums_RK = np.concatenate([draw @ totals_GK for draw in drawn])
    if right_N.min() == right_N.max() and right_N[0] in (0, 1):
        return wilson_interval(int(right_N[0]) * len(names), len(names))
    return percentile_interval(sums_RK[:, 0] / sums_RK[:, 1])


def _group_strata(strata: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the commonest stratum of each group, int [G], and the index of each image's group, int [N]."""
    names, group_N = np.unique(np.asarray(groups), return_inverse=True)
    kinds, stratum_N = np.unique(strata, return_inverse=True)
    counts = np.bincount(group_N * len(kinds) + stratum_N, minlength=len(names) * len(kinds))
    return counts.reshape(len(names), len(kinds)).argmax(1), group_N
