"""A residual convolutional stem in place of patches: what makes a small ViT learn fast from few or small images.

Convolutions of 3 x 3 pixels halve the picture until a patch is one position, and a residual block (He et al. 2016,
arXiv 1512.03385) looks around at every resolution between the first and the last:

    conv, norm, ReLU                    width,      at full size, or half of it
    conv / 2, norm, ReLU, block         2 * width   for each halving but the last: then 3 * width, 4 * width, ...
    conv / 2                            embed_dim

After Xiao et al. 2021, "Early Convolutions Help Transformers See Better" (arXiv 2106.14881). The last gain of every
block starts at zero, so that the block starts as its shortcut.
"""

from __future__ import annotations

from typing import Any

from timm.layers import to_2tuple
from torch import Tensor, nn

from ..errors import PocketError

_FULL_SIZE = 48  # pixels up to which the first layer sees the picture as it is; above, it would cost more than the rest
_LARGEST = 16  # pixels of a patch that is chosen


def conv_patch(image_size: int) -> int:
    """Return the patch of a convolutional stem: 16 tokens up to 64 pixels, then patches of 16 pixels."""
    wanted = 1
    while wanted < _LARGEST and 7 * wanted <= image_size:  # 28 and 32 pixels: patches of 8
        wanted *= 2
    return wanted


def conv_stem_args(image_size: int, embed_dim: int) -> dict[str, int]:
    """Return the arguments of `ConvEmbed` for a student: about 3/16 of the tokens' width, in eights."""
    return {"width": max(16, 8 * round(embed_dim * 3 / 16 / 8)), "stride": 1 if image_size <= _FULL_SIZE else 2}


class ResidualBlock(nn.Module):
    """x -> ReLU(x + norm(conv(ReLU(norm(conv(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))


class GridEmbed(nn.Module):
    """What timm asks of a ``PatchEmbed`` besides tokens, for stems of ceil(side / patch) tokens along a side.

    A subclass sets ``patch_size``, a pair, and calls `set_input_size`.
    """

    patch_size: tuple[int, int]

    def set_input_size(self, img_size: int | tuple[int, int] | None = None, patch_size: Any = None) -> None:
        """Take another picture, as timm asks for it; the patch stays."""
        if patch_size is not None:
            raise ValueError("a convolutional stem keeps the patch that it was made with")
        self.img_size = to_2tuple(img_size)
        self.grid_size = self.dynamic_feat_size(self.img_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def feat_ratio(self, as_scalar: bool = True) -> Any:
        """Pixels a token, as timm asks for them."""
        return self.patch_size[0] if as_scalar else self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens of a picture, as timm asks for them."""
        return -(-img_size[0] // self.patch_size[0]), -(-img_size[1] // self.patch_size[1])

    def check_size(self, x: Tensor) -> None:
        """Raise ValueError unless the pictures [B, C, H, W] are of the size that it was made for."""
        if tuple(x.shape[2:]) != self.img_size:
            raise ValueError(f"a picture of {tuple(x.shape[2:])} pixels for a student made for {self.img_size}")


class ConvEmbed(GridEmbed):
    """The stem, in the place of timm's ``PatchEmbed``.

    Args:
        img_size: Side of the picture in pixels, or (height, width); sides need not divide.
        patch_size: Pixels a token stands for, a power of two; a picture of S pixels becomes ceil(S / patch)^2 tokens.
        in_chans: Of the picture.
        embed_dim: Of the tokens.
        width: Channels of the first convolution.
        stride: Of the first convolution: 1, or 2 where pictures are large and a full-size layer would cost most.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 192,
        *,
        width: int = 24,
        stride: int = 2,
        **_: Any,  # what timm hands to its own PatchEmbed: flexible sizes, which these students do not have
    ) -> None:
        super().__init__()
        halvings = patch_size.bit_length() - 1
        if patch_size != 1 << halvings or halvings < stride:
            raise PocketError(
                f"a convolutional stem halves the picture, so that its patches have {2 * stride}, {4 * stride}, ... "
                f"pixels, not {patch_size}. Choose another --patch."
            )
        self.patch_size = to_2tuple(patch_size)
        self.set_input_size(img_size)

        def unit(channels: int, out: int, step: int) -> list[nn.Module]:
            return [nn.Conv2d(channels, out, 3, step, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]

        stages = [nn.Sequential(*unit(in_chans, width, stride))]
        between = halvings - stride  # halvings after the first layer and before the last
        for number in range(between):
            out = (number + 2) * width
            stages.append(nn.Sequential(*unit((number + 1) * width, out, 2), ResidualBlock(out)))
        self.stages = nn.Sequential(*stages)
        self.proj = nn.Conv2d((between + 1) * width, embed_dim, 3, 2, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> tokens [B, N, D]."""
        self.check_size(x)
        return self.proj(self.stages(x)).flatten(2).transpose(1, 2)
