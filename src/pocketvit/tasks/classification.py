"""One class per image, and grades in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..config import LossConfig
from ..errors import PocketError
from ..metrics import (
    Judgement,
    OperatingPoint,
    choose_point,
    evaluate,
    fit_temperature,
    positive_class,
    screen,
)
from ..models.heads import combined_logits
from ..objectives import OBJECTIVES, Gate, cross_entropy, known, student_loss
from .base import Answer, Task
from .registry import register

if TYPE_CHECKING:
    from torch import nn

    from ..training.feed import Batch
    from ..training.step import Loss


@register
class Classification(Task):
    """One class per image: a softmax, cross-entropy, accuracy."""

    name = "classification"
    kind = "softmax"
    objectives = OBJECTIVES
    smoothing = 0.1
    ordinal = False

    def refuse(self, settings: Any, classes: int) -> None:
        super().refuse(settings, classes)
        objective = getattr(settings, "objective", "auto")
        if objective != "auto":
            self.objective(objective)
        if objective == "zscore" and classes == 2:
            raise PocketError(
                "--objective zscore cannot learn from two classes: standardized, a pair of logits says nothing but "
                "which is larger. Use --objective kl."
            )

    def default_objective(self, classes: int, *, whole: bool) -> tuple[str, float]:
        return ("zscore" if whole and classes != 2 else "kl"), (2.0 if whole else 1.0)

    def truth(self, logits: torch.Tensor, batch: Batch, config: LossConfig) -> tuple[torch.Tensor, torch.Tensor]:
        return cross_entropy(logits, batch, config.label_smoothing, config.class_weights), known(batch)

    def loss(
        self,
        config: LossConfig,
        *,
        model: nn.Module | None = None,
        gate: Gate | None = None,
        approximate_tail: bool = False,
    ) -> Loss:
        objective = self.objective(config.objective)
        return student_loss(config, objective=objective, truth=self.truth, gate=gate, approximate_tail=approximate_tail)

    def plain_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=0.05, reduction="none")

    def right(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        heavier = torch.where(batch.ratio >= 0.5, batch.targets, batch.partner_targets)  # of a mixed view
        return (logits.argmax(1) == heavier).sum(), (heavier >= 0).sum()

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(1)

    def combine(self, heads: Sequence[torch.Tensor]) -> torch.Tensor:
        return combined_logits(heads)

    def fit_temperature(self, logits: Any, targets: Any) -> float:
        return fit_temperature(logits, targets)

    def answer(self, probabilities: np.ndarray, classes: Sequence[str], top: int) -> Answer:
        best = np.argsort(-probabilities, kind="stable")[: max(top, 1)]
        ranked = [[classes[i] if classes else str(i), float(probabilities[i])] for i in best]
        text = "  ".join(f"{label} {score:.1%}" for label, score in ranked)
        return Answer(text, {"label": ranked[0][0], "score": ranked[0][1], "topk": ranked})

    def named(self, target: Any, classes: Sequence[str]) -> str:
        return classes[int(target)] if target >= 0 else ""

    def answered(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.argmax(1)

    def validate(self, probabilities: Any, targets: Any) -> dict[str, float]:
        probabilities, targets = torch.as_tensor(probabilities), torch.as_tensor(targets)
        labelled = targets >= 0
        return {"val_accuracy": float((probabilities.argmax(1) == targets)[labelled].double().mean())}

    def judge(
        self,
        probabilities: Any,
        targets: Any,
        classes: Sequence[str],
        *,
        teacher: Any = None,
        groups: Any = None,
        point: OperatingPoint | None = None,
    ) -> Judgement:
        scores = evaluate(probabilities, targets, teacher)
        positive = positive_class(classes)
        more = screen(probabilities, targets, groups=groups, positive=positive, ordinal=self.ordinal, point=point)
        return Judgement(replace(scores, interval=more.accuracy_interval), more, tuple(classes))

    def screens(self, classes: Sequence[str]) -> bool:
        return len(classes) == 2

    def point(self, probabilities: Any, targets: Any, classes: Sequence[str]) -> OperatingPoint | None:
        return choose_point(probabilities, targets, positive_class(classes)) if self.screens(classes) else None

    def agreement(self, one: np.ndarray, other: np.ndarray) -> float:
        return float((one.argmax(1) == other.argmax(1)).mean())

    def kept(self, sure: np.ndarray, other: np.ndarray) -> float:
        theirs = np.take_along_axis(sure, other.argmax(1)[:, None], 1)[:, 0]
        return 1 - float((sure.max(1) - theirs).mean())

    def chance(self, targets: np.ndarray) -> float | None:
        labelled = targets[targets >= 0]
        return float(np.bincount(labelled).max() / len(labelled)) if len(labelled) else None


@register
class Ordinal(Classification):
    """Grades in order: classes whose mistakes are also counted by their distance (quadratic kappa, mean error)."""

    name = "ordinal"
    ordinal = True
