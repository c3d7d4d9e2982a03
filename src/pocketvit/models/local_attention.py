"""Locality self-attention (Lee, Lee, Song 2021, arXiv 2112.13492): a learned temperature, and no token sees itself.

    softmax(temperature_h * q k^T, the diagonal masked with -inf) v

The temperature, one a head, starts at head_dim^-0.5; the mask covers class and distillation tokens too, as in the
reference code.
"""

from __future__ import annotations

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F


class LocalAttention(nn.Module):
    """Stands in a block for timm's ``Attention``, with its layers under their names and a ``temperature`` [heads].

    Args:
        plain: whose layers are taken over.
    """

    def __init__(self, plain: Attention) -> None:
        super().__init__()
        self.num_heads = plain.num_heads
        self.qkv, self.proj = plain.qkv, plain.proj
        self.q_norm, self.k_norm, self.norm = plain.q_norm, plain.k_norm, plain.norm
        self.attn_drop, self.proj_drop = plain.attn_drop, plain.proj_drop
        heads = plain.qkv.weight.new_full((plain.num_heads,), plain.scale)
        self.temperature = nn.Parameter(heads)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """x [B, N, D] -> [B, N, D], N at least 2.

        Raises:
            ValueError: a mask is given, or a token would have nothing to look at.
        """
        if attn_mask is not None or is_causal:
            raise ValueError("locality self-attention has a mask of its own and takes no other")
        batch, count, _ = x.shape
        if count < 2:
            raise ValueError("locality self-attention needs two tokens at least: none sees itself")
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        q = q * self.temperature.to(q.dtype)[:, None, None]
        others = ~torch.eye(count, dtype=torch.bool, device=x.device)
        drop = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=others, dropout_p=drop, scale=1.0)
        x = self.norm(x.transpose(1, 2).reshape(batch, count, -1))
        return self.proj_drop(self.proj(x))
