"""Involution (Li et al., CVPR 2021, arXiv 2103.06255): a kernel made from each pixel, shared by a group of channels.

    out[b, g, c, i, j] = sum_k  w[b, g, k, i, j] * x[b, g, c, s*i + dy(k), s*j + dx(k)]
    w = Conv1x1(C/r -> K*K*G) . ReLU . Norm . Conv1x1(C -> C/r)   of x, averaged s x s when the stride s > 1

The usual implementation unfolds ``x`` into K*K copies (49 times its memory). Here the K*K shifts are accumulated one
after the other, which needs no copy, and few images at a time, so that the sums stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..views.parallel import spread
from .norms import Norm, norm_layer

_CHUNK_BYTES = 1 << 18  # of one group's input in flight on a CPU: with kernels and sums it fits a second-level cache


def _shifts(padded: Tensor, kernel_size: int, stride: int, height: int, width: int) -> Iterator[Tensor]:
    """Yield, for each of the K*K offsets, the view of ``padded`` [..., H+K-1, W+K-1, B] that falls under the output."""
    for dy in range(kernel_size):
        rows = padded[..., dy : dy + stride * (height - 1) + 1 : stride, :, :]
        for dx in range(kernel_size):
            yield rows[..., dx : dx + stride * (width - 1) + 1 : stride, :]


def _accumulate(x: Tensor, weight: Tensor, kernel_size: int, stride: int) -> Tensor:
    """The sum of the module's docstring for x [B, G, C/G, H, W] and weight [B, G, K*K, h, w]."""
    height, width = weight.shape[-2:]
    padded = F.pad(x, [(kernel_size - 1) // 2] * 4)
    shifts = _shifts(padded[..., None], kernel_size, stride, height, width)
    return sum(weight[:, :, k, None] * shifted[..., 0] for k, shifted in enumerate(shifts))  # type: ignore[return-value]


class _Involve(torch.autograd.Function):
    """The same sum with an own backward pass: autograd's would write a full-size gradient for each of the shifts.

    On a CPU a chunk is laid out with the images innermost, [C/G, H, W, B], so that even the rows of a 4x4 picture are
    long enough for vector instructions.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, kernel_size: int, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kernel_size, ctx.stride = kernel_size, stride
        height, width = weight.shape[-2:]
        out = x.new_empty(*x.shape[:3], height, width)

        @torch.no_grad()  # a thread has a mode of its own
        def work(parts: tuple[Tensor, ...]) -> None:
            x_part, w_part, out_part = parts
            padded = _images_innermost(F.pad(x_part, [(kernel_size - 1) // 2] * 4))
            kernels = _images_innermost(w_part)
            total = torch.zeros_like(_images_innermost(out_part))
            for kernel, shifted in zip(kernels, _shifts(padded, kernel_size, stride, height, width), strict=True):
                total.addcmul_(kernel, shifted)
            out_part.copy_(total.movedim(-1, 0))

        _each(work, _chunks(x, weight, out), x.device)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        kernel_size, stride = ctx.kernel_size, ctx.stride
        height, width = weight.shape[-2:]
        pad = (kernel_size - 1) // 2
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)

        @torch.no_grad()
        def work(parts: tuple[Tensor, ...]) -> None:
            x_part, w_part, g_part, gx_part, gw_part = parts
            padded = _images_innermost(F.pad(x_part, [pad] * 4))
            kernels, g = _images_innermost(w_part), _images_innermost(g_part)
            padded_grad, kernel_grads = torch.zeros_like(padded), torch.empty_like(kernels)
            shifts = _shifts(padded, kernel_size, stride, height, width)
            shift_grads = _shifts(padded_grad, kernel_size, stride, height, width)
            product = torch.empty_like(g)
            for k, (shifted, shifted_grad) in enumerate(zip(shifts, shift_grads, strict=True)):
                shifted_grad.addcmul_(kernels[k], g)
                torch.sum(torch.mul(shifted, g, out=product), dim=0, out=kernel_grads[k])
            gx_part.copy_(padded_grad[:, pad : pad + x.shape[-2], pad : pad + x.shape[-1]].movedim(-1, 0))
            gw_part.copy_(kernel_grads.movedim(-1, 0))

        _each(work, _chunks(x, weight, grad, grad_x, grad_weight), x.device)
        return grad_x, grad_weight, None, None


def _gathered(x: Tensor, weight: Tensor, kernel_size: int, stride: int) -> Tensor:
    """The same sum by two gathers, for ONNX: a few nodes in place of K*K multiply-adds, at K*K times the memory.

    Exports in a tenth of the time and runs three times as fast under ONNX Runtime at batch 1.
    """
    height, width = weight.shape[-2:]
    padded = F.pad(x, [(kernel_size - 1) // 2] * 4)
    taps = torch.arange(kernel_size)[:, None]
    rows, columns = torch.arange(height) * stride + taps, torch.arange(width) * stride + taps
    patches = padded[:, :, :, rows][..., columns]  # B, G, C/G, K, H, K, W
    kernels = weight.unflatten(2, (kernel_size, kernel_size)).transpose(3, 4)[:, :, None]  # B, G, 1, K, H, K, W
    return (patches * kernels).sum((3, 5))


def _chunks(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views [b, ...] of one group of a few images, of x [B, G, C/G, H, W] and of each [B, G, ...] beside it."""
    image = x[0, 0].numel() * x.element_size() if x.numel() else 1
    rows = max(1, _CHUNK_BYTES // image) if x.device.type == "cpu" else max(1, x.shape[0])
    for parts in zip(*(t.split(rows) for t in (x, *others)), strict=True):
        for group in range(x.shape[1]):
            yield tuple(part[:, group] for part in parts)


def _each(
    work: Callable[[tuple[Tensor, ...]], None], chunks: Iterator[tuple[Tensor, ...]], device: torch.device
) -> None:
    """Do every chunk: on a CPU whole chunks a thread; a team of threads for each small sum costs more than it."""
    if device.type == "cpu":
        spread(work, list(chunks))
    else:
        for chunk in chunks:
            work(chunk)


def _images_innermost(t: Tensor) -> Tensor:
    """[B, ...] -> [..., B]; moved in memory on a CPU, where it is worth a copy."""
    t = t.movedim(0, -1)
    return t.contiguous() if t.device.type == "cpu" else t


def involve(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Apply one kernel a pixel and group.

    Args:
        x: [B, C, H, W].
        weight: [B, G, K*K, ceil(H / stride), ceil(W / stride)]; G divides C, K is odd.
        stride: of the output's grid.

    Returns:
        [B, C, ceil(H / stride), ceil(W / stride)] in the type of ``x``; sums run in float32 or wider.
    """
    batch, channels = x.shape[:2]
    groups, taps = weight.shape[1:3]
    kernel_size = round(taps**0.5)
    wide = torch.promote_types(torch.float32, x.dtype)
    grouped = x.reshape(batch, groups, channels // groups, *x.shape[2:]).to(wide)
    # Exporters and compilers trace plain operations; they would not see into the Function.
    if torch.onnx.is_in_onnx_export():
        out = _gathered(grouped, weight.to(wide), kernel_size, stride)
    elif torch.compiler.is_compiling() or torch.jit.is_tracing():
        out = _accumulate(grouped, weight.to(wide), kernel_size, stride)
    else:
        with torch.autocast(x.device.type, enabled=False):
            out = _Involve.apply(grouped, weight.to(wide), kernel_size, stride)
    return out.flatten(1, 2).to(x.dtype)


class Involution(nn.Module):
    """Involution with its kernel generator; the number of channels stays the same.

    Args:
        channels: must be a multiple of ``group_channels``.
        kernel_size: odd.
        stride: sizes that it does not divide round up.
        group_channels: channels that share a kernel.
        reduction: of the generator's hidden width.
        norm: "batch" or "group", within the generator.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        stride: int = 1,
        *,
        group_channels: int = 16,
        reduction: int = 4,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        if channels % group_channels or kernel_size % 2 == 0:
            raise ValueError(f"{channels=} must be a multiple of {group_channels=} and {kernel_size=} odd")
        self.channels, self.kernel_size, self.stride = channels, kernel_size, stride
        self.groups = channels // group_channels
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.reduce = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.norm = norm_layer(norm)(channels // reduction)
        self.act = nn.ReLU(inplace=True)
        self.span = nn.Conv2d(channels // reduction, kernel_size**2 * self.groups, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, ceil(H / stride), ceil(W / stride)]."""
        weight = self.span(self.act(self.norm(self.reduce(self.pool(x)))))
        return involve(x, weight.unflatten(1, (self.groups, self.kernel_size**2)), self.stride)

    def extra_repr(self) -> str:
        return f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, groups={self.groups}"
