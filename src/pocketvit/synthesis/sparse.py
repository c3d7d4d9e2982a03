"""Sparse inversion: patches of a ViT's pictures that it does not look at are dropped while a picture is optimized.

Sparse model inversion (Hu et al., ICML 2024) keeps the patches that the class token attends to, in stages, so that
later steps cost less; what was dropped is filled with the picture's mean in the end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PocketError


class Sparse:
    """Hooks in a timm VisionTransformer that drop patches after the positions are added.

    Args:
        module: the network.
        keep: share of all patches that each stage keeps, falling, such as (0.7, 0.4): of n + 1 stages of equal length
            the first keeps all.
        steps: of the optimization.

    Raises:
        PocketError: the network is no such ViT, or the shares do not fall.
    """

    def __init__(self, module: nn.Module, keep: tuple[float, ...], steps: int) -> None:
        network: Any = module
        blocks, entry = getattr(network, "blocks", None), getattr(network, "norm_pre", None)
        attention: Any = (
            getattr(blocks[-1], "attn", None) if isinstance(blocks, nn.Sequential) and len(blocks) else None
        )
        if entry is None or not hasattr(attention, "qkv") or not hasattr(module, "patch_embed"):
            raise PocketError(
                f"{type(module).__name__} is no VisionTransformer of timm, whose patches can be dropped: invert it "
                "without sparse stages."
            )
        if any(not 0 < share < 1 for share in keep) or list(keep) != sorted(keep, reverse=True):
            raise PocketError(f"sparse stages keep falling shares between 0 and 1, not {keep}.")
        self.module, self.keep, self.steps = module, keep, steps
        self.prefix = int(getattr(module, "num_prefix_tokens", 0))
        self.grid: tuple[int, int] = tuple(network.patch_embed.grid_size)
        self.heads = int(attention.num_heads)
        self.kept: Tensor | None = None  # int64 [B, K], patches; None for all
        self._qkv: Tensor | None = None
        self._step = 0
        self._handles = [
            entry.register_forward_hook(self._drop),
            attention.qkv.register_forward_hook(self._record),
        ]

    def _drop(self, module: nn.Module, inputs: object, tokens: Tensor) -> Tensor:
        if self.kept is None:
            return tokens
        places = self.kept[..., None].expand(-1, -1, tokens.shape[-1])
        return torch.cat([tokens[:, : self.prefix], tokens[:, self.prefix :].gather(1, places)], 1)

    def _record(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._qkv = output.detach()

    def advance(self) -> None:
        """Count a step; at a stage's beginning drop what was attended to least in the last pass."""
        self._step += 1
        for stage, share in enumerate(self.keep, 1):
            if self._step == stage * self.steps // (len(self.keep) + 1):
                self._prune(max(1, round(share * self.grid[0] * self.grid[1])))

    def _prune(self, count: int) -> None:
        assert self._qkv is not None
        images, tokens, width = self._qkv.shape
        q, k, _ = self._qkv.reshape(images, tokens, 3, self.heads, width // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        if self.prefix:
            asked = q[:, :, :1]
        else:
            asked = q
        attention = (asked @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)[..., self.prefix :].mean((1, 2))
        best = attention.topk(min(count, attention.shape[1]), dim=1).indices.sort(1).values
        self.kept = best if self.kept is None else self.kept.gather(1, best)

    def filled(self, images: Tensor) -> Tensor:
        """Return images [B, 3, S, S] whose dropped patches show the mean colour of those that were kept."""
        if self.kept is None:
            return images
        rows, columns = self.grid
        mask = torch.zeros(len(images), rows * columns, device=images.device).scatter_(1, self.kept, 1.0)
        mask = mask.view(-1, 1, rows, columns)
        mask = mask.repeat_interleave(images.shape[2] // rows, 2).repeat_interleave(images.shape[3] // columns, 3)
        mean = (images * mask).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp_min(1)
        return images * mask + mean * (1 - mask)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
