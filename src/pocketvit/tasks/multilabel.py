"""Several labels per image, each there or not: as many yes-or-no questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..config import LossConfig
from ..errors import PocketError
from ..labels.record import choose_k
from ..metrics import Judgement, OperatingPoint, Scores, fit_label_temperature, screen_labels
from ..metrics.rows import finite_rows
from ..metrics.screening import mean_auc
from ..objectives import LABEL_OBJECTIVES, Gate, binary_cross_entropy, student_loss
from ..objectives import multilabel as losses
from .base import Answer, Task, refuse_one_class
from .registry import register

if TYPE_CHECKING:
    from torch import nn

    from ..training.feed import Batch
    from ..training.step import Loss

PRESENT = 0.5  # labels of at least this probability are called present


@register
class MultiLabel(Task):
    """Several labels per image: a sigmoid each, binary cross-entropy, accuracy over labels, AUC."""

    name = "multilabel"
    kind = "sigmoid"
    objectives = LABEL_OBJECTIVES
    score = "val_auc"  # labels that are nearly always absent do not flatter it
    unit = "labels"
    compares = False
    exclusive = False
    figure = "auc"
    decided = "a label is there from a probability of 0.5 on"
    smoothing = 0.0  # most labels are absent on most images: smoothing would hide how rare each is

    def refuse(self, settings: Any, classes: int) -> None:
        super().refuse(settings, classes)
        here = "these images have several labels each"
        objective = getattr(settings, "objective", "auto")
        if objective != "auto":
            self.objective(objective)
        weights = getattr(settings, "teacher_weights", "fixed")
        if weights not in ("auto", "fixed"):
            raise PocketError(f"--teacher-weights {weights} looks at the one class of an image, and {here}. Use fixed.")
        balance = getattr(settings, "balance", "none")
        if balance != "none":
            raise PocketError(f"--balance {balance} is for one class per image, and {here}. Leave it away.")
        tokens = getattr(settings, "tokens", 0)
        if tokens > 1:
            raise PocketError(
                f"--tokens {tokens}: a token per teacher is averaged as one class is, and {here}. Use --tokens 0 or 1."
            )
        if choose_k(classes, getattr(settings, "top_k", None)):
            raise PocketError(
                f"{here}, {classes} in all, and the largest logits say nothing of the others. Store all of them, with "
                "--top-k 0."
            )
        refuse_one_class(settings, here)

    def reads(self, kind: str) -> bool:
        return kind in ("sigmoid", "softmax")  # a softmax's logits, one by one

    def default_objective(self, classes: int, *, whole: bool) -> tuple[str, float]:
        return "mld", 1.0

    def truth(self, logits: torch.Tensor, batch: Batch, config: LossConfig) -> tuple[torch.Tensor, torch.Tensor]:
        if config.class_weights:
            raise PocketError("--balance weights is for one class per image; these have several labels.")
        return binary_cross_entropy(logits, batch, config.label_smoothing), losses.known(batch)

    def loss(
        self,
        config: LossConfig,
        *,
        model: nn.Module | None = None,
        gate: Gate | None = None,
        approximate_tail: bool = False,
    ) -> Loss:
        if config.teacher_weights != "fixed":
            raise PocketError(f"--teacher-weights {config.teacher_weights} looks at the one class of an image.")
        # Where there are no teachers the config keeps the default of other tasks.
        objective = LABEL_OBJECTIVES.get(config.objective, LABEL_OBJECTIVES["mld"])
        return student_loss(config, objective=objective, truth=self.truth, gate=gate, approximate_tail=approximate_tail)

    def plain_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")

    def right(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        heavier = torch.where((batch.ratio >= 0.5)[:, None], batch.targets, batch.partner_targets)
        there = (heavier >= 0).all(1)
        return (((logits >= 0) == heavier).float().mean(1) * there).sum(), there.sum()

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.sigmoid()

    def combine(self, heads: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack(list(heads)).mean(0)  # as timm's distilled ViT and its file do

    def fit_temperature(self, logits: Any, targets: Any) -> float:
        return fit_label_temperature(logits, targets)

    def answer(self, probabilities: np.ndarray, classes: Sequence[str], top: int) -> Answer:
        order = np.argsort(-probabilities, kind="stable")
        named = [(classes[i] if classes else str(i), float(probabilities[i])) for i in order]
        there = [one for one in named if one[1] >= PRESENT]
        shown = there if top <= 1 else named[:top]
        text = "  ".join(f"{label} {score:.1%}" for label, score in shown) or "none"
        return Answer(text, {"labels": list(map(list, there)), "topk": list(map(list, named[: max(top, 1)]))})

    def named(self, target: Any, classes: Sequence[str]) -> str:
        return "; ".join(name for name, there in zip(classes, target, strict=True) if there == 1)

    def answered(self, probabilities: np.ndarray) -> np.ndarray:
        return (probabilities >= PRESENT).astype(np.int64)

    def validate(self, probabilities: Any, targets: Any) -> dict[str, float]:
        probabilities, targets = torch.as_tensor(probabilities), torch.as_tensor(targets)
        rows = (targets >= 0).all(1)
        p_NC, y_NC = probabilities[rows], targets[rows]
        auc = mean_auc(p_NC.numpy(), y_NC.numpy())
        scores = {"val_accuracy": float(((p_NC >= PRESENT) == y_NC).float().mean())}
        return scores if auc is None else scores | {"val_auc": auc}

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
        more = screen_labels(probabilities, targets, groups=groups)
        agreement = None
        if teacher is not None:
            ours, theirs = (
                finite_rows(probabilities, "probabilities"),
                finite_rows(teacher, "the teacher's probabilities"),
            )
            agreement = self.agreement(ours, theirs)
        scores = Scores(more.n, more.accuracy, more.accuracy_interval, agreement=agreement)
        return Judgement(scores, more, tuple(classes))

    def agreement(self, one: np.ndarray, other: np.ndarray) -> float:
        return float(((one >= PRESENT) == (other >= PRESENT)).mean())

    def kept(self, sure: np.ndarray, other: np.ndarray) -> float:
        differs = (sure >= PRESENT) != (other >= PRESENT)
        return 1 - float((np.abs(2 * sure - 1) * differs).mean())

    def said(self, scores: Mapping[str, float]) -> str:
        auc = f", AUC {scores['val_auc']:.3f}" if "val_auc" in scores else ""
        return f"{scores['val_accuracy']:.1%} of the labels right{auc}"
