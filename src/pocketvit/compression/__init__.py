"""A student in, a smaller student out: pruned, with shared weights, quantized; trained again by the ordinary loop."""

from .calibration import Calibration, calibration_views, check_calibration, noise_views
from .cost import weight_bytes
from .fakequant import fake_quantize, freeze, grids_of, quantizable
from .fold import before_norms, fold_norms, merge_branches
from .grid import Grid, round_to_grid
from .half import to_fp16
from .integers import write_integers
from .prune import prune
from .quantize import Quantized, answers, mixed_bits, quantize, sensitivity
from .recover import recovery
from .shapes import Shape, shape_of
from .share import share

__all__ = [
    "Calibration",
    "Grid",
    "Quantized",
    "Shape",
    "answers",
    "before_norms",
    "calibration_views",
    "check_calibration",
    "fake_quantize",
    "fold_norms",
    "freeze",
    "grids_of",
    "merge_branches",
    "mixed_bits",
    "noise_views",
    "prune",
    "quantizable",
    "quantize",
    "recovery",
    "round_to_grid",
    "sensitivity",
    "shape_of",
    "share",
    "to_fp16",
    "weight_bytes",
    "write_integers",
]
