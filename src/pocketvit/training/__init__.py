"""The training loop, its batches, checkpoints with exact resume, precision, and several processes."""

from .batches import Batches, Learner
from .checkpoint import load_weights
from .distributed import Processes, join_processes
from .feed import Batch, Feed
from .fitting import fit
from .loop import run
from .metrics import read_metrics
from .muon import Muon
from .optim import build_optimizer
from .parts import Parts, WeightAverage
from .predict import plain_pixels, predict_logits
from .step import FromPixels, Input, Loss, Stepper

__all__ = [
    "Batch",
    "Batches",
    "Feed",
    "FromPixels",
    "Input",
    "Learner",
    "Loss",
    "Muon",
    "Parts",
    "Processes",
    "Stepper",
    "WeightAverage",
    "build_optimizer",
    "fit",
    "join_processes",
    "load_weights",
    "plain_pixels",
    "predict_logits",
    "read_metrics",
    "run",
]
