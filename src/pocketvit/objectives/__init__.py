"""What a student is asked to match. `OBJECTIVES` lists the losses; `student_loss` makes one that `fit` can call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import PocketError
from .combine import cross_entropy, distillation_loss, student_loss, supervised_loss
from .gating import Gate, fit_gate, teacher_weights
from .labels import binary_cross_entropy, mld
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

# Those for several labels an image; none of the others can be used there, nor these elsewhere.
LABEL_OBJECTIVES: dict[str, Objective] = {"mld": Objective("mld", mld, needs="full")}


def find_objective(name: str, *, several: bool = False) -> Objective:
    """Return the objective of a name, for images of one class or of several labels.

    Raises:
        PocketError: It is for the other kind of images, or there is none of that name.
    """
    mine, others = (LABEL_OBJECTIVES, OBJECTIVES) if several else (OBJECTIVES, LABEL_OBJECTIVES)
    if name in mine:
        return mine[name]
    if name in others:
        here, there = ("several labels", "one class") if several else ("one class", "several labels")
        raise PocketError(
            f"the objective {name} is for images of {there} each, and these have {here}. Use {', '.join(mine)}, or "
            "leave --objective away."
        )
    raise PocketError(f"there is no objective {name!r}. There are: {', '.join([*OBJECTIVES, *LABEL_OBJECTIVES])}.")


__all__ = [
    "LABEL_OBJECTIVES",
    "OBJECTIVES",
    "Gate",
    "Objective",
    "binary_cross_entropy",
    "cross_entropy",
    "dist",
    "distillation_loss",
    "dkd",
    "find_objective",
    "fit_gate",
    "hard",
    "kl",
    "mld",
    "student_loss",
    "supervised_loss",
    "teacher_weights",
    "token_losses",
    "zscore",
]
