"""Training a compressed student again: the ordinary `training.fit` from the same store, for less long."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ..config import TrainConfig

Step = Literal["prune", "share", "quantize"]

# Share of the first training's epochs and of its learning rate.
_RECOVERY: dict[Step, tuple[float, float]] = {"prune": (0.5, 0.5), "share": (0.5, 0.5), "quantize": (0.25, 0.1)}


def recovery(config: TrainConfig, step: Step, epochs: int | None = None) -> TrainConfig:
    """Return how a student is trained after a step of compression.

    A narrower or shared student has lost most of what it knew and learns at half the pace; a rounded one is near its
    minimum, and a rate at which weights jump between integers keeps it from settling.

    Args:
        config: of the student's first training.
        step: what was done to it.
        epochs: None for a share of the first training's.
    """
    length, rate = _RECOVERY[step]
    return dataclasses.replace(
        config,
        epochs=max(1, round(config.epochs * length)) if epochs is None else epochs,
        seconds=config.seconds * length if epochs is None else 0.0,
        learning_rate=config.learning_rate * rate,
        drop_path=0.0,
        progressive=0.0,
    )
