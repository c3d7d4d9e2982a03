"""Networks: ViT students, small-image residual and involution networks, and every timm model, by name."""

from .detector import Detector, carry_weights, create_detector
from .heads import combined_logits, forward_heads, scale_heads
from .inputs import InputStats, input_stats
from .registry import create_model, create_student
from .saving import LoadedModel, load_model, save_model
from .set_detector import SetDetector
from .vit import LADDER, default_patch

__all__ = [
    "LADDER",
    "Detector",
    "InputStats",
    "LoadedModel",
    "SetDetector",
    "carry_weights",
    "combined_logits",
    "create_detector",
    "create_model",
    "create_student",
    "default_patch",
    "forward_heads",
    "input_stats",
    "load_model",
    "save_model",
    "scale_heads",
]
