"""The four numbers that make a vision transformer wide, and the search for those that fit a cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..errors import PocketError

MULTIPLE = 8  # of all new widths, which kernels like; a width that stays need not be one


@dataclass(frozen=True)
class Shape:
    """Widths that all blocks of a ViT share, so that any timm makes it from its arguments."""

    embed_dim: int
    num_heads: int
    mlp_dim: int

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    def model_args(self) -> dict[str, Any]:
        """Return timm's arguments of a ViT of this shape."""
        ratio = self.mlp_dim / self.embed_dim
        if int(self.embed_dim * ratio) != self.mlp_dim:  # timm rounds down what floating point made of the product
            ratio = (self.mlp_dim + 0.5) / self.embed_dim
        return {"embed_dim": self.embed_dim, "num_heads": self.num_heads, "mlp_ratio": ratio}


def shape_of(model: nn.Module) -> Shape:
    """Return the widths of ``model``.

    Raises:
        PocketError: it is no timm ``VisionTransformer`` of equal blocks, each with one attention and one plain MLP.
    """
    name = type(model).__name__
    if not isinstance(model, VisionTransformer):
        raise PocketError(
            f"{name} is no VisionTransformer of timm, and only these can be pruned here. Take a vit_ or deit_ model, "
            "or a student of the ladder."
        )
    if getattr(model, "attn_pool", None) is not None:
        raise PocketError(f"this {name} pools its tokens by attention, and nothing is known of how to prune that.")
    shapes, plain = set(), nn.Identity()
    for block in model.blocks:
        attention: Any = getattr(block, "attn", None)
        mlp: Any = getattr(block, "mlp", None)
        layers: list[Any] = [getattr(attention, "qkv", None), getattr(mlp, "fc1", None), getattr(mlp, "fc2", None)]
        if not all(type(layer) is nn.Linear for layer in layers) or layers[1].out_features != layers[2].in_features:
            raise PocketError(
                f"a block of this {name} is not made of one attention with a `qkv` and one plain MLP with `fc1` and "
                "`fc2`, and nothing is known of how to prune it."
            )
        if not all(isinstance(getattr(attention, norm, plain), nn.Identity) for norm in ("q_norm", "k_norm", "norm")):
            raise PocketError(
                f"the attention of this {name} normalizes queries, keys or its output, and nothing is known of how to "
                "prune that."
            )
        shapes.add((layers[0].in_features, layers[0].out_features // 3, attention.num_heads, layers[1].out_features))
    if len(shapes) != 1:
        raise PocketError(f"the blocks of this {name} differ in their widths: it has been pruned by other means.")
    embed_dim, attention_dim, num_heads, mlp_dim = shapes.pop()
    if embed_dim != attention_dim:
        raise PocketError(f"the attention of this {name} is {attention_dim} wide and its tokens {embed_dim}.")
    return Shape(embed_dim, num_heads, mlp_dim)


def fit_shape(shape: Shape, cost: Callable[[Shape], float], limit: float) -> Shape:
    """Return the smaller shape that costs at most ``limit`` and is most like ``shape``, in multiples of `MULTIPLE`.

    Every width of the tokens has a widest MLP that fits. The pair wins whose MLP is, relative to its tokens, nearest to
    what it was; the narrower the tokens, the wider their MLP, so that a bisection over the tokens' widths finds it.

    Args:
        shape: of the network as it is.
        cost: of a shape; about linear in the MLP's width, and growing with both widths.
        limit: in the same unit.

    Raises:
        PocketError: nothing is small enough.
    """
    widths = _token_widths(shape)
    wanted = shape.mlp_dim / shape.embed_dim
    found = []
    low, high = 0, len(widths)  # tokens of widths[:low] have room for an MLP at least as wide as is wanted
    while low < high:
        middle = (low + high) // 2
        embed_dim, num_heads = widths[middle]
        mlp_dim = _widest_mlp(shape, embed_dim, num_heads, cost, limit)
        if mlp_dim:
            found.append(Shape(embed_dim, num_heads, mlp_dim))
        if mlp_dim >= wanted * embed_dim:
            low = middle + 1
        else:
            high = middle
    if not found:
        raise PocketError(
            f"no ViT of this depth is as small as that: tokens and MLPs {MULTIPLE} wide still cost more. Keep a larger "
            "share, or begin with a shallower student."
        )
    return min(found, key=lambda s: (abs(math.log(s.mlp_dim / s.embed_dim / wanted)), -s.embed_dim))


def _widest_mlp(shape: Shape, embed_dim: int, num_heads: int, cost: Callable[[Shape], float], limit: float) -> int:
    """Return the widest MLP within ``limit`` for tokens of this width; 0 if there is none."""
    widths = [*range(MULTIPLE, shape.mlp_dim, MULTIPLE), shape.mlp_dim]
    least, most = (cost(Shape(embed_dim, num_heads, width)) for width in (widths[0], widths[-1]))
    if most <= limit:
        return widths[-1]
    if least > limit:
        return 0
    estimate = widths[0] + (limit - least) / (most - least) * (widths[-1] - widths[0])
    last = max(i for i, width in enumerate(widths) if width <= estimate + 1e-6)
    return next((w for w in reversed(widths[: last + 1]) if cost(Shape(embed_dim, num_heads, w)) <= limit), 0)


def _token_widths(shape: Shape) -> list[tuple[int, int]]:
    """Return (embed_dim, num_heads), narrow ones first, with the widest heads there are for each width."""
    best: dict[int, int] = {}
    for heads in range(shape.num_heads, 0, -1):
        for head_dim in {*range(MULTIPLE, shape.head_dim, MULTIPLE), shape.head_dim}:
            best[heads * head_dim] = heads  # fewer heads come later, and are wider
    return sorted(best.items())
