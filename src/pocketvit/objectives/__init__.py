"""What a student is asked to match. `OBJECTIVES` lists the losses; `student_loss` makes one that `fit` can call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .combine import cross_entropy, distillation_loss, student_loss, supervised_loss
from .gating import Gate, fit_gate, teacher_weights
from .logits import Function, dist, dkd, hard, kl, zscore
from .tokens import token_losses

Needs = Literal["full", "topk"]


@dataclass(frozen=True)
class Objective:
    """A distillation loss and what it needs of a teacher.

    Attributes:
        name: As in ``LossConfig.objective``.
        function: From logits [B, C] and `SoftLabels` to a loss [B].
        needs: "full" (all logits) or "topk", at any temperature.
        topk_at_one: Whether top-k labels serve it at temperature 1.
    """

    name: str
    function: Function
    needs: Needs
    topk_at_one: bool = False

    def needs_at(self, temperature: float) -> Needs:
        """What it needs at a temperature."""
        return "topk" if self.topk_at_one and temperature == 1 else self.needs


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("kl", kl, needs="full", topk_at_one=True),
        Objective("hard", hard, needs="topk"),
        Objective("zscore", zscore, needs="full"),
        Objective("dkd", dkd, needs="full"),
        Objective("dist", dist, needs="full"),
    )
}

__all__ = [
    "OBJECTIVES",
    "Gate",
    "Objective",
    "cross_entropy",
    "dist",
    "distillation_loss",
    "dkd",
    "fit_gate",
    "hard",
    "kl",
    "student_loss",
    "supervised_loss",
    "teacher_weights",
    "token_losses",
    "zscore",
]
