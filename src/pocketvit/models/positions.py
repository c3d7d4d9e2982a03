"""Position embeddings for another resolution, resampled with the kernel that resamples our pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from timm.models import vision_transformer as timm_vit
from torch import Tensor, nn

from ..config import Resample
from ..views.resize import resize

Grid = tuple[int, int]


def resample_positions(
    pos_embed_1ND: Tensor,
    prefix_tokens: int,
    old_grid: Grid,
    new_grid: Grid,
    kernel: Resample = "lanczos",
    lobes: int = 5,
) -> Tensor:
    """Bring position embeddings to another grid of patches.

    Args:
        pos_embed_1ND: [1, prefix + sets * h * w, D]; several sets of patches (as of `patches.ConcatenatedEmbed`) lie
            one after the other, and each is resampled by itself.
        prefix_tokens: class and distillation tokens that have a position; they keep it.
        old_grid: (h, w) of one set.
        new_grid: the same, wanted.
        kernel: see `views.resize`; antialiased where the grid shrinks.
        lobes: of the Lanczos kernel.

    Returns:
        [1, prefix + sets * h' * w', D] of the same dtype.

    Raises:
        ValueError: the positions are not whole grids.
    """
    prefix, patches = pos_embed_1ND[:, :prefix_tokens], pos_embed_1ND[:, prefix_tokens:]
    if patches.shape[1] == 0 or patches.shape[1] % (old_grid[0] * old_grid[1]):
        raise ValueError(f"{patches.shape[1]} positions are not made of grids of {old_grid[0]} x {old_grid[1]}")
    maps_SDhw = patches.unflatten(1, (-1, *old_grid))[0].permute(0, 3, 1, 2).contiguous()
    resampled = resize(maps_SDhw.to(torch.promote_types(patches.dtype, torch.float32)), new_grid, kernel, lobes)
    back = resampled.permute(0, 2, 3, 1).reshape(1, -1, patches.shape[2])
    return torch.cat([prefix, back.to(prefix.dtype)], 1)


def fit_positions(state: Mapping[str, Tensor], model: nn.Module, old_size: Grid | None = None) -> dict[str, Tensor]:
    """Return ``state`` with its position embeddings resampled to the grid of ``model``, if they are of another.

    Args:
        state: of the same network at another picture size.
        model: a timm ``VisionTransformer``; others' states are returned as they are.
        old_size: (height, width) in pixels that ``state`` is for; None for a square.
    """
    positions, wanted = state.get("pos_embed"), getattr(model, "pos_embed", None)
    embed: Any = getattr(model, "patch_embed", None)
    grid = getattr(embed, "grid_size", None)
    if positions is None or wanted is None or grid is None or positions.ndim != 3 or wanted.ndim != 3:
        return dict(state)
    sets = getattr(embed, "sets", 1)
    new_grid = (grid[0] // sets, grid[1])
    prefix = wanted.shape[1] - sets * new_grid[0] * new_grid[1]
    count = (positions.shape[1] - prefix) // sets
    side = math.isqrt(max(count, 0))
    old_grid = (side, side)
    if old_size is not None:
        rows, columns = embed.dynamic_feat_size(old_size)
        told = (rows // sets, columns)
        old_grid = told if told[0] * told[1] == count else old_grid
    if old_grid == new_grid or old_grid[0] * old_grid[1] * sets != positions.shape[1] - prefix:
        return dict(state)  # there is nothing to do, or nothing that could be done: loading says what differs
    return {**state, "pos_embed": resample_positions(positions, prefix, old_grid, new_grid)}


def checkpoint_filter_fn(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Resample positions as we do, then leave the rest to timm: for ``timm.create_model(..., img_size=...)``."""
    size = tuple(getattr(model, "pretrained_cfg", {}).get("input_size") or ())[-2:]
    return timm_vit.checkpoint_filter_fn(fit_positions(state, model, size if len(size) == 2 else None), model)
