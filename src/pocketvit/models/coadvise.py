"""The student of Co-advise (Ren et al., CVPR 2022, arXiv 2106.12378): a convolution and an involution stem.

    s_conv, s_inv      = the two stems' streams, each projected to patches [B, N, D]
    patch tokens       = s_conv + s_inv
    teacher tokens     = learned token 1 + mean over patches of s_conv,  learned token 2 + mean of s_inv

So the first teacher's token starts from the convolution's stream and the second's from the involution's: name the
convolutional teacher first. Heads and output are those of `VisionTransformerTokens`.

The published stems are for patches of 16 pixels: they halve the picture, and 8x8 patches are cut from what is left.
Here patches of 8 pixels and more do the same with P/2 (half the resolution is a quarter of the work, and a patch still
holds 4x4 positions); smaller patches are cut from a stem at full resolution, whose first convolution is 3x3 in place
of 7x7, because a halved 16-pixel picture would leave a patch one position or none.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import to_2tuple
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from .involution import Involution
from .norms import Norm, norm_layer
from .positions import checkpoint_filter_fn
from .vit import VisionTransformerTokens, cfgs_of

_GROUP = 16  # channels that share an involution's kernel


def stem_width(embed_dim: int) -> int:
    """Return the stems' channels for a student of the ladder: an eighth of its width, as a multiple of 16.

    The published third (64 channels of 192) more than doubles the work of DeiT-Tiny; an eighth adds about a sixth to
    ``pocket_s`` at 32 pixels.
    """
    return max(_GROUP, _GROUP * round(embed_dim / 8 / _GROUP))


class CoadviseEmbed(nn.Module):
    """Both stems, in the place of timm's ``PatchEmbed``.

    Args:
        img_size: side of the picture in pixels, or (height, width); rows and columns beyond the last whole patch are
            dropped, as timm drops them.
        patch_size: P; stems halve the picture where it is even and at least 8.
        in_chans: of the picture.
        embed_dim: D.
        width: channels of the stems; the involution runs on half of them, as in RedNet, and on 16 at least.
        norm: "batch" as published, or "group" where batches are small.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 192,
        *,
        width: int,
        norm: Norm,
        **_: Any,  # what timm hands to its own PatchEmbed: flexible sizes, which these students do not have
    ) -> None:
        super().__init__()
        self.img_size = to_2tuple(img_size)
        self.patch_size = patch_size
        self.grid_size = (self.img_size[0] // patch_size, self.img_size[1] // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        stride = 2 if patch_size >= 8 and patch_size % 2 == 0 else 1
        first = 7 if stride == 2 else 3
        half = max(_GROUP, width // 2 // _GROUP * _GROUP)

        def unit(channels: int, out: int, kernel: int, step: int = 1) -> list[nn.Module]:
            convolution = nn.Conv2d(channels, out, kernel, step, kernel // 2, bias=False)
            return [convolution, norm_layer(norm)(out), nn.ReLU(inplace=True)]

        def patches() -> nn.Module:
            return nn.Conv2d(width, embed_dim, patch_size // stride, patch_size // stride)

        self.convolution = nn.Sequential(
            *unit(in_chans, width, first, stride), *unit(width, width, 3), *unit(width, width, 3), patches()
        )
        self.involution = nn.Sequential(
            *unit(in_chans, half, 3, stride),
            *(Involution(half, 3, group_channels=_GROUP, norm=norm), norm_layer(norm)(half), nn.ReLU(inplace=True)),
            *unit(half, width, 3),
            patches(),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] -> [B, 2 + N, D]: the means of the two streams, then their sum patch by patch."""
        if tuple(x.shape[-2:]) != self.img_size:
            raise ValueError(f"pictures of {tuple(x.shape[-2:])} pixels for a student made for {self.img_size}")
        height, width = (count * self.patch_size for count in self.grid_size)
        x = x[..., :height, :width]
        convolved, involved = (stem(x).flatten(2).transpose(1, 2) for stem in (self.convolution, self.involution))
        starts = torch.stack([convolved.mean(1), involved.mean(1)], 1)
        return torch.cat([starts, convolved + involved], 1)

    def feat_ratio(self) -> int:
        """Pixels a patch, as timm asks for them."""
        return self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Patches in a picture, as timm asks for them."""
        return img_size[0] // self.patch_size, img_size[1] // self.patch_size


class VisionTransformerCoadvise(VisionTransformerTokens):
    """See the module's docstring; one class token, two teacher tokens, three heads.

    Args:
        args: as for timm's ``VisionTransformer``.
        stem_width: channels of the stems.
        norm: within the stems.
        kwargs: as for timm's ``VisionTransformer``.
    """

    def __init__(self, *args: Any, stem_width: int = 64, norm: Norm = "batch", **kwargs: Any) -> None:
        embed = partial(CoadviseEmbed, width=stem_width, norm=norm)
        super().__init__(*args, tokens=2, embed_layer=embed, **kwargs)

    def _pos_embed(self, x: Tensor) -> Tensor:
        assert self.cls_token is not None
        assert self.pos_embed is not None
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), self.dist_tokens + x[:, :2], x[:, 2:]], 1)
        return self.pos_drop(tokens + self.pos_embed)


default_cfgs = cfgs_of(
    "pocketvit_coadvise",
    first_conv=("patch_embed.convolution.0", "patch_embed.involution.0"),
    classifier=("head", "heads_dist"),
)


@register_model
def pocketvit_coadvise(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A ViT-Tiny with the published stems of 64 channels; size, patches, ``stem_width`` and ``norm`` by arguments."""
    args = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3, **kwargs}
    return build_model_with_cfg(
        VisionTransformerCoadvise, "pocketvit_coadvise", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **args
    )
