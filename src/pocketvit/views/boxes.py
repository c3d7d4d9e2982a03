"""Where a view looks: boxes of pictures, in whole pixels, from integer draws."""

from __future__ import annotations

import numpy as np

from .philox import below
from .tables import log_uniform

_ATTEMPTS = 10
BOX_DRAWS = 2 * _ATTEMPTS + 2
ZOOM_DRAWS = 3


def random_boxes(
    draws: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw boxes with a random share of the area and a random shape, as torchvision's RandomResizedCrop does.

    Of ten attempts the first that fits is taken. Shares are multiples of 2^-16; the shape is one of 1,024 that are
    evenly spaced in the logarithm. Square roots are correctly rounded by IEEE 754, so boxes are the same everywhere.

    Args:
        draws: uint32 [n, BOX_DRAWS].
        heights: int64 [n].
        widths: int64 [n].
        scale: least and greatest share of the area.
        ratio: least and greatest width / height.

    Returns:
        int64 [n, 4] of (top, left, height, width), and bool [n]: whether an attempt fitted (else the box is empty).
    """
    low, high = (round(share * 2**16) for share in scale)
    share = low + below(draws[:, :_ATTEMPTS], high - low + 1)
    shape = log_uniform(*ratio)[draws[:, _ATTEMPTS : 2 * _ATTEMPTS] >> np.uint32(22)]
    area = ((heights * widths)[:, None] * share).astype(np.float64)
    box_widths = np.floor(np.sqrt(area * shape / 2.0**32) + 0.5).astype(np.int64)
    box_heights = np.floor(np.sqrt(area / shape) + 0.5).astype(np.int64)
    fits = (box_widths > 0) & (box_heights > 0) & (box_widths <= widths[:, None]) & (box_heights <= heights[:, None])
    rows, first = np.arange(len(draws)), fits.argmax(axis=1)
    found = fits[rows, first]
    height = np.where(found, box_heights[rows, first], 0)
    width = np.where(found, box_widths[rows, first], 0)
    top = below(draws[:, -2], heights - height + 1)
    left = below(draws[:, -1], widths - width + 1)
    return np.stack((top, left, height, width), axis=1), found


def zoomed(
    draws: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: int, factors: tuple[float, float]
) -> np.ndarray:
    """Draw where pictures lie on a square that shows them whole, each enlarged or shrunk.

    Large scale jitter (Ghiasi et al., "Simple Copy-Paste", CVPR 2021): a factor is one of 1,024 that are evenly spaced
    in the logarithm, the place is uniform over those at which the square is covered as far as possible.

    Args:
        draws: uint32 [n, ZOOM_DRAWS].
        heights: int64 [n], of the pictures.
        widths: int64 [n].
        size: Side of the square.
        factors: Least and greatest; at 1 the longer side fits.

    Returns:
        int64 [n, 4] of (top, left, height, width) on the square; top and left are negative where a picture reaches
        beyond it.
    """
    factor = log_uniform(*factors)[draws[:, 0] >> np.uint32(22)]
    longest = np.maximum(heights, widths) << 16
    sides = np.stack((heights, widths), axis=1)
    sides = np.maximum((2 * sides * size * factor[:, None] + longest[:, None]) // (2 * longest[:, None]), 1)
    room = size - sides
    place = below(draws[:, 1:], np.abs(room) + 1)
    return np.concatenate((np.where(room < 0, -place, place), sides), axis=1)


def central_boxes(heights: np.ndarray, widths: np.ndarray, ratio: tuple[float, float]) -> np.ndarray:
    """Return the largest central boxes whose width / height lies in ``ratio``: int64 [n, 4]."""
    low, high = (round(value * 2**16) for value in ratio)
    height = np.where((widths << 16) < heights * low, np.maximum((widths << 16) // low, 1), heights)
    width = np.where((widths << 16) > heights * high, np.maximum((heights * high) >> 16, 1), widths)
    return np.stack(((heights - height) // 2, (widths - width) // 2, height, width), axis=1)
