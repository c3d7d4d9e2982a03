"""All figures of one network's answers, whatever the task: what a row of the honest table holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .classification import Scores, evaluate, finite_rows
from .screening import OperatingPoint, Screening, positive_class, screen, screen_labels


@dataclass(frozen=True)
class Judgement:
    """Accuracy and calibration, and what goes beyond them.

    Attributes:
        scores: As `evaluate` gives them; the interval is over groups where there are any. Of a multi-label task: the
            mean over labels of the accuracy at 0.5, and the share of labels on which the teacher decides alike.
        screening: As `screen` or `screen_labels` gives it.
        classes: Names.
    """

    scores: Scores
    screening: Screening
    classes: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """Return the figures that apply under the names of ``results.json``, as JSON-like values."""
        scores, more = self.scores, self.screening
        fields: dict[str, Any] = {
            "accuracy": scores.accuracy,
            "n": scores.n,
            "ece": scores.ece,
            "agreement": scores.agreement,
            "interval": _pair(scores.interval),
        }
        if scores.min_class is not None:
            fields["min_class"] = [self.classes[scores.min_class[0]], scores.min_class[1]]
        optional: dict[str, Any] = {
            "groups": more.groups,
            "auc": more.auc,
            "auc_interval": _pair(more.auc_interval),
            "class_auc": None
            if more.class_auc is None
            else [None if np.isnan(x) else x for x in more.class_auc.tolist()],
            "balanced_accuracy": more.balanced_accuracy,
            "balanced_interval": _pair(more.balanced_interval),
            "average_precision": more.average_precision,
            "kappa": more.kappa,
            "kappa_interval": _pair(more.kappa_interval),
            "mae": more.mae,
        }
        if more.at is not None:
            optional |= {
                "sensitivity": more.at.sensitivity,
                "sensitivity_interval": _pair(more.at.sensitivity_interval),
                "specificity": more.at.specificity,
                "specificity_interval": _pair(more.at.specificity_interval),
                "threshold": more.at.point.threshold,
                "positive": self.classes[more.at.point.positive],
                "chosen": more.at.point.chosen,
            }
        return fields | {name: value for name, value in optional.items() if value is not None}


def judge(
    probabilities: Any,
    targets: Any,
    classes: Sequence[str],
    *,
    task: str = "classification",
    teacher: Any = None,
    groups: Any = None,
    point: OperatingPoint | None = None,
) -> Judgement:
    """Take all figures of a network's answers.

    Args:
        probabilities: floating [n, C].
        targets: int [n], -1 where unknown; int [n, C] of 0 and 1 for several labels an image.
        classes: Names of the C classes.
        task: "classification", "ordinal" (grades in order) or "multi-label".
        teacher: floating [n, C], the teachers' mean probabilities on the same images, or None.
        groups: int [n], the patient, say, of each image.
        point: An operating point chosen on validation images, for two classes.

    Raises:
        PocketError: As `evaluate` and `screen`.
    """
    if np.ndim(targets) == 2:
        more = screen_labels(probabilities, targets, groups=groups)
        agreement = None
        if teacher is not None:
            ours, theirs = (
                finite_rows(probabilities, "probabilities"),
                finite_rows(teacher, "the teacher's probabilities"),
            )
            agreement = float(((ours >= 0.5) == (theirs >= 0.5)).mean())
        scores = Scores(more.n, more.accuracy, more.accuracy_interval, agreement=agreement)
        return Judgement(scores, more, tuple(classes))
    scores = evaluate(probabilities, targets, teacher)
    more = screen(
        probabilities,
        targets,
        groups=groups,
        positive=positive_class(classes),
        ordinal=task == "ordinal",
        point=point,
    )
    return Judgement(replace(scores, interval=more.accuracy_interval), more, tuple(classes))


def _pair(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
