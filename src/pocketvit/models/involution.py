"""Involution (Li et al., CVPR 2021, arXiv 2103.06255): a kernel made from each pixel, shared by a group of channels.

    out[b, g, c, i, j] = sum_k  w[b, g, k, i, j] * x[b, g, c, s*i + dy(k), s*j + dx(k)]
    w = Conv1x1(C/r -> K*K*G) . ReLU . Norm . Conv1x1(C -> C/r)   of x, averaged s x s when the stride s > 1

The usual implementation unfolds ``x`` into K*K copies (49 times its memory). Here a processor takes the sum as a
product with a sparse matrix, a few groups of pixels at a time, so that they stay in its cache; other devices, and very
large pictures, add up the K*K shifts one after the other. Neither makes a copy.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ._involution_kernels import MOST_PIXELS, sparse_backward, sparse_forward
from .norms import Norm, norm_layer


def _shifts(padded: Tensor, kernel_size: int, stride: int, height: int, width: int) -> Iterator[Tensor]:
    """Yield, for each of the K*K offsets, the view of ``padded`` [..., H+K-1, W+K-1] that falls under the output."""
    for dy in range(kernel_size):
        rows = padded[..., dy : dy + stride * (height - 1) + 1 : stride, :]
        for dx in range(kernel_size):
            yield rows[..., dx : dx + stride * (width - 1) + 1 : stride]


def _accumulate(x: Tensor, weight: Tensor, kernel_size: int, stride: int) -> Tensor:
    """The sum of the module's docstring for x [B, G, C/G, H, W] and weight [B, G, K*K, h, w]."""
    height, width = weight.shape[-2:]
    padded = F.pad(x, [(kernel_size - 1) // 2] * 4)
    shifts = _shifts(padded, kernel_size, stride, height, width)
    return sum(weight[:, :, k, None] * shifted for k, shifted in enumerate(shifts))  # type: ignore[return-value]


class _Involve(torch.autograd.Function):
    """The same sum with an own backward pass: autograd's would write a full-size gradient for each of the shifts."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, kernel_size: int, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kernel_size, ctx.stride = kernel_size, stride
        if _is_sparse(x):
            return sparse_forward(x, weight, kernel_size, stride)
        height, width = weight.shape[-2:]
        padded = F.pad(x, [kernel_size // 2] * 4)
        out = x.new_zeros(*x.shape[:3], height, width)
        for k, shifted in enumerate(_shifts(padded, kernel_size, stride, height, width)):
            out.addcmul_(weight[:, :, k, None], shifted)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        kernel_size, stride = ctx.kernel_size, ctx.stride
        if _is_sparse(x):
            return *sparse_backward(x, weight, grad, kernel_size, stride), None, None
        height, width = weight.shape[-2:]
        pad = kernel_size // 2
        padded = F.pad(x, [pad] * 4)
        padded_grad, grad_weight = torch.zeros_like(padded), torch.empty_like(weight)
        shifts = _shifts(padded, kernel_size, stride, height, width)
        shift_grads = _shifts(padded_grad, kernel_size, stride, height, width)
        for k, (shifted, shift_grad) in enumerate(zip(shifts, shift_grads, strict=True)):
            shift_grad.addcmul_(weight[:, :, k, None], grad)
            grad_weight[:, :, k] = (shifted * grad).sum(2)
        return padded_grad[..., pad : pad + x.shape[-2], pad : pad + x.shape[-1]], grad_weight, None, None


def _is_sparse(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.shape[-2] * x.shape[-1] <= MOST_PIXELS


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
    # Exporters and compilers trace plain operations; they would not see into the Function. Nor has "meta" an autocast.
    if torch.onnx.is_in_onnx_export():
        out = _gathered(grouped, weight.to(wide), kernel_size, stride)
    elif torch.compiler.is_compiling() or torch.jit.is_tracing() or x.is_meta:
        out = _accumulate(grouped, weight.to(wide), kernel_size, stride)
    else:
        with torch.autocast(x.device.type, enabled=False):
            out = _Involve.apply(grouped, weight.to(wide), kernel_size, stride)
    return out.flatten(1, 2).to(x.dtype)


@register_notrace_module
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
