"""From pictures of any size to square ones: which box is shown, and its resizing to the view's size."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ..config import Resample, ViewConfig
from .boxes import central_boxes, random_boxes, zoomed
from .kernels import nearest_index, weight_matrix
from .parallel import cut, exact_products, spread
from .resize import resize

_SMALL = 64  # pictures up to this side are resized many at a time, each by its own matrices
_FLOATS = 1 << 19  # of work at a time


def frame(images: np.ndarray | list[np.ndarray], config: ViewConfig, numbers: np.ndarray | None) -> np.ndarray:
    """Show a box of each picture at the view's size.

    Args:
        images: uint8 [n,H,W,3], or n arrays [H,W,3] of any sizes.
        config: its ``crop``, ``fit``, ``resample`` and ``lobes``.
        numbers: uint32 [n, BOX_DRAWS] for random boxes, [n, ZOOM_DRAWS] for zooms.

    Returns:
        uint8 [n,3,S,S], which may be a view of ``images``.
    """
    size = config.view_size
    if config.crop not in ("random_resized", "zoom") and isinstance(images, np.ndarray):
        return _fitted(images, config)
    sources, targets = shown(*_sizes(images), config, numbers)
    if config.crop == "random_resized" and isinstance(images, np.ndarray) and max(images.shape[1:3]) <= _SMALL:
        return _resize_boxes(images, sources, config)
    result = np.empty((len(images), 3, size, size), np.uint8)

    def work(i: int) -> None:
        top, left, height, width = sources[i].tolist()
        crop = images[i][None, top : top + height, left : left + width]
        top, left, height, width = targets[i].tolist()
        _lay(_resized(crop, (height, width), config)[0], top, left, result[i])

    with exact_products(torch.device("cpu")):
        spread(work, range(len(images)))
    return result


def shown(
    heights: np.ndarray, widths: np.ndarray, config: ViewConfig, numbers: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return which box of each picture is shown, and which box of the view it fills, before it is flipped.

    Args:
        heights: int64 [n], of the pictures.
        widths: int64 [n].
        config: Its ``crop`` and ``fit``.
        numbers: See `frame`.

    Returns:
        int64 [n, 4] each, of (top, left, height, width); a box of the view may reach beyond it.
    """
    size, nothing = config.view_size, np.zeros_like(heights)
    pictures = np.stack((nothing, nothing, heights, widths), axis=1)
    views = np.stack((nothing, nothing, nothing + size, nothing + size), axis=1)
    if config.crop == "random_resized":
        assert numbers is not None
        boxes, found = random_boxes(numbers, heights, widths, config.crop_scale, config.crop_ratio)
        return np.where(found[:, None], boxes, central_boxes(heights, widths, config.crop_ratio)), views
    if config.crop == "zoom":
        assert numbers is not None
        return pictures, zoomed(numbers, heights, widths, size, config.zoom)
    if config.fit == "pad":
        longest = np.maximum(heights, widths)[:, None]
        sides = np.maximum((2 * pictures[:, 2:] * size + longest) // (2 * longest), 1)
        return pictures, np.concatenate(((size - sides) // 2, sides), axis=1)
    if config.fit == "crop":
        side = np.minimum(heights, widths)
        pictures = np.stack(((heights - side) // 2, (widths - side) // 2, side, side), axis=1)
    return pictures, views


def _lay(picture: np.ndarray, top: int, left: int, out: np.ndarray) -> None:
    """Lay a picture [3,h,w] on a black square [3,S,S]; what reaches beyond it is cut off."""
    size, (height, width) = out.shape[-1], picture.shape[1:]
    out[:] = 0
    down, across = slice(max(top, 0), min(top + height, size)), slice(max(left, 0), min(left + width, size))
    out[:, down, across] = picture[:, down.start - top : down.stop - top, across.start - left : across.stop - left]


def _sizes(images: np.ndarray | list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return heights and widths: int64 [n] each."""
    if isinstance(images, np.ndarray):
        return tuple(np.full(len(images), side, np.int64) for side in images.shape[1:3])  # type: ignore[return-value]
    sizes = np.array([image.shape[:2] for image in images], np.int64).reshape(-1, 2)
    return sizes[:, 0], sizes[:, 1]


def _resized(images: np.ndarray, size: tuple[int, int], config: ViewConfig) -> np.ndarray:
    """Resize [n,H,W,3] to [n,3,h,w]."""
    # A memory-mapped picture is read-only, of which torch warns; a copy costs little beside resizing.
    planes = torch.from_numpy(images if images.flags.writeable else images.copy()).permute(0, 3, 1, 2)
    return resize(planes, size, config.resample, config.lobes).numpy()


def _fitted(images: np.ndarray, config: ViewConfig) -> np.ndarray:
    """Bring pictures of one size [n,H,W,3] to the view's size as ``config.fit`` says: uint8 [n,3,S,S]."""
    size = config.view_size
    height, width = (np.array([side]) for side in images.shape[1:3])
    (source,), (target,) = shown(height, width, config, None)
    top, left, high, wide = source.tolist()
    images = images[:, top : top + high, left : left + wide]
    top, left, high, wide = target.tolist()
    resized = _resized(images, (high, wide), config)
    if (high, wide) == (size, size):
        return resized
    result = np.zeros((len(images), 3, size, size), np.uint8)
    result[:, :, top : top + high, left : left + wide] = resized
    return result


def _resize_boxes(images: np.ndarray, boxes: np.ndarray, config: ViewConfig) -> np.ndarray:
    """Resize one box of each small picture: uint8 [n,H,W,3] to [n,3,S,S]."""
    count, height, width, _ = images.shape
    size = config.view_size
    result = torch.empty((count, 3, size, size), dtype=torch.uint8)

    def work(some: slice) -> None:
        down = _matrices(height, boxes[some, 0::2], config)
        across = _matrices(width, boxes[some, 1::2], config)
        x = torch.from_numpy(images[some].astype(np.float32)).permute(0, 1, 3, 2)
        x = torch.bmm(x.reshape(len(x), height * 3, width), across.transpose(1, 2))
        x.add_(0.5).floor_().clamp_(0, 255)
        x = torch.bmm(down, x.view(len(x), height, 3 * size))
        x.add_(0.5).clamp_(0, 255)
        result[some] = x.view(-1, size, 3, size).permute(0, 2, 1, 3)

    with exact_products(result.device):
        spread(work, cut(count, max(1, _FLOATS // (3 * max(height, size) * max(width, size)))))
    return result.numpy()


def _matrices(side: int, spans: np.ndarray, config: ViewConfig) -> torch.Tensor:
    """Return each span's weights over a whole side: float32 [n, S, side]."""
    size, kernel, lobes = config.view_size, config.resample, config.lobes
    return torch.stack([_matrix(side, start, length, size, kernel, lobes) for start, length in spans.tolist()])


@lru_cache(maxsize=1024)
def _matrix(side: int, start: int, length: int, size: int, kernel: Resample, lobes: int) -> torch.Tensor:
    """Return the weights that resize ``length`` pixels from ``start`` of a side: float32 [size, side]."""
    matrix = np.zeros((size, side), np.float32)
    inner = matrix[:, start : start + length]
    if kernel == "nearest":
        inner[np.arange(size), nearest_index(length, size)] = 1
    elif length == size:
        inner[np.arange(size), np.arange(size)] = 1
    else:
        inner[:] = weight_matrix(length, size, kernel, lobes, True)
    return torch.from_numpy(matrix)
