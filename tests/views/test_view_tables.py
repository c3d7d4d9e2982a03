"""Tables behind draws that are not uniform."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta

from pocketvit.views.tables import beta_thresholds, log_uniform, sine_cosine


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0, 2.5, 30.0, 100.0])
def test_mixing_ratios_follow_the_beta_distribution(alpha: float) -> None:
    """Against scipy's distribution function, to a millionth; and symmetric to the bit."""
    thresholds = beta_thresholds(alpha)
    edges = (np.arange(256) + 0.5) / 256
    assert np.abs(thresholds.astype(float) / 2**32 - beta.cdf(edges, alpha, alpha)).max() < 1e-6
    assert np.array_equal(thresholds + thresholds[::-1], np.full(256, 2**32, np.uint64))
    assert (np.diff(thresholds.astype(np.int64)) >= 0).all()


def test_ratios_of_boxes_are_even_in_the_logarithm() -> None:
    table = log_uniform(3 / 4, 4 / 3)
    expected = np.exp(np.log(3 / 4) + (np.log(4 / 3) - np.log(3 / 4)) * (np.arange(1024) + 0.5) / 1024)
    assert np.abs(table / 65536 - expected).max() < 1e-5


@pytest.mark.parametrize("degrees", [0.0, 27.0, -27.0, 30.0, 90.0, 180.0])
def test_sines_and_cosines_are_rounded_to_the_nearest(degrees: float) -> None:
    sine, cosine = sine_cosine(degrees)
    assert sine == round(math.sin(math.radians(degrees)) * 65536)
    assert cosine == round(math.cos(math.radians(degrees)) * 65536)
