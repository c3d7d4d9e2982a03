"""Sparse inversion of a ViT: patches that the teacher looks at least are stopped, and it is shown the others alone.

Sparse Model Inversion (Hu et al. 2024): what a ViT is sure of lies in few patches, and the rest of an inverted picture
is paid for in vain. Early in the optimization, four times, a share of the patches that are left is stopped in each
picture: those with the least attention in the last blocks. A stopped patch goes back to what it began as, and no token
of it enters the blocks any more, so that a step costs what the kept tokens cost.

    attention_j = mean over heads and the last blocks of softmax(q k^T / sqrt(d))_ij,
                  i the class token, or the mean over all tokens where the head does not look at one

Tokens are taken out behind the position embeddings, by a hook, so that attention stays fused; the weights above are
computed again from queries and keys, in the four steps that need them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..models.local_attention import LocalAttention
from .moving import Move

STOPS = (
    1 / 80,
    1 / 40,
    1 / 20,
    3 / 40,
)  # of the steps, after which patches are stopped: published as 50 to 300 of 4,000
_LAST = 2  # blocks whose attention counts


def stops(steps: int) -> tuple[int, ...]:
    """Return the four steps, counted from 0, after which patches are stopped; they differ wherever there are four."""
    found: list[int] = []
    for share in STOPS:
        found.append(max(round(share * steps), found[-1] + 1 if found else 0))
    return tuple(step for step in found if step < steps)


def kept_of(tokens: int, ratio: float, times: int) -> int:
    """Return how many of so many patches are left after so many stops; one at least."""
    for _ in range(times):
        tokens = max(1, tokens - round(ratio * tokens))
    return tokens


def cost_share(steps: int, ratio: float) -> float:
    """Return about what sparse inversion costs of a dense one, if cost goes by patches."""
    when = stops(steps)
    return sum((1 - ratio) ** sum(step > stop for stop in when) for step in range(steps)) / steps


def why_dense(module: nn.Module, size: int) -> str:
    """Say why patches of pictures of ``size`` pixels cannot be stopped for this network; "" where they can."""
    if not isinstance(module, VisionTransformer):
        return "it is no plain ViT"
    blocks: Any = list(module.blocks)
    if not all(isinstance(getattr(block, "attn", None), Attention | LocalAttention) for block in blocks):
        return "its attention is not timm's"
    if not isinstance(module.patch_drop, nn.Identity):
        return "it drops patches itself"
    embed: Any = module.patch_embed
    patch = embed.feat_ratio()
    if not isinstance(patch, int) or size % patch or embed.num_patches % (size // patch) ** 2:
        return f"its patches do not divide pictures of {size} pixels"
    return ""


class PatchPruning:
    """Which patches of a batch are still optimized, and the hooks that keep the others from a ViT.

    Args:
        module: Of which `why_dense` says nothing.
        size: Of the pictures.
        count: Pictures of the batch.
        device: Of the pictures.

    Attributes:
        kept: int64 [B, K], patches of each picture by number, row by row; None while all are kept.
    """

    def __init__(self, module: Any, size: int, count: int, device: torch.device) -> None:
        self.patch = int(module.patch_embed.feat_ratio())
        self.grid = size // self.patch
        self.sets = module.patch_embed.num_patches // self.grid**2  # of tokens: a concatenated stem has two a patch
        self.prefix = int(module.num_prefix_tokens)
        self.first = module.global_pool == "token" and self.prefix > 0  # the head looks at the class token
        self.kept: Tensor | None = None
        self._all = torch.arange(self.grid**2, device=device).expand(count, -1)
        self._places = self._all
        self._listens = False
        self._seen: list[Tensor] = []
        self._handles = [module.patch_drop.register_forward_hook(self._take)]
        for block in list(module.blocks)[-_LAST:]:
            self._handles.append(block.attn.qkv.register_forward_hook(self._hear(block.attn)))

    def look(self, move: Move, listen: bool) -> None:
        """Say how the next pictures shown are moved, and whether `stop` comes next."""
        self._places = move.patches(self._all if self.kept is None else self.kept, self.grid, self.patch)
        self._listens = listen

    def stop(self, ratio: float) -> None:
        """Stop a share of the kept patches of each picture: those that got the least attention."""
        attention = torch.stack(self._seen).mean(0)  # [B, sets * K], in the order of the tokens
        self._seen = []
        attention = attention.unflatten(1, (self.sets, -1)).sum(1)
        if self.kept is None:  # nothing was taken out: tokens stand where they are seen
            attention = attention.gather(1, self._places)
        before = self._all if self.kept is None else self.kept
        count = kept_of(before.shape[1], ratio, 1)
        best = attention.topk(count, dim=1).indices.sort(1).values
        if count < before.shape[1]:
            self.kept = before.gather(1, best)

    def mask(self) -> Tensor | None:
        """Return bool [B, 1, S, S], the pixels that are optimized; None for all of them."""
        if self.kept is None:
            return None
        kept = torch.zeros(self._all.shape, dtype=torch.bool, device=self._all.device).scatter_(1, self.kept, True)
        square = kept.unflatten(1, (1, self.grid, self.grid))
        return square.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)

    def _take(self, _module: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor | None:
        """Take the tokens [B, N, D] of kept patches, and those of no patch."""
        if self.kept is None:
            return None
        places = [self.prefix + number * self.grid**2 + self._places for number in range(self.sets)]
        prefix = torch.arange(self.prefix, device=tokens.device).expand(len(tokens), -1)
        rows = torch.cat([prefix, *places], 1)
        return tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[-1]))

    def _hear(self, attention: Any) -> Any:
        def hook(_module: nn.Module, _inputs: Any, qkv: Tensor) -> None:
            if self._listens:
                with torch.no_grad():
                    self._seen.append(attention_to(attention, qkv, self.first)[:, self.prefix :])

        return hook

    def remove(self) -> None:
        """Take the hooks out of the network."""
        for handle in self._handles:
            handle.remove()


def attention_to(layer: Any, qkv: Tensor, first: bool) -> Tensor:
    """Return [B, N], how much each token is attended to, by the first one or by all in the mean, over all heads.

    Args:
        layer: timm's attention, or ours without the token itself.
        qkv: [B, N, 3 D], queries, keys and values.
        first: Whether the first token's attention counts alone.
    """
    q, k, _ = qkv.float().unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = layer.q_norm(q), layer.k_norm(k)
    q = q[:, :, :1] if first else q
    local = isinstance(layer, LocalAttention)
    scale = layer.temperature.float()[:, None, None] if local else layer.scale
    scores = (q * scale) @ k.transpose(-2, -1)
    if local:
        scores.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
    return scores.softmax(-1).mean((1, 2))


@contextmanager
def pruned(
    module: nn.Module, size: int, count: int, device: torch.device, ratio: float
) -> Iterator[PatchPruning | None]:
    """Hold hooks in a ViT while one batch is optimized; nothing where no patch is to be stopped, or none can be."""
    pruning = PatchPruning(module, size, count, device) if ratio and not why_dense(module, size) else None
    try:
        yield pruning
    finally:
        if pruning is not None:
            pruning.remove()
