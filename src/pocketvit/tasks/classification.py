"""Classification: what a score is, how sure one can be of it, and how a network's confidence is put right.

The formulas are scikit-learn's and scipy's wherever they have one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax
from scipy.stats import binomtest, t
from sklearn.metrics import confusion_matrix, log_loss

from ..errors import PocketError

ECE_BINS = 15
TEMPERATURES = (0.05, 20.0)  # between which a fitted temperature is looked for


@dataclass(frozen=True)
class Scores:
    """What a classifier is worth on some images. Scores that need labels are None where no image has one.

    Attributes:
        n: Labelled images; the accuracy, its interval, ``ece``, ``nll`` and the classes are over these.
        accuracy: Share of right answers.
        interval: 95 % interval of the accuracy (Wilson 1927).
        ece: Expected calibration error over 15 bins of equal mass.
        nll: Mean negative log-likelihood of the true class.
        min_class: Index and accuracy of the class with the lowest accuracy.
        per_class: float64 [C], accuracy by true class, NaN for a class without images; None without labels.
        confusion: int64 [C, C], rows are true classes; None without labels.
        agreement: Share of all images on which the teacher gives the same class; None without a teacher.
    """

    n: int
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    ece: float | None = None
    nll: float | None = None
    min_class: tuple[int, float] | None = None
    per_class: np.ndarray | None = None
    confusion: np.ndarray | None = None
    agreement: float | None = None


def evaluate(probabilities: Any, targets: Any, teacher_probabilities: Any = None) -> Scores:
    """Score predictions.

    Args:
        probabilities: floating [n, C], rows that sum to 1.
        targets: int [n], -1 where unknown.
        teacher_probabilities: floating [n, C] of the teacher (or the teachers' mean) on the same images, or None.

    Raises:
        PocketError: There are no images, the shapes do not fit, or a probability is not finite.
    """
    p_NC = finite_rows(probabilities, "probabilities")
    y_N = np.asarray(targets).astype(np.int64)
    if len(p_NC) == 0 or len(p_NC) != len(y_N):
        raise PocketError(f"cannot score {len(p_NC)} predictions against {len(y_N)} labels: one of each is needed.")
    classes = p_NC.shape[1]
    if y_N.max() >= classes:
        raise PocketError(f"a label names class {y_N.max()}, but the predictions know only {classes} classes.")
    best_N = p_NC.argmax(1)
    agreement = None
    if teacher_probabilities is not None:
        teacher_NC = finite_rows(teacher_probabilities, "the teacher's probabilities")
        if teacher_NC.shape != p_NC.shape:
            raise PocketError(f"the teacher's predictions are {teacher_NC.shape}, the student's {p_NC.shape}.")
        agreement = float((teacher_NC.argmax(1) == best_N).mean())
    known = y_N >= 0
    n = int(known.sum())
    if n == 0:
        return Scores(n=0, agreement=agreement)
    p_NC, y_N, best_N = p_NC[known], y_N[known], best_N[known]
    right_N = best_N == y_N
    confusion = confusion_matrix(y_N, best_N, labels=range(classes))
    per_class = class_accuracies(confusion)
    worst = int(np.nanargmin(per_class))
    return Scores(
        n=n,
        accuracy=float(right_N.mean()),
        interval=wilson_interval(int(right_N.sum()), n),
        ece=expected_calibration_error(p_NC.max(1), right_N),
        nll=_nll(p_NC, y_N),
        min_class=(worst, float(per_class[worst])),
        per_class=per_class,
        confusion=confusion,
        agreement=agreement,
    )


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """Accuracy by true class (recall), float64 [C]; NaN for a class without images."""
    totals = confusion.sum(1)
    return np.divide(np.diag(confusion), totals, out=np.full(len(totals), np.nan), where=totals > 0)


def wilson_interval(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share (Wilson 1927): it stays in [0, 1] and is honest for few images and shares near 1."""
    interval = binomtest(right, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def expected_calibration_error(confidence: Any, right: Any, bins: int = ECE_BINS) -> float:
    """Mean over equal-mass bins of |accuracy - confidence|, weighted by the bins' sizes.

    Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"; bins of equal mass as in
    Nixon et al. 2019, "Measuring Calibration in Deep Learning". Equal confidences share a bin, so that the result
    does not depend on the order of the images.

    Args:
        confidence: floating [n], probability of the given answer.
        right: bool [n].
        bins: Their number (fewer when confidences are equal).
    """
    confidence_N, right_N = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    gaps = np.bincount(_equal_mass(confidence_N, bins), weights=right_N - confidence_N)
    return float(np.abs(gaps).sum() / len(confidence_N))


@dataclass(frozen=True)
class Reliability:
    """How often answers of about one confidence are right: the reliability curve, whose distances ECE sums up.

    Attributes:
        confidence: float64 [bins], mean probability of the given answers.
        accuracy: float64 [bins], share of them that is right.
        counts: int64 [bins], images; about as many in every bin.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray


def reliability(confidence: Any, right: Any, bins: int = ECE_BINS) -> Reliability:
    """Return accuracy against confidence in the bins of `expected_calibration_error`, empty ones left out."""
    confidence_N, right_N = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    bin_N = _equal_mass(confidence_N, bins)
    counts = np.bincount(bin_N)
    filled = counts > 0
    means = [np.bincount(bin_N, weights=values)[filled] / counts[filled] for values in (confidence_N, right_N)]
    return Reliability(means[0], means[1], counts[filled])


def _equal_mass(confidence_N: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each image: about as many in each, equal confidences in one."""
    edges = np.unique(np.quantile(confidence_N, np.linspace(0, 1, bins + 1)))
    return np.searchsorted(edges[1:-1], confidence_N, side="right")


@dataclass(frozen=True)
class Difference:
    """A difference between two methods over paired seeds.

    Attributes:
        mean: Mean of ``a - b``.
        interval: 95 % interval of it (Student's t); None from a single pair.
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
            return f"{scale * self.mean:+.1f} {unit} (one seed: no interval, nothing can be claimed)"
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
        a: One score a seed, e.g. accuracies of the distilled student.
        b: The other method's scores, seeds in the same order.
        level: Of the interval.
    """
    if len(a) != len(b) or len(a) == 0:
        raise PocketError(f"a paired difference needs the same seeds on both sides, not {len(a)} and {len(b)}.")
    d = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    n, mean = len(d), float(d.mean())
    if n == 1:
        return Difference(mean, None, 1, False)
    half = float(t.ppf(0.5 + level / 2, n - 1) * d.std(ddof=1) / math.sqrt(n))
    low, high = mean - half, mean + half
    return Difference(mean, (low, high), n, n >= 3 and not low <= 0 <= high)


def fit_temperature(logits: Any, targets: Any) -> float:
    """Return T > 0 for which softmax(logits / T) has the least negative log-likelihood; of several labels, sigmoid.

    Guo et al. 2017, "On Calibration of Modern Neural Networks". The answers stay as they are; to be fitted on images
    that the network was not trained on. Between 0.05 and 20; 1 when no image has a label.

    Args:
        logits: floating [n, C].
        targets: int [n], -1 where unknown (left out); int [n, C] of 0 and 1 for several labels an image, which share T.
    """
    z_NC, y_N = finite_rows(logits, "logits"), np.asarray(targets).astype(np.int64)
    known = y_N >= 0 if y_N.ndim == 1 else (y_N >= 0).all(1)
    z_NC, y_N = z_NC[known], y_N[known]
    if len(y_N) == 0:
        return 1.0
    rows, several = np.arange(len(y_N)), y_N.ndim == 2

    def nll(log_temperature: float) -> float:
        scaled_NC = z_NC / math.exp(log_temperature)
        if several:
            return float(-log_expit(np.where(y_N == 1, scaled_NC, -scaled_NC)).mean())
        return float(-log_softmax(scaled_NC, axis=1)[rows, y_N].mean())

    low, high = (math.log(bound) for bound in TEMPERATURES)
    return math.exp(float(minimize_scalar(nll, bounds=(low, high), method="bounded", options={"xatol": 1e-4}).x))


def _nll(p_NC: np.ndarray, y_N: np.ndarray) -> float:
    p_NC = np.clip(p_NC, np.finfo(np.float32).tiny, None)  # fp16 probabilities are 0 below 6e-8
    return float(log_loss(y_N, p_NC / p_NC.sum(1, keepdims=True), labels=range(p_NC.shape[1])))


def finite_rows(values: Any, what: str) -> np.ndarray:
    """A float64 array of a numpy array or a torch tensor on any device; not finite is an error."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise PocketError(f"{what} must be finite numbers, one row an image and one column a class.")
    return array
