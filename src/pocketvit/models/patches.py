"""Patch embeddings besides the plain one: shifted patches, their sum with plain ones, and both token sets side by side.

Shifted patch tokenization (Lee, Lee, Song 2021, "Vision Transformer for Small-Size Datasets", arXiv 2112.13492):

    x -> [x, x moved by s = P // 2 down-right, down-left, up-right, up-left], zeros moved in        5C channels
      -> patches of P x P -> LayerNorm(5 C P^2) -> Linear

`shifted_naive` is that definition. `shifted_fast` is the same function of the same parameters. For even P the four
moved pictures tile a window of 2P x 2P pixels around the patch without gap or overlap, so that the linear layer is one
convolution of kernel 2P and stride P, with the centre's weights added in the middle. With v the 5 C P^2 values of a
patch, g and b LayerNorm's gain and bias, and W' = W diag(g) less the mean of each row (so that W' 1 = 0):

    W LayerNorm(v) = (W' v) / sqrt(var(v) + eps) + W b

and only the variance is left of LayerNorm. All windows are made of cells of s x s pixels, 4 x 4 of them, whose middle
four count twice: means and spreads are taken once a cell and then put together. Neither these nor the convolution are a
difference of large numbers (the picture's mean is taken off first, which changes nothing), so that near-constant
patches come out right. A picture needs no gradient, and then the backward pass is the convolution's weight gradient
alone.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F


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

    Under autocast the convolution runs in autocast's type and everything else in float32. What rounded weights fail to
    sum to zero is taken off again: without that a patch of one grey would get a random embedding, as LayerNorm
    multiplies it by up to 300.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        with torch.autocast(kind, enabled=False):
            return _shifted_fast(x, weight, bias, norm, dtype)
    return _shifted_fast(x, weight, bias, norm, x.dtype)


def _shifted_fast(x: Tensor, weight: Tensor, bias: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    patch = weight.shape[-1]
    exact = torch.promote_types(dtype, torch.float32)
    kernel, constant = _fold(weight.to(exact), None if bias is None else bias.to(exact), norm)
    x = x.to(exact)
    x = F.pad(x, (patch // 2,) * 4) - x.detach().mean((1, 2, 3), keepdim=True)
    mean, rstd = _statistics(x, patch, norm.eps)
    rounded = kernel.to(dtype)
    out = F.conv2d(x.to(dtype), rounded, stride=patch).to(exact)
    if dtype != exact:
        out = out - mean * rounded.to(exact).sum((1, 2, 3))[:, None, None]
    return (out * rstd + constant[:, None, None]).to(dtype)


def _fold(weight: Tensor, bias: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Return the kernel [D, C, 2P, 2P], whose weights sum to zero, and the constant [D]."""
    shift = weight.shape[-1] // 2
    constant = weight.flatten(1) @ norm.bias.to(weight.dtype)
    if bias is not None:
        constant = constant + bias
    scaled = weight * norm.weight.to(weight.dtype).view(weight.shape[1:])
    centred = scaled - scaled.mean((1, 2, 3), keepdim=True)
    middle, above_left, above_right, below_left, below_right = centred.chunk(5, 1)
    around = torch.cat([torch.cat([above_left, above_right], 3), torch.cat([below_left, below_right], 3)], 2)
    return around + F.pad(middle, (shift,) * 4), constant


def _statistics(x: Tensor, patch: int, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / sqrt(variance + eps) of every patch's 5 C P^2 values, each [B, 1, h, w].

    ``x`` is padded by half a patch. The variance is that of the values in a cell around the cell's mean, averaged over
    cells, and that of the cells' means around the patch's.
    """
    cell = patch // 2
    mean_cells = F.avg_pool2d(x, cell).mean(1)  # [B, 2h + 2, 2w + 2]
    rest = x.unflatten(3, (-1, cell)).unflatten(2, (-1, cell)) - mean_cells[:, None, :, None, :, None]
    spread_cells = F.avg_pool2d(rest.square().flatten(4, 5).flatten(2, 3), cell).mean(1)
    # The middle four of a patch's 4 x 4 cells count twice: 20 cells, as 5 pictures of 4.
    edge = x.new_tensor([1.0, 1.0, 1.0, 1.0])
    inner = x.new_tensor([0.0, 1.0, 1.0, 0.0])
    share = (edge[:, None] * edge + inner[:, None] * inner) / 20
    means, spreads = (cells.unfold(1, 4, 2).unfold(2, 4, 2) for cells in (mean_cells, spread_cells))  # [B, h, w, 4, 4]
    mean = (means * share).sum((3, 4))
    variance = ((spreads + (means - mean[..., None, None]).square()) * share).sum((3, 4))
    return mean[:, None], (variance + eps).rsqrt()[:, None]


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


STEMS: dict[str, type[PatchEmbed]] = {
    "patch": PatchEmbed,
    "shifted": ShiftedEmbed,
    "summed": SummedEmbed,
    "concatenated": ConcatenatedEmbed,
}
