"""Progressive resizing: a student is shown smaller pictures first, and sees more of them in the same time.

Howard et al., DAWNBench 2018; Tan & Le, EfficientNetV2, ICML 2021 (arXiv 2104.00298). Positions are resampled to the
smaller grid in every step, so that weights, optimizer and checkpoints know nothing of it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.func import functional_call

from ..models.positions import resample_positions

_SMALLER = 0.75  # of the tokens along a side: a step takes little more than half as long
_FEWEST = 4  # tokens along a side of the whole picture; of fewer hardly any would be left


def smaller_side(model: nn.Module, side: int) -> int | None:
    """Return the side in pixels of the smaller pictures for a network made for ``side``; None where it takes no others.

    Those are for ViTs of timm and ours with learned positions on one square grid.
    """
    embed: Any = getattr(model, "patch_embed", None)
    positions, grid = getattr(model, "pos_embed", None), getattr(embed, "grid_size", None)
    if not isinstance(model, VisionTransformer) or positions is None or grid is None:
        return None
    if not _FEWEST <= grid[0] == grid[1] or not hasattr(embed, "set_input_size"):
        return None
    tokens = math.floor(_SMALLER * grid[0])
    smaller = math.ceil(tokens * side / grid[0])
    return smaller if tuple(embed.dynamic_feat_size((smaller, smaller))) == (tokens, tokens) else None


def relative_cost(model: nn.Module, side: int, share: float) -> float:
    """Return what a step costs on average, over one of whole pictures, where a share of the run sees smaller ones."""
    smaller = smaller_side(model, side) if share else None
    return 1.0 if smaller is None else 1 - share * (1 - (smaller / side) ** 2)


class Progressive(nn.Module):
    """A network from pixels that can be shown smaller pictures.

    Args:
        network: A `step.FromPixels` of a ViT.
        smaller: Their side in pixels, of `smaller_side`.

    Attributes:
        small: Whether it is shown them now.
    """

    def __init__(self, network: nn.Module, smaller: int) -> None:
        super().__init__()
        self.network, self.smaller, self.small = network, smaller, False

    @property
    def model(self) -> nn.Module:
        """The network behind the pixels."""
        return self.network.model  # type: ignore[return-value]

    def forward(self, pixels: torch.Tensor) -> Any:
        if not self.small:
            return self.network(pixels)
        network: Any = self.network
        side, embed, positions = network.size, network.model.patch_embed, network.model.pos_embed
        grid = embed.grid_size
        prefix = positions.shape[1] - grid[0] * grid[1]
        network.size = self.smaller
        embed.set_input_size((self.smaller, self.smaller))
        try:
            there = resample_positions(positions, prefix, grid, embed.grid_size)
            return functional_call(network, {"model.pos_embed": there}, (pixels,))
        finally:
            network.size = side
            embed.set_input_size((side, side))
