"""Attention: where a teacher looks, and what it relates to what. Functions return a scalar."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ATTENTION_TRANSFER = 1000.0  # beta of RepDistiller's command, for mean squares, as the authors' code has them
RELATION_HEADS = 4  # that queries, keys and values are cut into anew, so that both sides have as many


def attention_transfer(student_BChw: Tensor, teacher_BChw: Tensor) -> Tensor:
    """Where the energy of a map lies: Zagoruyko & Komodakis, Paying More Attention to Attention, ICLR 2017.

    ``1000 mean (Q_s / |Q_s| - Q_t / |Q_t|)^2`` with Q = mean over channels of the squares, a vector of the places.
    """
    maps = [F.normalize(features.square().mean(1).flatten(1), dim=1) for features in (student_BChw, teacher_BChw)]
    return ATTENTION_TRANSFER * (maps[0] - maps[1]).square().mean()


def minilm(student_3BNC: Tensor, teacher_3BNC: Tensor) -> Tensor:
    """KL between relations of queries, of keys and of values: MiniLMv2 (Wang et al., ACL Findings 2021), as in MiniViT.

    ``KL(softmax(T T^t / sqrt(d)) || softmax(S S^t / sqrt(d)))`` for each of the three, cut into the same number of
    heads on both sides; widths may differ.

    Args:
        student_3BNC: queries, keys and values, [3, B, N, C].
        teacher_3BNC: the same with its own C.
    """
    relations = []
    for features in (student_3BNC, teacher_3BNC):
        heads = features.unflatten(3, (RELATION_HEADS, -1)).transpose(2, 3)  # 3, B, heads, N, d
        relations.append((heads @ heads.transpose(3, 4) * heads.shape[4] ** -0.5).log_softmax(4))
    return F.kl_div(relations[0], relations[1], reduction="none", log_target=True).sum(4).mean()


def patch_attention(student_BNC: Tensor, teacher_BNC: Tensor) -> Tensor:
    """How alike every patch is to the whole: Wang et al., Attention Probe, ICASSP 2022.

    ``mean (a_s - a_t)^2``, a the cosines between each place and the mean of all. (The paper takes the class token for
    the whole, which a convolution network lacks; its code normalizes over tokens, cosines need channels.)
    """
    maps = []
    for tokens in (student_BNC, teacher_BNC):
        maps.append((F.normalize(tokens, dim=2) * F.normalize(tokens.mean(1, keepdim=True), dim=2)).sum(2))
    return (maps[0] - maps[1]).square().mean()


def split_qkv(features_BN3C: Tensor, prefix: int) -> Tensor:
    """Take what timm's ``attn.qkv`` returns apart: [B, prefix + N, 3 C] -> [3, B, N, C], patches only, float32."""
    return torch.stack(features_BN3C[:, prefix:].float().chunk(3, dim=2))
