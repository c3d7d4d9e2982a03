"""Measures of answers, and how sure one can be of them; tasks choose among them."""

from .calibration import (
    Reliability,
    expected_calibration_error,
    fit_answers,
    fit_label_temperature,
    fit_temperature,
    reliability,
)
from .differences import Difference, paired_difference
from .intervals import wilson_interval
from .judgement import Judgement
from .scores import Scores, class_accuracies, evaluate
from .screening import OperatingPoint, Screening, choose_point, positive_class, screen, screen_labels

__all__ = [
    "Difference",
    "Judgement",
    "OperatingPoint",
    "Reliability",
    "Scores",
    "Screening",
    "choose_point",
    "class_accuracies",
    "evaluate",
    "expected_calibration_error",
    "fit_answers",
    "fit_label_temperature",
    "fit_temperature",
    "paired_difference",
    "positive_class",
    "reliability",
    "screen",
    "screen_labels",
    "wilson_interval",
]
