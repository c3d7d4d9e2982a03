"""The intensity window of images that are not 8-bit: which intensities become black and white.

It is decided by the training images alone, from robust percentiles of each, and said aloud: one hot pixel, or one
image of another depth among many, must not leave the others a handful of grey levels.
"""

from __future__ import annotations

import numpy as np

from ..errors import PocketError
from .base import Window
from .findings import DEPTHS, Findings
from .listing import Listing

SHARES = (0.001, 0.999)  # of an image's pixels, below and above which intensities may be cut off
_SAMPLE = 1 << 20  # pixels that tell an image's percentiles
_MOST = 0.95  # of the images: the others are clipped where they alone would take half of the grey levels
_FAR = 8  # times the usual reach: 12-bit images among 16-bit ones are 16 times apart


def intensities(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Return the lowest and highest intensity of an image, and its robust percentiles (`SHARES`)."""
    flat = pixels.reshape(-1)
    sample = flat[:: max(1, len(flat) // _SAMPLE)]
    low, high = np.quantile(sample, SHARES, method="nearest").tolist()
    return float(flat.min()), float(flat.max()), float(low), float(high)


def window_for(
    listing: Listing, findings: Findings, training: np.ndarray, window: Window | None, notes: list[str]
) -> Window | None:
    """Decide the intensity window, and say in ``notes`` what was decided.

    Args:
        training: bool [N], the images that may decide it.
        window: the one that was asked for, if any.

    Raises:
        PocketError: float images without a window, or a window that is upside down.
    """
    if window is not None and not window[0] < window[1]:
        raise PocketError(f"the window {window[0]:g},{window[1]:g} is empty: give LOW,HIGH with LOW below HIGH")
    deep = findings.good & ~np.isnan(findings.ranges[:, 0])
    if not deep.any():
        if window is not None:
            notes.append("the window is not used: every image is 8-bit")
        return None
    deciding = np.flatnonzero(deep & training if (deep & training).any() else deep)
    odd = _odd(findings, deep, deciding)
    low, high = _robust(findings, deciding, odd)
    floats = [row for row in deciding if DEPTHS[findings.depths[row]] == "float32"]
    if window is None and floats:
        more = f" and {len(floats) - 1:,} more images" if len(floats) > 1 else ""
        raise PocketError(
            f"floating-point intensities in {listing.names[floats[0]]}{more} of {listing.name}: say which are black "
            f"and white, as --window {low:g},{high:g} (where {SHARES[1] - SHARES[0]:.1%} of their pixels lie)"
        )
    plain = int((findings.good & ~deep).sum())
    untouched = f"; the {plain:,} 8-bit images stay as they are" if plain else ""
    kinds = " and ".join(sorted({findings.kinds[row] for row in np.flatnonzero(deep)}))
    tagged = findings.windows[deciding]
    if window is not None:
        told = f"becomes 0 to 255 in {kinds} images"
    elif not np.isnan(tagged).any() and (tagged == tagged[0]).all():
        window = (float(tagged[0, 0]), float(tagged[0, 1]))
        told = f"(that of the tags of all {len(deciding):,} training images) becomes 0 to 255"
    else:
        window = (low, high)
        own = "; the windows of their tags differ and are not used" if (~np.isnan(tagged)).any() else ""
        told = (
            f"({SHARES[0]:.1%} to {SHARES[1]:.1%} of the pixels of each of {len(deciding) - odd[deciding].sum():,} "
            f"{kinds} training images) becomes 0 to 255{own}; choose another with --window LOW,HIGH"
        )
    outside = int(((findings.robust[:, 0] < window[0]) | (findings.robust[:, 1] > window[1]))[deep].sum())
    clipped = f"; {outside:,} of {int(deep.sum()):,} images reach beyond it and are clipped" if outside else ""
    notes.append(f"intensity window {window[0]:g} to {window[1]:g} {told}{clipped}{untouched}")
    notes += _warning(listing, findings, odd, deciding)
    return (float(window[0]), float(window[1]))


def _reach(findings: Findings) -> np.ndarray:
    return np.abs(findings.robust).max(1)


def _odd(findings: Findings, deep: np.ndarray, deciding: np.ndarray) -> np.ndarray:
    """Return bool [N]: the images that reach many times further than the middle one of the training images, or less."""
    reach = _reach(findings)
    middle = max(float(np.median(reach[deciding])), 1e-30)
    with np.errstate(invalid="ignore"):
        return deep & ((reach > _FAR * middle) | (reach < middle / _FAR))


def _robust(findings: Findings, deciding: np.ndarray, odd: np.ndarray) -> Window:
    usual = deciding[~odd[deciding]]
    lows, highs = findings.robust[usual, 0], findings.robust[usual, 1]
    low = float(np.quantile(lows, 1 - _MOST, method="nearest"))
    high = float(np.quantile(highs, _MOST, method="nearest"))
    span = high - low
    low = float(lows.min()) if high - lows.min() <= 2 * span else low
    high = float(highs.max()) if highs.max() - low <= 2 * span else high
    return (low, high if high > low else low + 1)


def _warning(listing: Listing, findings: Findings, odd: np.ndarray, deciding: np.ndarray) -> list[str]:
    rows = np.flatnonzero(odd)
    if not len(rows):
        return []
    reach = _reach(findings)
    names = ", ".join(f"{listing.names[row]} ({reach[row]:g})" for row in rows[:3])
    more = f" and {len(rows) - 3:,} more" if len(rows) > 3 else ""
    return [
        f"warning: intensities differ by orders of magnitude: {names}{more}, where the middle image reaches "
        f"{np.median(reach[deciding]):g}. Are they of another depth? The window leaves them out of account"
    ]
