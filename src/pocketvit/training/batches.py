"""What the loop asks of whoever gives it batches, and of whoever learns from them.

`Feed` and `Stepper` are the two that most runs use. Another loop (a generator that learns beside a student, say) brings
its own and keeps checkpoints, exact resume, budgets and progress.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from .schedule import Schedule


class Batches(Protocol):
    """Gives batches that are a function of epoch and number alone, so that a run can stop and go on anywhere."""

    batch_size: int  # images of a batch over all processes, the most
    steps_per_epoch: int  # batches of an epoch
    rank: int  # of this process
    world: int  # number of processes
    device: torch.device  # where batches are delivered

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Any]:
        """Yield this process's batches of an epoch from the batch ``start_step`` on."""

    def fingerprint(self) -> str:
        """Return a digest of what decides the batches: a resumed run must see the same ones."""

    def close(self) -> None:
        """Stop whatever works ahead."""


class Learner(Protocol):
    """Takes optimizer steps; everything that they change is in `tensors` and `state`."""

    step: int  # taken so far
    schedule: Schedule  # how many there are
    model: nn.Module  # what is trained, on the device where it is trained
    first_bad: torch.Tensor  # int64 []: the first step whose loss or gradient was not finite, -1 for none

    @property
    def evaluated(self) -> nn.Module:
        """The network that counts, such as a weight average."""

    @property
    def smaller(self) -> bool:
        """Whether the last step was taken in smaller pictures: see `progressive`."""

    def take(self, batches: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Take one step on one or several batches; return detached sums over this process's images.

        "images" and "loss" are among them; "correct", where it is, is the number of right answers, of "known" images.
        """

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return every tensor that a checkpoint must hold, named ``PART.NAME`` (see `parts.Parts`)."""

    def state(self) -> dict[str, Any]:
        """Return everything else that a checkpoint must hold, JSON-like."""

    def restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Go back to what `tensors` and `state` returned."""

    def close(self) -> None:
        """Let go of the model, which others go on to use."""
