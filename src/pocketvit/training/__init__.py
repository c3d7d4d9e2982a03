"""The training loop, its batches, checkpoints with exact resume, precision, and several processes."""

from .checkpoint import load_weights
from .distributed import Processes, join_processes
from .feed import Batch, Feed
from .loop import fit
from .metrics import read_metrics
from .predict import plain_pixels, predict_logits
from .step import FromPixels, Input, Loss, Stepper

__all__ = [
    "Batch",
    "Feed",
    "FromPixels",
    "Input",
    "Loss",
    "Processes",
    "Stepper",
    "fit",
    "join_processes",
    "load_weights",
    "plain_pixels",
    "predict_logits",
    "read_metrics",
]
