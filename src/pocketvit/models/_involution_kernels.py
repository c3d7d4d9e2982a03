"""Involution's multiply-sum and its gradients on a processor, as a sparse matrix whose places never change.

For one image and one group, involution is ``out[h*w, C/G] = S x[H*W, C/G]``: each row of S holds the K*K weights of an
output pixel, at the places of the input pixels under its kernel. So

    out = S x,        grad_x = S^T grad_out,        grad_S = grad_out x^T where S has entries,

each a loop over entries that moves C/G = 16 neighbouring floats: two vector registers, which stay there while the taps
of a pixel are summed. Where the entries lie depends on shapes alone, and is worked out once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..views.parallel import spread

# Output pixels in flight a thread: enough for the calls' own cost not to show, few enough for a second-level cache.
_CHUNK_PIXELS = 6272
_LEAST_CHUNKS = 4  # where there are so many planes: one alone would be left to torch's own threads, which is slower
# Larger pictures take the way of other devices: their tables of places would weigh as much as the kernels themselves.
MOST_PIXELS = 1 << 14


class _Bags(NamedTuple):
    """Entries of S sorted by row (or, of its transpose, by column), for several planes side by side.

    A plane is one group of one image.
    """

    pixels: Tensor  # int32 [planes * entries]: the pixel at an entry's other end
    starts: Tensor  # int32 [planes * rows + 1]: where each row's entries begin
    taps: Tensor  # int64 [entries]: an entry's place among one plane's kernels [K*K, h, w]


@lru_cache(maxsize=16)
def _places(
    height: int, width: int, kernel_size: int, stride: int, out_height: int, out_width: int, planes: int
) -> tuple[_Bags, _Bags]:
    """Return S by output pixels and S^T by input pixels, without the taps that fall outside the picture."""

    def counting(n: int) -> Tensor:
        return torch.arange(n, device="cpu")

    def along(size: int, out_size: int) -> tuple[Tensor, Tensor]:
        """The input position [out_size, K] of each tap along one axis, and whether it is inside."""
        position = counting(out_size)[:, None] * stride + counting(kernel_size) - kernel_size // 2
        return position, (position >= 0) & (position < size)

    rows, rows_inside = along(height, out_height)
    columns, columns_inside = along(width, out_width)
    inside = rows_inside[:, None, :, None] & columns_inside[:, None]  # h, w, K, K
    inputs = (rows[:, None, :, None] * width + columns[:, None])[inside]
    outputs, kernel = inside.flatten(2).flatten(0, 1).nonzero(as_tuple=True)
    taps = kernel * (out_height * out_width) + outputs

    def bags(near: Tensor, far: Tensor, taps: Tensor, near_pixels: int, far_pixels: int) -> _Bags:
        plane = counting(planes)[:, None]
        ends = torch.bincount(near, minlength=near_pixels).cumsum(0)
        starts = torch.cat([torch.zeros(1, dtype=ends.dtype, device="cpu"), (ends + plane * len(near)).flatten()])
        return _Bags((far + plane * far_pixels).flatten().int(), starts.int(), taps)

    order = inputs.argsort(stable=True)
    places = (
        bags(outputs, inputs, taps, out_height * out_width, height * width),
        bags(inputs[order], outputs[order], taps[order], height * width, out_height * out_width),
    )
    with warnings.catch_warnings():  # the first matrix of a process says that they are in beta
        warnings.filterwarnings("ignore", "Sparse CSR")
        none = torch.zeros(0, device="cpu")
        torch.sparse_csr_tensor(torch.zeros(2, device="cpu").int(), none.int(), none, (1, 1), check_invariants=False)
    return places


def sparse_forward(x: Tensor, weight: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Return S x [B, G, C/G, h, w] for x [B, G, C/G, H, W] and weight [B, G, K*K, h, w], on a CPU."""
    out = x.new_empty(*x.shape[:3], *weight.shape[3:])
    planes = _planes(weight)
    by_output, _ = _places(*x.shape[3:], kernel_size, stride, *weight.shape[3:], planes)

    @torch.no_grad()  # a thread has a mode of its own
    def work(parts: tuple[Tensor, ...]) -> None:
        x_part, w_part, out_part = parts
        _put(out_part, _times(by_output, w_part, _pixels_first(x_part)))

    spread(work, list(_chunks(planes, x, weight, out)))
    return out


def sparse_backward(x: Tensor, weight: Tensor, grad: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of `sparse_forward` for ``x`` and ``weight``, in their shapes."""
    grad_x, grad_weight = x.new_empty(x.shape), weight.new_empty(weight.shape)
    planes = _planes(weight)
    by_output, by_input = _places(*x.shape[3:], kernel_size, stride, *weight.shape[3:], planes)

    @torch.no_grad()
    def work(parts: tuple[Tensor, ...]) -> None:
        x_part, w_part, g_part, gx_part, gw_part = parts
        pixels, grads = _pixels_first(x_part), _pixels_first(g_part)
        _put(gx_part, _times(by_input, w_part, grads))
        count = gw_part.shape[0] * gw_part.shape[1]
        entries = count * len(by_output.taps)
        products = torch.sparse_csr_tensor(
            by_output.starts[: len(grads) + 1],
            by_output.pixels[:entries],
            grads.new_zeros(entries),
            (len(grads), len(pixels)),
            check_invariants=False,
        )
        torch.sparse.sampled_addmm(products, grads, pixels.T, beta=0.0, out=products)
        gw_part.zero_()  # of taps outside the picture
        gw_part.view(count, -1).scatter_(1, by_output.taps.expand(count, -1), products.values().view(count, -1))

    spread(work, list(_chunks(planes, x, weight, grad, grad_x, grad_weight)))
    return grad_x, grad_weight


def _times(bags: _Bags, weight: Tensor, pixels_PC: Tensor) -> Tensor:
    """S (or its transpose) times ``pixels_PC``; weight [b, g, K*K, h, w] fills its places."""
    count = weight.shape[0] * weight.shape[1]
    entries = weight.reshape(count, -1).gather(1, bags.taps.expand(count, -1)).flatten()
    rows = (len(bags.starts) - 1) // (len(bags.pixels) // len(bags.taps)) * count
    return F.embedding_bag(
        bags.pixels[: len(entries)],
        pixels_PC,
        bags.starts[: rows + 1],
        mode="sum",
        per_sample_weights=entries,
        include_last_offset=True,
    )


def _pixels_first(t: Tensor) -> Tensor:
    """[b, g, C/G, H, W] -> [b * g * H * W, C/G], contiguous."""
    return t.permute(0, 1, 3, 4, 2).reshape(-1, t.shape[2]).contiguous()


def _put(target: Tensor, pixels_PC: Tensor) -> None:
    """The other way round, into ``target``."""
    batch, groups, channels, height, width = target.shape
    target.copy_(pixels_PC.view(batch, groups, height, width, channels).permute(0, 1, 4, 2, 3))


def _planes(weight: Tensor) -> int:
    """How many planes a chunk has at most."""
    batch, groups, _, height, width = weight.shape
    fitting = max(1, min(_CHUNK_PIXELS // (height * width), batch * groups // _LEAST_CHUNKS))
    return min(fitting, groups) if fitting < 2 * groups else min(fitting // groups, batch) * groups


def _chunks(planes: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views [b, g, ...] of at most ``planes`` planes: some groups of one image, or some whole images."""
    batch, groups = tensors[0].shape[:2]
    images = max(1, planes // groups)
    for image in range(0, batch, images):
        for group in range(0, groups, planes):
            yield tuple(t[image : image + images, group : group + planes] for t in tensors)
