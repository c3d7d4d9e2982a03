"""Where a view puts each point of its picture, and boxes carried there and back.

The same keyed random numbers as `Views` uses, so that boxes follow any view of any sample without its pixels.
"""

from __future__ import annotations

import numpy as np

from ..config import ViewConfig
from ..errors import PocketError
from ..sources.boxes import Boxes
from .framing import shown
from .philox import below, draw, happens
from .render import Views, draw_counts

CUT = 4  # bit of `Boxes.flags`: too little of the box is shown to be learned, or to count as a mistake
VISIBLE = 0.3  # share of a box's area that must be shown


def check_followed(config: ViewConfig) -> None:
    """Refuse views that boxes cannot follow.

    Raises:
        PocketError: Pictures are mixed, or turned and sheared.
    """
    for wrong, what in ((config.mixes, "Mixup and CutMix"), (config.randaugment_ops > 0, "RandAugment")):
        if wrong:
            raise PocketError(
                f"boxes cannot follow {what}: leave it away for images with boxes. Flips, zooms, crops and colours are "
                "followed"
            )


def placements(views: Views, positions: np.ndarray, view: int, sizes: np.ndarray) -> np.ndarray:
    """Return the maps from pixels of the pictures to pixels of a view.

    Args:
        views: Of the pictures.
        positions: int64 [n].
        view: As for `Views.render`.
        sizes: int [n, 2], heights and widths of the pictures.

    Returns:
        float64 [n, 2, 3]: a point (x, y) of the picture is at ``m[:, :2] @ (x, y) + m[:, 2]`` of the view.
    """
    config = views.config
    check_followed(config)
    numbers = draw(views.seed, np.asarray(views.source.ids, np.uint64)[positions], view, draw_counts(config))
    crop = numbers.get("crop")
    maps = framed(config, sizes, crop)
    if config.crop == "padded" and config.crop_padding:
        assert crop is not None
        maps[:, :, 2] += config.crop_padding - below(crop, 2 * config.crop_padding + 1)[:, ::-1]
    for axis, name in ((0, "flip"), (1, "vertical_flip")):
        if name in numbers:
            turned = happens(numbers[name][:, 0], getattr(config, name))
            maps[turned, axis] *= -1
            maps[turned, axis, 2] += config.view_size
    if "transpose" in numbers:
        turned = happens(numbers["transpose"][:, 0], config.transpose)
        maps[turned] = maps[turned][:, ::-1]
    return maps


def framed(config: ViewConfig, sizes: np.ndarray, crop: np.ndarray | None = None) -> np.ndarray:
    """Return the maps to a view that is not shifted and flipped: float64 [n, 2, 3]. See `placements`.

    Args:
        config: Of the view; its ``plain()`` part where there are no draws.
        sizes: int [n, 2].
        crop: Draws of the crop, see `framing.frame`.
    """
    config = config if crop is not None else config.plain()
    heights, widths = np.asarray(sizes, np.int64).T
    sources, targets = (box.astype(np.float64) for box in shown(heights, widths, config, crop))
    scale = targets[:, 2:] / sources[:, 2:]
    shift = targets[:, :2] - sources[:, :2] * scale
    maps = np.zeros((len(sources), 2, 3))
    maps[:, 0, 0], maps[:, 1, 1] = scale[:, 1], scale[:, 0]
    maps[:, 0, 2], maps[:, 1, 2] = shift[:, 1], shift[:, 0]
    return maps


def carried(boxes: Boxes, maps: np.ndarray, size: int) -> Boxes:
    """Return the boxes as a view shows them, cut off at its border; those that it does not show are gone.

    Boxes of which less than `VISIBLE` is shown are marked `CUT`.

    Args:
        boxes: Of n images.
        maps: float64 [n, 2, 3] of `placements`.
        size: Side of the view.
    """
    corners = mapped(boxes.corners, maps[boxes.images])
    clipped = np.clip(corners, 0, size)
    areas = [np.prod(box[:, 2:] - box[:, :2], axis=1) for box in (clipped, corners)]
    there = areas[0] > 0
    cut = areas[0] < VISIBLE * areas[1]
    moved = Boxes(
        offsets=boxes.offsets,
        corners=clipped.astype(np.float32),
        labels=boxes.labels,
        flags=boxes.flags | np.where(cut, CUT, 0).astype(np.uint8),
        sizes=np.full_like(boxes.sizes, size),
        known=boxes.known,
    )
    return moved.where(there)


def mapped(corners: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Return boxes [m, 4] under maps [m, 2, 3], float64."""
    ends = np.einsum("mij,mej->mei", maps[:, :, :2], corners.reshape(-1, 2, 2)) + maps[:, None, :, 2]
    return np.concatenate((ends.min(1), ends.max(1)), axis=1)


def inverse(maps: np.ndarray) -> np.ndarray:
    """Return the maps [n, 2, 3] back from the views to the pictures."""
    back = np.linalg.inv(maps[:, :, :2])
    return np.concatenate((back, -back @ maps[:, :, 2:]), axis=2)
