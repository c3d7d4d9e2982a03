"""Weight selection: a ViT starts from layers and channels of a larger one (Xu et al., ICLR 2024, arXiv 2311.18823).

The first blocks are taken, and of every block evenly spaced channels: the same ones of the tokens everywhere, since
they are added up from block to block, and whole heads where both networks' heads are as wide. Positions and patches are
resampled to the smaller network's picture. Its head, and what it has and the larger one has not, stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import PatchEmbed, resample_patch_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..errors import PocketError
from .positions import resample_positions

PATCHES = "patches"  # what `select_weights` calls a stem that was taken


def evenly(count: int, of: int) -> Tensor:
    """Return ``count`` evenly spaced numbers of 0 .. ``of`` - 1, int64 [count]; all of them where they are as many."""
    return torch.linspace(0, of - 1, count, dtype=torch.float64).round().long()


@torch.no_grad()
def select_weights(student: nn.Module, larger: nn.Module) -> str:
    """Start a ViT from the weights of a larger one.

    Args:
        student: A timm ``VisionTransformer`` or one of ours, or a detector on one; is changed in place.
        larger: The same; at least as deep and as wide.

    Returns:
        What was taken, in words.

    Raises:
        PocketError: One of both is no such ViT, or the larger one is smaller in some way.
    """
    small, big = vit_in(student, "the student"), vit_in(larger, "the network to start from")
    names = ("blocks", "channels", "channels of attention", "channels of the MLP")
    for name, wanted, there in zip(names, _sizes(small), _sizes(big), strict=True):
        if wanted > there:
            raise PocketError(
                f"the student has {wanted} {name}, and the network to start from {there}: weights are selected from a "
                "larger one. Choose a smaller --student, or leave --init-from away."
            )
    channels = evenly(small.embed_dim, big.embed_dim)
    for mine, theirs in zip(small.blocks, big.blocks, strict=False):  # the first ones
        _start_block(mine, theirs, channels)
    for mine, theirs in ((_last_norm(small), _last_norm(big)), (small.norm_pre, big.norm_pre)):
        _take_vectors(mine, theirs, channels)
    taken = [
        f"{len(small.blocks)} of {len(big.blocks)} blocks", f"{small.embed_dim} of {big.embed_dim} channels",
        PATCHES if _start_patches(small.patch_embed, big.patch_embed, channels) else "",
        "positions" if _start_positions(small, big, channels) else "",
    ]  # fmt: skip
    return ", ".join(part for part in taken if part)


def vit_in(module: nn.Module | None, what: str = "the teacher") -> Any:
    """Return a ViT whose blocks have one attention and one plain MLP, or that in the body of a detector.

    Raises:
        PocketError: It is no such ViT; ``what`` says which network.
    """
    model: Any = getattr(module, "body", module)
    blocks = model.blocks if isinstance(model, VisionTransformer) else ()
    if len(blocks) and all(_plain(block) for block in blocks):
        return model
    raise PocketError(
        f"weights are selected from one ViT for another, and {what} ({type(model).__name__}) is no VisionTransformer "
        "of timm whose blocks are an attention and a plain MLP. Name a vit_ or deit_ model or a run's student, or "
        "leave --init-from away."
    )


def _plain(block: Any) -> bool:
    attention, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
    layers: list[Any] = [getattr(attention, "qkv", None), getattr(mlp, "fc1", None), getattr(mlp, "fc2", None)]
    # A gated MLP has a first layer twice as wide.
    return all(type(one) is nn.Linear for one in layers) and layers[1].out_features == layers[2].in_features


def _sizes(model: Any) -> tuple[int, int, int, int]:
    block = model.blocks[0]
    return len(model.blocks), model.embed_dim, block.attn.proj.in_features, block.mlp.fc1.out_features


def _start_block(mine: Any, theirs: Any, channels: Tensor) -> None:
    attention = _attended(mine.attn, theirs.attn)
    hidden = evenly(mine.mlp.fc1.out_features, theirs.mlp.fc1.out_features)
    width = theirs.attn.proj.in_features
    three = torch.cat([attention + part * width for part in range(3)])  # rows of q, k and v
    _take(mine.attn.qkv, theirs.attn.qkv, three, channels)
    _take(mine.attn.proj, theirs.attn.proj, channels, attention)
    _take(mine.mlp.fc1, theirs.mlp.fc1, hidden, channels)
    _take(mine.mlp.fc2, theirs.mlp.fc2, channels, hidden)
    for name in ("norm1", "norm2", "ls1", "ls2"):
        _take_vectors(getattr(mine, name, None), getattr(theirs, name, None), channels)


def _attended(mine: Any, theirs: Any) -> Tensor:
    """Return the channels of attention that are taken: of evenly spaced heads evenly spaced channels."""
    heads, width = mine.num_heads, mine.proj.in_features // mine.num_heads
    of, wide = theirs.num_heads, theirs.proj.in_features // theirs.num_heads
    if heads > of or width > wide:  # more heads, or wider ones: neighbours stay together
        return evenly(heads * width, of * wide)
    return (evenly(heads, of)[:, None] * wide + evenly(width, wide)).flatten()


def _take(mine: nn.Linear, theirs: nn.Linear, rows: Tensor, columns: Tensor) -> None:
    mine.weight.copy_(theirs.weight[rows][:, columns])
    if mine.bias is not None:
        mine.bias.zero_() if theirs.bias is None else mine.bias.copy_(theirs.bias[rows])


def _take_vectors(mine: nn.Module | None, theirs: nn.Module | None, channels: Tensor) -> None:
    """Take a norm's or a scale's vectors, as far as both have them."""
    if mine is None or theirs is None:
        return
    there = dict(theirs.named_parameters(recurse=False))
    for name, vector in mine.named_parameters(recurse=False):
        if name in there:
            vector.copy_(there[name][channels])


def _last_norm(model: Any) -> nn.Module:
    """Return the norm before the head: it stands before pooling, or behind an average."""
    return model.fc_norm if next(model.fc_norm.parameters(), None) is not None else model.norm


def _start_patches(mine: Any, theirs: Any, channels: Tensor) -> bool:
    if type(mine) is PatchEmbed and type(theirs) is PatchEmbed:
        weight = theirs.proj.weight
        if weight.shape[1] != mine.proj.weight.shape[1]:  # grey and colour
            return False
        mine.proj.weight.copy_(resample_patch_embed(weight, list(mine.proj.weight.shape[-2:]))[channels])
        if mine.proj.bias is not None and theirs.proj.bias is not None:
            mine.proj.bias.copy_(theirs.proj.bias[channels])
        return True
    return _take_stem(mine, theirs) if type(mine) is type(theirs) else False


def _take_stem(mine: nn.Module, theirs: nn.Module) -> bool:
    """Take evenly spaced channels of every layer of a stem of the same build."""
    there = theirs.state_dict()
    own = mine.state_dict()
    fits = own.keys() == there.keys() and all(_within(own[name].shape, there[name].shape) for name in own)
    for name in own if fits else ():
        chosen = there[name]
        for axis, size in enumerate(own[name].shape):
            chosen = chosen.index_select(axis, evenly(size, chosen.shape[axis]).to(chosen.device))
        own[name].copy_(chosen)
    return fits


def _within(small: Sequence[int], large: Sequence[int]) -> bool:
    return len(small) == len(large) and all(one <= other for one, other in zip(small, large, strict=True))


def _start_positions(small: Any, big: Any, channels: Tensor) -> bool:
    """Take the class token, and positions resampled to the student's grid; those of its other tokens stay."""
    if small.cls_token is not None and big.cls_token is not None:
        small.cls_token.copy_(big.cls_token[..., channels])
    mine, theirs = getattr(small, "pos_embed", None), getattr(big, "pos_embed", None)
    grids: list[Any] = [getattr(model.patch_embed, "grid_size", None) for model in (small, big)]
    if mine is None or theirs is None or None in grids or mine.ndim != 3 or theirs.ndim != 3:
        return False
    sets = [getattr(model.patch_embed, "sets", 1) for model in (small, big)]
    (new, old) = ((grid[0] // count, grid[1]) for grid, count in zip(grids, sets, strict=True))
    kept, prefix = mine.shape[1] - sets[0] * new[0] * new[1], theirs.shape[1] - sets[1] * old[0] * old[1]
    there = theirs[..., channels]
    patches = resample_positions(there[:, prefix : prefix + old[0] * old[1]], 0, old, new)
    mine[:, kept:].copy_(patches.repeat(1, sets[0], 1))
    if kept and prefix:  # the class token comes first in both
        mine[:, :1].copy_(there[:, :1])
    return True
