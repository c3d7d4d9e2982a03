"""Resizing: two separable matrix products, the same bits for any batch and any number of threads.

Horizontally first and then vertically, with an 8-bit picture rounded and clamped in between, as Pillow did (from 13
on it begins with what is cheaper). Widths and heights that shrink are antialiased. Measured in
``benchmarks/lanczos.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..config import Resample
from .constants import constant
from .kernels import band_blocks, nearest_index
from .parallel import cut, exact_products, spread

_CPU_CHUNK = 1 << 21  # floats a chunk of planes: so that threads seldom pass the interpreter's lock to each other
_GPU_CHUNK = 1 << 27
_KEPT = 1024  # pixels of a side up to which weights are kept: at most 30 MB of them; longer ones are soon made
_KERNELS = ("lanczos", "bicubic", "bilinear", "nearest")


def resize(pixels: Tensor, size: tuple[int, int], kernel: Resample = "lanczos", lobes: int = 5) -> Tensor:
    """Resize pictures, antialiased when shrinking.

    Args:
        pixels: uint8 or floating point [B,C,H,W] on any device.
        size: new (height, width).
        kernel: Lanczos (Duchon 1979), Keys' bicubic with a = -1/2, bilinear (triangle), or nearest.
        lobes: of the Lanczos kernel; 3 is Pillow's, 5 is TensorFlow's ``lanczos5``.

    Returns:
        [B,C,height,width] of the same dtype and device, uint8 clamped to 0..255.
    """
    if kernel not in _KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(_KERNELS)}, got {kernel!r}")
    if min(size) < 1 or lobes < 1:
        raise ValueError(f"size and lobes must be at least 1, got size={tuple(size)}, lobes={lobes}")
    batch, channels, height, width = pixels.shape
    if (height, width) == tuple(size):
        return pixels
    if kernel == "nearest":
        rows, columns = (torch.from_numpy(nearest_index(a, b)) for a, b in zip((height, width), size, strict=True))
        return pixels[:, :, rows.to(pixels.device)[:, None], columns.to(pixels.device)]
    planes = pixels.reshape(batch * channels, height, width)
    result = pixels.new_empty((batch * channels, *size))
    limit = _CPU_CHUNK if pixels.device.type == "cpu" else _GPU_CHUNK
    step = max(1, limit // max(height * width, height * size[1], size[0] * size[1]))

    def work(part: slice) -> None:
        _resize_planes(planes[part], result[part], kernel, lobes)

    parts = cut(len(planes), step)
    with exact_products(pixels.device):
        if pixels.dtype == torch.uint8 and pixels.device.type == "cpu":
            spread(work, parts)
        else:  # here, so that gradients and streams are the caller's
            for part in parts:
                work(part)
    return result.view(batch, channels, *size)


def to_input(
    pixels: Tensor,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Turn rendered views into what a network takes: resized to its input size, scaled to 0..1 and normalized.

    Args:
        pixels: uint8 [B,3,S,S].
        size: side of the network's input.
        mean: of each channel, in 0..1.
        std: of each channel.
        dtype: of the result; the arithmetic is float32.

    Returns:
        [B,3,size,size] on the device of ``pixels``.
    """
    pixels = resize(pixels, (size, size))
    shape = (1, -1, 1, 1)
    scale = constant(tuple(1 / (255 * value) for value in std), pixels.device).view(shape)
    shift = constant(tuple(-m / s for m, s in zip(mean, std, strict=True)), pixels.device).view(shape)
    return pixels.to(torch.float32).mul_(scale).add_(shift).to(dtype)


def _resize_planes(planes: Tensor, out: Tensor, kernel: Resample, lobes: int) -> None:
    """Resize [P,H,W] into ``out`` [P,h,w]."""
    eight_bit = planes.dtype == torch.uint8
    height, width = planes.shape[1:]
    work = torch.float64 if planes.dtype == torch.float64 else torch.float32
    x = planes.to(work).contiguous()
    if out.shape[2] != width:
        x = _apply_blocks(x, _blocks(width, out.shape[2], kernel, lobes, eight_bit, work, x.device), horizontal=True)
        if eight_bit and out.shape[1] != height:
            x.add_(0.5).floor_().clamp_(0, 255)
    if out.shape[1] != height:
        x = _apply_blocks(x, _blocks(height, out.shape[1], kernel, lobes, eight_bit, work, x.device), horizontal=False)
    if eight_bit:
        x.add_(0.5).clamp_(0, 255)  # conversion truncates
    out.copy_(x)


_TensorBlock = tuple[int, int, Tensor]


def _apply_blocks(x: Tensor, blocks: tuple[_TensorBlock, ...], horizontal: bool) -> Tensor:
    """Multiply the last axis ([P,H,W] -> [P,H,w]) or the one before ([P,H,W] -> [P,h,W]) by band blocks."""
    planes, height, width = x.shape
    total = sum(weights.shape[0] for _, _, weights in blocks)
    if horizontal:
        rows = x.view(planes * height, width)
        if len(blocks) == 1:
            return (rows @ blocks[0][2].T).view(planes, height, total)
        result = x.new_empty((planes * height, total))
        for out_start, in_start, weights in blocks:
            count, used = weights.shape
            result[:, out_start : out_start + count] = rows[:, in_start : in_start + used] @ weights.T
        return result.view(planes, height, total)
    if len(blocks) == 1:
        return torch.matmul(blocks[0][2], x)
    result = x.new_empty((planes, total, width))
    for out_start, in_start, weights in blocks:
        count, used = weights.shape
        result[:, out_start : out_start + count] = torch.matmul(weights, x[:, in_start : in_start + used])
    return result


def _blocks(
    size_in: int, size_out: int, kernel: Resample, lobes: int, rounded: bool, dtype: torch.dtype, device: torch.device
) -> tuple[_TensorBlock, ...]:
    """Return `band_blocks` as tensors on a device."""
    make = _kept_blocks if max(size_in, size_out) <= _KEPT else _new_blocks
    return make(size_in, size_out, kernel, lobes, rounded, dtype, device)


def _new_blocks(
    size_in: int, size_out: int, kernel: Resample, lobes: int, rounded: bool, dtype: torch.dtype, device: torch.device
) -> tuple[_TensorBlock, ...]:
    with torch.inference_mode(False):  # they are kept, and may serve where gradients flow
        return tuple(
            (block.out_start, block.in_start, torch.from_numpy(block.weights).to(device, dtype))
            for block in band_blocks(size_in, size_out, kernel, lobes, rounded)
        )


_kept_blocks = lru_cache(maxsize=256)(_new_blocks)
