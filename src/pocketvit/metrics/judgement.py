"""All figures of one network's answers: what a row of the honest table holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .scores import Scores
from .screening import Screening


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


def _pair(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
