"""Patch embeddings besides the plain one: shifted patches, their sum with plain ones, and both token sets side by side.

Shifted patch tokenization (Lee, Lee, Song 2021, "Vision Transformer for Small-Size Datasets", arXiv 2112.13492):

    x -> [x, x moved by s = P // 2 down-right, down-left, up-right, up-left], zeros moved in        5C channels
      -> patches of P x P -> LayerNorm(5 C P^2) -> Linear

`shifted_naive` is that definition. `shifted_fast` is the same function of the same parameters. For even P the four
moved pictures tile a window of 2P x 2P pixels around the patch without gap or overlap, and the picture itself is the
middle of that window again. So the linear layer is a convolution of kernel 2P and stride P with the centre's weights
added in the middle: 4 C P^2 products in place of 5, of pixels that have each patch's mean and standard deviation taken
off already, with LayerNorm's gain in the weights and its shift in the bias. The patch's statistics are box sums: all
windows are made of cells of s x s pixels, 4 x 4 of them, whose middle four count twice. No step is a difference of
large numbers, so that near-constant patches come out right in any precision. A picture needs no gradient, and then
the backward pass is one matrix product for the weights; LayerNorm's own gradients need none of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from .conv_stem import ConvEmbed
from .teacher_stem import TeacherStem

_CHUNK = 1 << 23  # bytes of windows at a time on a processor


def shifted_naive(x: Tensor, weight: Tensor, bias: Tensor | None, norm: nn.LayerNorm) -> Tensor:
    """Shifted patch embedding by its definition.

    Args:
        x: [B, C, H, W], whole patches.
        weight: [D, 5C, P, P] in the order picture, down-right, down-left, up-right, up-left.
        bias: [D].
        norm: over the 5 C P^2 values of a patch, in the order of ``weight``.

    Returns:
        [B, D, H / P, W / P].
    """
    patch = weight.shape[-1]
    shift, (height, width) = patch // 2, x.shape[-2:]
    padded = F.pad(x, (shift,) * 4)
    moved = [padded[..., top : top + height, left : left + width] for top in (0, 2 * shift) for left in (0, 2 * shift)]
    stacked = torch.cat([x, *moved], 1)
    cut = stacked.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [B, 5C, h, P, w, P]
    patches_BhwK = cut.permute(0, 2, 4, 1, 3, 5).flatten(3)
    return F.linear(norm(patches_BhwK), weight.flatten(1), bias).permute(0, 3, 1, 2)


def shifted_fast(x: Tensor, weight: Tensor, bias: Tensor | None, norm: nn.LayerNorm) -> Tensor:
    """Shifted patch embedding as one convolution; arguments and result as of `shifted_naive`, P even.

    The convolution is a matrix product of the windows, which is as fast as torch's own (whose weight gradient is slow
    for three channels) and lets each window be normalized before it is rounded to autocast's type. On a processor
    a few pictures at a time: larger blocks of memory are fetched afresh from the system in every step.
    """
    kernel, constant = _fold(weight, bias, norm)
    parts: Sequence[Tensor] = (x,)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        parts = x.split(max(1, _CHUNK // (16 * x.shape[1:].numel())))
    out = [F.linear(_windows(part, weight.shape[-1], norm.eps), kernel.flatten(1), constant) for part in parts]
    return (torch.cat(out) if len(out) > 1 else out[0]).permute(0, 3, 1, 2)


def _windows(x: Tensor, patch: int, eps: float) -> Tensor:
    """Return the normalized windows [B, h, w, 4 C P^2]."""
    exact = torch.promote_types(x.dtype, torch.float32)
    padded = F.pad(x.to(exact).contiguous(), (patch // 2,) * 4)
    mean, rstd = _statistics(padded, patch, eps)
    cut_BhwCKK = padded.unfold(2, 2 * patch, patch).unfold(3, 2 * patch, patch).permute(0, 2, 3, 1, 4, 5)
    return cut_BhwCKK.reshape(*mean.shape[:3], -1).sub_(mean).mul_(rstd).to(x.dtype)


def _fold(weight: Tensor, bias: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Return the kernel [D, C, 2P, 2P] and the constant [D].

    A row of the kernel sums to zero, so that the last digit of a patch's mean does not matter, which LayerNorm
    multiplies by 1 / sqrt(eps) = 300 where a patch is of one grey.
    """
    embed_dim, stacked, patch, _ = weight.shape
    constant = weight.flatten(1) @ norm.bias
    if bias is not None:
        constant = constant + bias
    scaled = (weight * norm.weight.view(weight.shape[1:])).flatten(1)
    centred = (scaled - scaled.mean(1, keepdim=True)).view(embed_dim, 5, stacked // 5, patch, patch)
    middle, corners = centred.split((1, 4), 1)  # corners [D, 2 * 2, C, P, P] by row and column
    around = corners.unflatten(1, (2, 2)).permute(0, 3, 1, 4, 2, 5).reshape(embed_dim, -1, 2 * patch, 2 * patch)
    return around + F.pad(middle[:, 0], (patch // 2,) * 4), constant


def _statistics(padded: Tensor, patch: int, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / sqrt(variance + eps) of every patch's 5 C P^2 values, each [B, h, w, 1].

    The variance is that of the pixels in a cell around the cell's mean, averaged over cells, and that of the cells'
    means around the patch's.
    """
    cell, channels = patch // 2, padded.shape[1]

    # One axis at a time, short rows by slices: torch's sums over several axes or few values are several times slower.
    def cells(x_BCHW: Tensor) -> Tensor:
        columns = x_BCHW.sum(1).unflatten(1, (-1, cell)).sum(2)
        return sum((columns[..., i::cell] for i in range(1, cell)), columns[..., ::cell]) / (channels * cell * cell)

    def gather(cells_BHW: Tensor) -> Tensor:
        return cells_BHW.unfold(1, 4, 2).unfold(2, 4, 2).permute(3, 4, 0, 1, 2).flatten(0, 1)  # [16, B, h, w]

    inner = F.pad(padded.new_ones(2, 2), (1, 1, 1, 1)).view(16, 1, 1, 1)
    share = (1 + inner) / 20  # the middle four count twice: 20 cells, as 5 pictures of 4
    mean_cells = cells(padded)
    rest = padded.unflatten(2, (-1, cell)) - mean_cells.repeat_interleave(cell, 2)[:, None, :, None]
    means, spreads = gather(mean_cells), gather(cells(rest.square().flatten(2, 3)))
    mean = (means * share).sum(0)
    variance = ((spreads + (means - mean).square()) * share).sum(0)
    return mean[..., None], (variance + eps).rsqrt()[..., None]


class ShiftedProjection(nn.Conv2d):
    """Shifted patches to embeddings; ``weight`` [D, 5C, P, P], ``bias`` [D] and a LayerNorm over 5 C P^2 values.

    Args:
        channels: C.
        embed_dim: D.
        patch: P; odd ones are computed by the definition, with s = (P - 1) / 2.
        bias: of the linear layer.
        naive: compute by the definition.
    """

    def __init__(self, channels: int, embed_dim: int, patch: int, *, bias: bool = True, naive: bool = False) -> None:
        super().__init__(5 * channels, embed_dim, patch, patch, bias=bias)
        self.norm = nn.LayerNorm(5 * channels * patch * patch)
        self.naive = naive or patch % 2 == 1

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, D, H // P, W // P]; rows and columns beyond the last whole patch are dropped."""
        patch = self.weight.shape[-1]
        height, width = (side // patch * patch for side in x.shape[-2:])
        embed = shifted_naive if self.naive else shifted_fast
        return embed(x[..., :height, :width], self.weight, self.bias, self.norm)


class SummedProjection(nn.Module):
    """The plain embedding and the shifted one, added."""

    def __init__(self, channels: int, embed_dim: int, patch: int, *, bias: bool = True) -> None:
        super().__init__()
        self.plain = nn.Conv2d(channels, embed_dim, patch, patch, bias=bias)
        self.shifted = ShiftedProjection(channels, embed_dim, patch, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, D, h, w]."""
        return self.plain(x) + self.shifted(x)


class ConcatenatedProjection(SummedProjection):
    """The plain embedding's rows of patches, and below them the shifted one's."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, D, 2h, w]."""
        return torch.cat([self.plain(x), self.shifted(x)], 2)


class ShiftedEmbed(PatchEmbed):
    """timm's ``PatchEmbed`` with shifted patches; takes the same arguments."""

    proj: Any  # no nn.Conv2d here
    projection: type[nn.Module] = ShiftedProjection
    sets = 1  # of N tokens

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plain = self.proj
        made = self.projection(plain.in_channels, plain.out_channels, self.patch_size[0], bias=plain.bias is not None)
        if self.patch_size[0] != self.patch_size[1]:
            raise ValueError(f"shifted patches are square, not {self.patch_size}")
        self.proj = made.to(device=plain.weight.device, dtype=plain.weight.dtype)

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """As timm's, for another picture; the patch is fixed by LayerNorm's weights."""
        if patch_size is not None:
            raise ValueError("shifted patches keep the size that they were made with")
        super().set_input_size(img_size)


class SummedEmbed(ShiftedEmbed):
    """timm's ``PatchEmbed`` with the sum of plain and shifted embeddings."""

    projection = SummedProjection


class ConcatenatedEmbed(ShiftedEmbed):
    """timm's ``PatchEmbed`` with 2N tokens: N plain patches, then N shifted ones, as a grid of twice the height."""

    projection = ConcatenatedProjection
    sets = 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not (self.flatten and self.strict_img_size):
            raise ValueError("concatenated patches need one fixed picture size, so no dynamic_img_size")

    def _init_img_size(self, img_size: Any) -> Any:
        size, grid, count = super()._init_img_size(img_size)
        return size, (self.sets * grid[0], grid[1]), self.sets * count

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the two grids, one below the other."""
        rows, columns = super().dynamic_feat_size(img_size)
        return self.sets * rows, columns


STEMS: dict[str, type[nn.Module]] = {
    "patch": PatchEmbed,
    "conv": ConvEmbed,
    "teacher": TeacherStem,
    "shifted": ShiftedEmbed,
    "summed": SummedEmbed,
    "concatenated": ConcatenatedEmbed,
}
