"""Tables behind draws that are not uniform, computed in decimal arithmetic so that they are the same everywhere.

The C library's exp, log and sin differ in the last bit between platforms. Python's ``decimal`` rounds exp and ln
correctly by definition, and the rest here is whole numbers.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache

import numpy as np

RATIO_LEVELS = 256  # a mixing ratio is k / 256


@cache
def beta_thresholds(alpha: float) -> np.ndarray:
    """Return the distribution of a mixing ratio k / 256 with ratio ~ Beta(alpha, alpha).

    A 32-bit draw u gives k = number of thresholds <= u. The bin of k is [(k - 1/2) / 256, (k + 1/2) / 256]. The
    distribution function comes from the series B_x(a, a) = x^a sum_n (1 - a)_n x^n / (n! (a + n)), which converges
    as 2^-n for x <= 1/2, and from symmetry above that.

    Returns:
        uint64 [256], increasing, at most 2^32.
    """
    with localcontext() as context:
        context.prec = 80
        a = Decimal(alpha)

        def incomplete(x: Decimal) -> Decimal:
            total, term, n = Decimal(0), Decimal(1), 0
            while n < 4 + alpha or abs(term) > Decimal(10) ** -40:
                total += term / (a + n)
                term *= (n + 1 - a) / (n + 1) * x
                n += 1
            return (a * x.ln()).exp() * total

        half = incomplete(Decimal(1) / 2) * 2
        lower = [incomplete(Decimal(2 * k + 1) / (2 * RATIO_LEVELS)) / half for k in range(RATIO_LEVELS // 2)]
        levels = [int((share * 2**32).to_integral_value()) for share in lower]
    thresholds = np.array(levels + [2**32 - level for level in reversed(levels)], np.uint64)
    thresholds.flags.writeable = False
    return thresholds


@cache
def log_uniform(low: float, high: float) -> np.ndarray:
    """Return 1,024 values spaced evenly in the logarithm over [low, high], in units of 2^-16: int64 [1024]."""
    count = 1024
    with localcontext() as context:
        context.prec = 40
        start, stop = Decimal(low).ln(), Decimal(high).ln()
        steps = [(start + (stop - start) * (2 * i + 1) / (2 * count)).exp() for i in range(count)]
        table = np.array([int((value * 2**16).to_integral_value()) for value in steps], np.int64)
    table.flags.writeable = False
    return table


@cache
def sine_cosine(degrees: float) -> tuple[int, int]:
    """Return sine and cosine of an angle in units of 2^-16, from their Taylor series."""
    with localcontext() as context:
        context.prec = 40
        x = Decimal(degrees) * Decimal("3.14159265358979323846264338327950288419717") / 180
        sums, term = [Decimal(0), Decimal(0)], Decimal(1)
        for n in range(64):  # cosine takes the even terms, sine the odd ones; signs + + - -
            sums[n % 2] += -term if n % 4 >= 2 else term
            term *= x / (n + 1)
        cosine, sine = (int((value * 2**16).to_integral_value()) for value in sums)
    return sine, cosine
