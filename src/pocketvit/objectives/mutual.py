"""Deep mutual learning: two students, neither trained before, that learn from each other as from a teacher.

Zhang et al., "Deep Mutual Learning", CVPR 2018 (arXiv 1706.00384).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..labels import FullLabels
from .batch import Batch

_Loss = Callable[[tuple[Tensor, ...], Batch], tuple[Tensor, dict[str, Tensor]]]

MUTUAL: dict[str, Any] = {
    "objective": "kl", "temperature": 1.0, "last_temperature": None, "weight": 0.5, "teacher_weights": "fixed",
    "terms": (),
}  # fmt: skip
"""Changes to a `LossConfig`: cross-entropy plus KL to the other, as in the paper but halved, which Adam and Muon do not
notice."""


def mutual_loss(loss: _Loss) -> _Loss:
    """Return the loss of two networks, of their class heads' logits [B, C], from a loss with stored labels.

    The sum over both of ``loss``, to which the other's answers to the same batch are those of a teacher: no gradient
    goes through them. (The paper updates one network and then asks it again; here both answer once and then learn, as
    in its distributed form.)

    Args:
        loss: Of one network, from its heads and a batch with soft labels (see `tasks.Task.loss`).
    """

    def both(heads: tuple[Tensor, ...], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        first, second = heads
        one, terms = loss((first,), dataclasses.replace(batch, soft=(FullLabels(second.detach()),)))
        other, more = loss((second,), dataclasses.replace(batch, soft=(FullLabels(first.detach()),)))
        named = {"first": terms, "second": more}
        return one + other, {f"{who}_{name}": value for who, found in named.items() for name, value in found.items()}

    return both
