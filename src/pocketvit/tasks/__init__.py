"""What a label, a loss and a score are, for each task; a module a task."""

from .classification import (
    Difference,
    Scores,
    class_accuracies,
    evaluate,
    expected_calibration_error,
    fit_temperature,
    paired_difference,
    wilson_interval,
)

__all__ = [
    "Difference",
    "Scores",
    "class_accuracies",
    "evaluate",
    "expected_calibration_error",
    "fit_temperature",
    "paired_difference",
    "wilson_interval",
]
