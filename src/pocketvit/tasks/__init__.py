"""What a label, a loss and a score are, for each task; a module a task."""

from .classification import (
    Difference,
    Scores,
    class_accuracies,
    evaluate,
    expected_calibration_error,
    fit_temperature,
    paired_difference,
    reliability,
    wilson_interval,
)
from .screening import OperatingPoint, Screening, choose_point, positive_class, screen, screen_labels

__all__ = [
    "Difference",
    "OperatingPoint",
    "Scores",
    "Screening",
    "choose_point",
    "class_accuracies",
    "evaluate",
    "expected_calibration_error",
    "fit_temperature",
    "paired_difference",
    "positive_class",
    "reliability",
    "screen",
    "screen_labels",
    "wilson_interval",
]
