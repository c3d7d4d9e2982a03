"""Stain jitter: how differently laboratories dye the same tissue, in whole-number arithmetic.

Light that passes a dyed section is absorbed: the optical density -ln(I / 256) of a pixel is a mixture of the stains'
colours (Beer and Lambert). Haematoxylin, eosin and DAB are told apart by Ruifrok & Johnston's matrix (2001), each
stain's amount is scaled and shifted at random, and the picture is put together again (Tellez et al. 2018, "Whole-slide
mitosis detection in H&E breast histology using PHH3 as a reference", and 2019, arXiv 1902.06543).
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache

import numpy as np

from .philox import below

DRAWS = 6  # a factor and a shift for each of three stains
_DENSITY = 10  # bits of a density
_MIX = 12  # bits of an entry of a mixing matrix
# Rows: haematoxylin, eosin, DAB in red, green, blue (Ruifrok & Johnston 2001), in hundredths.
_COLOURS = ((65, 70, 29), (7, 99, 11), (27, 57, 78))


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return value -> density, int32 [256], and density -> value, uint8; exactly inverse to each other."""
    with localcontext() as context:
        context.prec = 40
        scale = Decimal(1 << _DENSITY)
        logs = [-(Decimal(value + 1) / 256).ln() * scale for value in range(256)]
        densities = np.array([int(density.to_integral_value()) for density in logs], np.int32)
        step = (-1 / scale).exp()
        light, values = Decimal(256), []
        for _ in range(int(densities[0]) + 1):
            values.append(min(255, max(0, int((light - 1).to_integral_value()))))
            light *= step
    return densities, np.array(values, np.uint8)


@cache
def _parts() -> np.ndarray:
    """Return what each stain adds to a mixing matrix: int64 [3, 3, 3] in 2^-12, summing to the identity exactly."""
    colours = np.array(_COLOURS, np.float64) / 100
    apart = np.linalg.inv(colours)
    parts = np.rint(np.einsum("is,so->sio", apart, colours) * (1 << _MIX)).astype(np.int64)
    parts[2] = (np.eye(3, dtype=np.int64) << _MIX) - parts[0] - parts[1]
    return parts


def stain_jitter(pixels: np.ndarray, numbers: np.ndarray, amount: float) -> np.ndarray:
    """Scale each stain by a factor in 1 +- amount and shift it by +- amount of density.

    Args:
        pixels: uint8 [n,3,H,W].
        numbers: uint32 [n, DRAWS].
        amount: at least 0; 0.05 is slight, 0.2 strong.

    Returns:
        uint8 [n,3,H,W].
    """
    densities, values = _tables()
    reach, shift = round(256 * amount), round(amount * (1 << _DENSITY))
    factors = 256 - reach + below(numbers[:, :3], 2 * reach + 1)
    shifts = below(numbers[:, 3:], 2 * shift + 1) - shift
    mixing = (np.einsum("ns,sio->nio", factors, _parts()) >> 8).astype(np.int32)
    offset = np.einsum("ns,so->no", shifts, np.array(_COLOURS, np.int64)) // 100
    result = np.empty(pixels.shape, np.uint8)
    for i, picture in enumerate(pixels):
        density = densities[picture]
        for channel in range(3):
            mixed = density[0] * mixing[i, 0, channel]
            mixed += density[1] * mixing[i, 1, channel]
            mixed += density[2] * mixing[i, 2, channel]
            mixed += 1 << (_MIX - 1)
            mixed >>= _MIX
            mixed += np.int32(offset[i, channel])
            result[i, channel] = values.take(mixed, mode="clip")
    return result
