"""Distillation tokens: each has a head of its own, and learns its own teacher.

With one token a teacher, token t minimizes ``D(s_t, z_t)`` where s_t are the logits of its head, z_t those of teacher t
and D the objective (`OBJECTIVES`). One token, one teacher and hard labels are DeiT's (Touvron et al., Training
data-efficient image transformers & distillation through attention, ICML 2021); a token for each of two teachers of
different inductive bias is Co-advise's (Ren et al., CVPR 2022). A single token of several teachers learns their
weighted mix, ``sum_t w_t D(s, z_t)``, as the class head does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import PocketError
from ..labels import SoftLabels
from .logits import Function


def token_losses(
    tokens: Sequence[torch.Tensor],
    soft: Sequence[SoftLabels],
    weights_BT: torch.Tensor,
    objective: Function,
    temperature: float,
) -> list[torch.Tensor]:
    """Return one loss [B] for each distillation token.

    Args:
        tokens: float32 [B, C] logits of the tokens' heads: none, one, or one a teacher.
        soft: One record a teacher.
        weights_BT: How much each teacher counts; plays no part where each token has its own.
        objective: From logits, `SoftLabels` and a temperature to a loss [B].
        temperature: Of the objective.

    Raises:
        PocketError: The number of tokens fits no assignment to teachers.
    """
    if len(tokens) not in (0, 1, len(soft)):
        raise PocketError(
            f"a student with {len(tokens)} distillation tokens cannot learn from {len(soft)} teachers: give it none, "
            "one, or one a teacher (--tokens)."
        )
    if len(tokens) == len(soft):
        return [objective(token, labels, temperature=temperature) for token, labels in zip(tokens, soft, strict=True)]
    return [
        (weights_BT * torch.stack([objective(token, labels, temperature=temperature) for labels in soft], 1)).sum(1)
        for token in tokens
    ]
