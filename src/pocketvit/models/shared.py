"""`pocketvit_shared`: a ViT whose consecutive blocks share their linear layers (weight multiplexing).

MiniViT (Zhang et al., CVPR 2022, arXiv 2204.07154): k consecutive blocks use the same qkv, proj, fc1 and fc2. What
keeps them apart is their own, and small: LayerNorms, two matrices that mix the heads before and after the softmax, and
a depthwise 3x3 convolution over the patches in front of the MLP. Matrices and convolution begin as the identity.

    scores' = scores_BNNH F1,   probabilities' = softmax(scores')_BNNH F2,   x + MLP(depthwise(norm(x)))

The first block of a group owns the layers and the others look at them, so that a state dict, a checkpoint, safetensors
and an ONNX file hold each once. Parameters and bytes fall, operations do not. Heads are mixed by a linear layer over a
permuted axis: ExecuTorch's XNNPACK computes the same as a 1x1 convolution wrongly, and OpenVINO's int8 compiler refuses
it as a product from the left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import Attention, Mlp
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..errors import PocketError
from .positions import checkpoint_filter_fn
from .vit import cfgs_of


class SharedAttention(nn.Module):
    """timm's ``Attention`` with two matrices that mix the heads, and perhaps another one's linear layers.

    Args:
        plain: whose layers are taken over.
        owner: the attention whose ``qkv`` and ``proj`` are used; None for those of ``plain``.
    """

    qkv: nn.Linear
    proj: nn.Linear

    def __init__(self, plain: Attention, owner: SharedAttention | None = None) -> None:
        super().__init__()
        self.num_heads, self.scale = plain.num_heads, plain.scale
        _use(self, owner or plain, ("qkv", "proj"), own=owner is None)
        self.q_norm, self.k_norm, self.norm = plain.q_norm, plain.k_norm, plain.norm
        self.attn_drop, self.proj_drop = plain.attn_drop, plain.proj_drop
        self.mix_scores, self.mix_probabilities = (_identity(plain.num_heads) for _ in range(2))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """x [B, N, D] -> [B, N, D].

        Raises:
            ValueError: a mask is given.
        """
        if attn_mask is not None or is_causal:
            raise ValueError("shared attention takes no mask")
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        scores_BHNN = (self.q_norm(q) * self.scale) @ self.k_norm(k).transpose(2, 3)
        scores_BNNH = self.mix_scores(scores_BHNN.permute(0, 2, 3, 1))
        mixed_BHNN = self.mix_probabilities(scores_BNNH.softmax(2)).permute(0, 3, 1, 2)
        x = self.norm((self.attn_drop(mixed_BHNN) @ v).transpose(1, 2).flatten(2))
        return self.proj_drop(self.proj(x))


class SharedMlp(nn.Module):
    """timm's ``Mlp`` behind a depthwise 3x3 convolution over the patches, perhaps with another one's linear layers.

    Args:
        plain: whose layers are taken over.
        grid: rows and columns of the patches.
        owner: the MLP whose ``fc1`` and ``fc2`` are used; None for those of ``plain``.
    """

    fc1: nn.Linear
    fc2: nn.Linear

    def __init__(self, plain: Mlp, grid: tuple[int, int], owner: SharedMlp | None = None) -> None:
        super().__init__()
        self.grid = grid
        _use(self, owner or plain, ("fc1", "fc2"), own=owner is None)
        self.act, self.norm, self.drop1, self.drop2 = plain.act, plain.norm, plain.drop1, plain.drop2
        width = self.fc1.in_features
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        nn.init.dirac_(self.depthwise.weight, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, prefix + h w, D] -> the same; tokens that stand for no patch pass the convolution by."""
        rows, columns = self.grid
        prefix, patches = x.split((x.shape[1] - rows * columns, rows * columns), 1)
        map_BDhw = patches.transpose(1, 2).unflatten(2, self.grid)
        x = torch.cat([prefix, self.depthwise(map_BDhw).flatten(2).transpose(1, 2)], 1)
        x = self.norm(self.drop1(self.act(self.fc1(x))))
        return self.drop2(self.fc2(x))


def _use(module: nn.Module, source: nn.Module, names: tuple[str, ...], *, own: bool) -> None:
    """Give ``module`` layers of ``source``: as its own, or as attributes that no state dict and no optimizer sees."""
    for name in names:
        layer = getattr(source, name)
        if own:
            setattr(module, name, layer)
        else:
            vars(module)[name] = layer


def _identity(size: int) -> nn.Linear:
    layer = nn.Linear(size, size, bias=False)
    nn.init.eye_(layer.weight)
    return layer


def share_blocks(model: VisionTransformer, share: int) -> None:
    """Let every ``share`` consecutive blocks of ``model`` use the linear layers of the first of them, in place.

    Raises:
        PocketError: fewer than two blocks are to share, or a block has another attention or MLP than timm's plain one.
    """
    most = len(model.blocks)
    if not 2 <= share <= most:
        give = f"Give 2 to {most}." if most > 2 else "Give 2." if most == 2 else "It takes two to share."
        raise PocketError(f"{share} consecutive blocks cannot share layers: this student has {most}. {give}")
    grid: Any = model.patch_embed.grid_size
    if model.dynamic_img_size or grid is None:
        raise PocketError("shared blocks need one fixed picture size: leave dynamic_img_size away.")
    owner: Any = None
    for number, block in enumerate(model.blocks):
        attention, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
        if type(attention) is not Attention or attention.gate is not None or type(mlp) is not Mlp:
            raise PocketError(
                f"blocks share timm's plain attention and MLP, and one of this {type(model).__name__} has "
                f"{type(attention).__name__} and {type(mlp).__name__}. Take a plain ViT."
            )
        if number % share == 0:
            owner = None
        block.attn = SharedAttention(attention, owner and owner.attn)
        block.mlp = SharedMlp(mlp, tuple(grid), owner and owner.mlp)
        owner = owner or block
    # Bound to names, not to the model: a copy of the model keeps a list that is right for it.
    transforms = ("mix_scores.weight", "mix_probabilities.weight", "depthwise.weight")
    names = {name for name, _ in model.named_parameters() if name.endswith(transforms)}
    vars(model)["no_weight_decay"] = partial(set.union, set(model.no_weight_decay()), names)


def _assemble(of: str, share: int, **kwargs: Any) -> nn.Module:
    model = timm.create_model(of, **kwargs)
    if not isinstance(model, VisionTransformer):
        raise PocketError(f"{of} is no VisionTransformer of timm, so that its blocks cannot share their layers.")
    share_blocks(model, share)
    return model


default_cfgs = cfgs_of("pocketvit_shared", first_conv="patch_embed.proj", classifier="head")


@register_model
def pocketvit_shared(
    pretrained: bool = False, of: str = "vit_tiny_patch16_224", share: int = 2, **kwargs: Any
) -> nn.Module:
    """Make the ViT ``of`` with layers shared by every ``share`` blocks; ``kwargs`` are the ViT's own."""
    make: Callable[..., nn.Module] = partial(_assemble, of, share)
    model = build_model_with_cfg(
        make, "pocketvit_shared", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs
    )
    told = timm.get_pretrained_cfg(of)
    if told is not None:  # which layers are heads is the ViT's to say
        cfg: Any = model.pretrained_cfg
        vars(model)["pretrained_cfg"] = {**cfg, "classifier": told.classifier}
    return model
