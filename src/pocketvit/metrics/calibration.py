"""How far a network's confidence can be believed, and how it is put right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_expit, log_softmax

from .rows import finite_rows

ECE_BINS = 15
TEMPERATURES = (0.05, 20.0)  # between which a fitted temperature is looked for


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
    edges = np.unique(np.quantile(confidence_N, np.linspace(0, 1, bins + 1)[:-1]))
    return np.searchsorted(edges[1:], confidence_N, side="right")


def fit_temperature(logits: Any, targets: Any) -> float:
    """Return T > 0 for which softmax(logits / T) has the least negative log-likelihood.

    Guo et al. 2017, "On Calibration of Modern Neural Networks". The answers stay as they are; to be fitted on images
    that the network was not trained on. Between 0.05 and 20; 1 when no image has a label.

    Args:
        logits: floating [n, C].
        targets: int [n], -1 where unknown (left out); or floating [n, C], probabilities that others give.
    """
    z_NC = finite_rows(logits, "logits")
    if np.ndim(targets) == 2:
        p_NC = finite_rows(targets, "targets")
        return _least(lambda temperature: -(p_NC * log_softmax(z_NC / temperature, axis=1)).sum(1), len(p_NC))
    y_N = np.asarray(targets).astype(np.int64)
    z_NC, y_N = z_NC[y_N >= 0], y_N[y_N >= 0]
    rows = np.arange(len(y_N))
    return _least(lambda temperature: -log_softmax(z_NC / temperature, axis=1)[rows, y_N], len(y_N))


def fit_label_temperature(logits: Any, targets: Any) -> float:
    """Return the one T > 0 that `fit_temperature` would, for sigmoid(logits / T) of independent labels.

    Args:
        logits: floating [n, C].
        targets: int [n, C] of 0 and 1, a row of -1 where unknown (left out).
    """
    z_NC, y_NC = finite_rows(logits, "logits"), np.asarray(targets).astype(np.int64)
    known = (y_NC >= 0).all(1)
    signed_NC = np.where(y_NC[known] == 1, z_NC[known], -z_NC[known])
    return _least(lambda temperature: -log_expit(signed_NC / temperature), len(signed_NC))


def fit_answers(logits: Any, expected: Any) -> tuple[float, np.ndarray]:
    """Return T > 0 and a shift [C] for which softmax(logits / T + shift) is nearest to another network's answers.

    "Vector scaling" with one temperature (Guo et al. 2017), by the cross-entropy with ``expected``. The shift brings
    classes to the frequency that the other network gives them on these images: a student that has not learned much yet
    leans to the commonest ones, and z-scores make it lean more. A prior N(0, 1) holds shifts of which the images say
    little near 0.

    Args:
        logits: floating [n, C].
        expected: floating [n, C], probabilities.
    """
    z_NC, p_NC = finite_rows(logits, "logits"), finite_rows(expected, "expected")
    if not len(z_NC):
        return 1.0, np.zeros(z_NC.shape[1])
    low, high = (-math.log(bound) for bound in reversed(TEMPERATURES))

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = math.exp(x[0]) * z_NC
        logs = log_softmax(scaled + x[1:], axis=1)
        slope_NC = (np.exp(logs) - p_NC) / len(z_NC)
        value = -(p_NC * logs).sum() / len(z_NC) + 0.5 * (x[1:] ** 2).sum() / len(z_NC)
        return float(value), np.append((slope_NC * scaled).sum(), slope_NC.sum(0) + x[1:] / len(z_NC))

    start = np.append(-math.log(fit_temperature(logits, expected)), np.zeros(z_NC.shape[1]))
    bounds = [(low, high), *[(None, None)] * z_NC.shape[1]]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return math.exp(-found[0]), found[1:] - found[1:].mean()


def _least(losses: Callable[[float], np.ndarray], n: int) -> float:
    """The temperature of the least mean loss over ``n`` images.

    A prior, half of an N(0, 1) on its logarithm, keeps answers from getting surer where images say little: of a few
    that are all right, the likelihood wants every answer to be certain.
    """
    if n == 0:
        return 1.0
    low, high = (math.log(bound) for bound in TEMPERATURES)
    found = minimize_scalar(
        lambda power: float(losses(math.exp(power)).mean()) + 0.5 * min(power, 0.0) ** 2 / n,
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return math.exp(float(found.x))
