"""`fit` trains one network, teachers and students alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import nn

from ..config import TrainConfig
from ..models.innermost import channels_innermost
from ..objectives.terms import FeatureTerms
from ..tasks import Task
from .batches import Batches
from .distributed import from_rank_zero
from .loop import run
from .precision import choose_precision
from .step import FromPixels, Input, Loss, Stepper


def fit(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    config: TrainConfig,
    folder: Path,
    *,
    task: Task,
    evaluate: Callable[[nn.Module], dict[str, Any]] | None,
    input: Input,
    terms: FeatureTerms | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> nn.Module:
    """Train ``model`` in place and return it with its final weights (the weight average where there is one).

    Args:
        model: As it is, on the device where it is to be trained: untrained, trained, pruned, with shared weights.
        batches: A `Feed`, mostly; also says which process this is and of how many.
        loss: From float32 logits of every head and a batch to a scalar and its parts (see `tasks.Task.loss`).
        config: How to train. "auto" precision is measured once and written to ``choices.json``.
        folder: Of the run; see `loop.run`.
        task: Counts right answers; the highest ``task.score`` of the evaluations keeps its weights as ``best``.
        evaluate: See `loop.run`.
        input: Side, mean and standard deviation that the network is fed.
        terms: Objectives on features to add to the loss; the batches must carry the teachers' features.
        resume: Continue from ``checkpoints/last`` if there is one.
        on_epoch: See `loop.run`.

    Raises:
        PocketError: As `loop.run`.
        KeyboardInterrupt: After Ctrl-C, when the state has been saved.
    """
    device = next(model.parameters()).device
    channels_innermost(model, input[0])
    resolved = config
    if config.precision == "auto":
        chosen: Any = _precision(model, batches, input, Path(folder))
        resolved = dataclasses.replace(config, precision=chosen)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        stepper = Stepper(model, input, loss, resolved, task=task, terms=terms, rank=batches.rank, world=batches.world)
        run(
            stepper, batches, config, folder, precision=resolved.precision, score=task.score, evaluate=evaluate,
            resume=resume, on_epoch=on_epoch,
        )  # fmt: skip
    if stepper.average is not None:
        model.load_state_dict(stepper.average.module.state_dict())
    if batches.world > 1:  # BatchNorm statistics are per rank; what is returned is one network
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
    return model.to(memory_format=torch.contiguous_format).eval()


def _precision(model: nn.Module, batches: Batches, input: Input, folder: Path) -> str:
    images = max(1, batches.batch_size // batches.world)
    chosen = ""
    if batches.rank == 0:
        chosen = choose_precision(FromPixels(model, input), images, input[0], folder, batches.device)
    return from_rank_zero(chosen, batches.world)
