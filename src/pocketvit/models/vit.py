"""ViT students on timm's VisionTransformer: a ladder of six sizes, any image and patch size, distillation tokens.

Without or with one distillation token a student *is* a stock timm architecture (``vit_tiny_patch16_224`` or
``deit_tiny_distilled_patch16_224`` with other arguments), so that it saves as one. With a token and a head for each of
several teachers it is `VisionTransformerTokens`, which needs pocketvit to load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .conv_stem import conv_patch
from .heads import combined_logits
from .positions import checkpoint_filter_fn


@dataclass(frozen=True)
class Rung:
    """One size of the ladder; ``num_heads`` keeps 32 channels a head.

    Attributes:
        embed_dim: Width of the tokens.
        depth: Blocks of a ViT on patches.
        conv_depth: Blocks behind a convolutional stem, which does part of the work.
    """

    embed_dim: int
    depth: int
    conv_depth: int

    @property
    def num_heads(self) -> int:
        return self.embed_dim // 32

    def model_args(self, stem: str = "patch") -> dict[str, int]:
        behind = {"conv": self.conv_depth, "teacher": self.conv_depth, "hybrid": self.conv_depth + 1}
        return {"embed_dim": self.embed_dim, "depth": behind.get(stem, self.depth), "num_heads": self.num_heads}


# About 12 * depth * embed_dim^2 parameters: 0.21, 0.46, 1.0, 1.9, 3.6 and 6.3 M on patches.
LADDER: dict[str, Rung] = {
    "pocket_xxs": Rung(64, 4, 2),
    "pocket_xs": Rung(96, 4, 3),
    "pocket_s": Rung(128, 5, 3),
    "pocket_m": Rung(160, 6, 4),
    "pocket_l": Rung(192, 8, 6),
    "pocket_xl": Rung(256, 8, 6),
}


def default_patch(image_size: int, stem: str = "patch") -> int:
    """Return the patch size that cuts ``image_size`` into about 64 to 200 tokens: 8 -> 1, 32 -> 4, 64 -> 8, 224 -> 16.

    A convolutional stem's patches are larger (`conv_stem.conv_patch`), because it has looked around before. The others'
    divide ``image_size`` where a divisor near does; else timm drops the pixels beyond the last whole patch.
    """
    if stem in ("conv", "teacher"):
        return conv_patch(image_size)
    if stem == "hybrid":  # its convolution and pooling have halved the picture twice, and patches must divide the rest
        rest = -(-image_size // 4)
        return 4 * max(
            patch for patch in (1, 2, 4) if rest % patch == 0 and (4 * patch <= conv_patch(image_size) or patch == 1)
        )
    wanted = max(1.0, image_size / (8 if image_size <= 96 else 10 if image_size <= 160 else 14))
    # 28 -> 4 (49 tokens) rather than 2 (196): attention costs the square.
    near = [p for p in range(1, image_size + 1) if image_size % p == 0 and wanted / 1.6 <= p <= wanted * 1.6]
    return min(near, key=lambda p: abs(p - wanted)) if near else round(wanted)


class VisionTransformerTokens(VisionTransformer):
    """A ViT with one distillation token and one head for each of ``tokens`` teachers.

    DeiT's distillation token (Touvron et al., arXiv 2012.12877), one a teacher as in Co-advise (Ren et al., CVPR 2022).
    In evaluation the output's softmax is the mean of the heads' probabilities; `forward_heads` gives each.
    """

    def __init__(self, *args: Any, tokens: int = 2, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.num_prefix_tokens = 1 + tokens
        self.dist_tokens = nn.Parameter(torch.zeros(1, tokens, self.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches + 1 + tokens, self.embed_dim))
        self.heads_dist = nn.ModuleList(nn.Linear(self.embed_dim, self.num_classes) for _ in range(tokens))
        trunc_normal_(self.dist_tokens, std=0.02)
        trunc_normal_(self.pos_embed, std=0.02)
        for head in self.heads_dist:
            assert isinstance(head, nn.Linear)
            trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed", "cls_token", "dist_tokens"}

    def get_classifier(self) -> tuple[nn.Module, ...]:
        return self.head, *self.heads_dist

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        make = (lambda: nn.Linear(self.embed_dim, num_classes)) if num_classes else nn.Identity
        self.head = make()
        self.heads_dist = nn.ModuleList(make() for _ in self.heads_dist)

    def _pos_embed(self, x: Tensor) -> Tensor:
        assert self.cls_token is not None
        assert self.pos_embed is not None
        prefix = torch.cat([self.cls_token, self.dist_tokens], 1).expand(x.shape[0], -1, -1)
        return self.pos_drop(torch.cat([prefix, x], 1) + self.pos_embed)

    def forward_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """x [B, 3, H, W] -> 1 + tokens tensors [B, C]."""
        features = self.head_drop(self.forward_features(x)[:, : self.num_prefix_tokens])
        return tuple(head(features[:, i]) for i, head in enumerate((self.head, *self.heads_dist)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        prefix = self.head_drop(x[:, : self.num_prefix_tokens])
        if pre_logits:
            return prefix.mean(1)
        return combined_logits([head(prefix[:, i]) for i, head in enumerate((self.head, *self.heads_dist))])


def cfgs_of(name: str, **layers: str | tuple[str, ...]) -> Any:
    """Return what timm is told of a ViT of ours without published weights; ``layers`` names its first and last ones."""
    about = {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    return generate_default_cfgs({name: {**about, **layers}})


default_cfgs = cfgs_of("pocketvit_tokens", first_conv="patch_embed.proj", classifier=("head", "heads_dist"))


@register_model
def pocketvit_tokens(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A ViT-Tiny with ``tokens`` distillation tokens and heads; size and patches by arguments."""
    args = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3, **kwargs}
    return build_model_with_cfg(
        VisionTransformerTokens, "pocketvit_tokens", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **args
    )
