"""What a student is asked to match. `OBJECTIVES` and `LABEL_OBJECTIVES` list the losses on a teacher's answers."""

from .batch import Batch
from .combine import (
    Truth,
    cross_entropy,
    distillation_loss,
    known,
    needs,
    student_loss,
    supervised_loss,
    temperature_at,
)
from .gating import Gate, fit_gate, teacher_weights
from .logits import Function, Needs, Objective, dist, dkd, hard, kl, zscore
from .multilabel import binary_cross_entropy, mld
from .tokens import token_losses

# For one class per image.
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

# For several labels per image.
LABEL_OBJECTIVES: dict[str, Objective] = {"mld": Objective("mld", mld, needs="full")}

__all__ = [
    "LABEL_OBJECTIVES",
    "OBJECTIVES",
    "Batch",
    "Function",
    "Gate",
    "Needs",
    "Objective",
    "Truth",
    "binary_cross_entropy",
    "cross_entropy",
    "dist",
    "distillation_loss",
    "dkd",
    "fit_gate",
    "hard",
    "kl",
    "known",
    "mld",
    "needs",
    "student_loss",
    "supervised_loss",
    "teacher_weights",
    "temperature_at",
    "token_losses",
    "zscore",
]
