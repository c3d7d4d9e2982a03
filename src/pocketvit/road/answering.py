"""What networks, teachers and files answer to the images of a split, each split rendered once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..config import ViewConfig
from ..deployment.opening import open_file
from ..sources.base import Source
from ..sources.targets import sizes_of
from ..tasks import Task
from ..teachers import Teacher
from ..training.step import Input
from ..views import Views
from ..views.resize import to_input
from ..views.streaming import stream
from .images import Road

Answers = Callable[[torch.Tensor], np.ndarray]
"""From uint8 views [B, 3, S, S] to probabilities float32 [B, C]."""

_BATCH = 64


def network_answers(model: nn.Module, input: Input, task: Task) -> Answers:
    """What a network says, as its saved and exported files do: ``model(x)`` in evaluation mode."""
    model.eval()

    def answer(pixels: torch.Tensor) -> np.ndarray:
        device = next(model.parameters()).device
        with torch.inference_mode():
            return task.probabilities(model(to_input(pixels.to(device), *input)).float()).cpu().numpy()

    return answer


def teacher_answers(teacher: Teacher, task: Task) -> Answers:
    """What a teacher says, in the classes of the images."""
    return lambda pixels: task.probabilities(teacher.logits(pixels.to(teacher.device))).cpu().numpy()


def file_answers(path: Path) -> Answers:
    """What an exported file says."""
    return open_file(path).probabilities


def answers(
    given: Mapping[str, Answers], source: Source, view: ViewConfig, task: Task, pixels: torch.Tensor | None = None
) -> dict[str, np.ndarray]:
    """Return the answers of everyone to the pictures of a split, float32 [N, ...], by key; each is rendered once.

    Args:
        given: Who answers.
        source: The split.
        view: Its geometry is used.
        task: Says what answers are.
        pixels: The split's rendered views, where they are there (see `Road.pixels`).
    """
    parts: dict[str, list[np.ndarray]] = {key: [] for key in given}
    for seen in batches(source if pixels is None else pixels, view):
        for key, answer in given.items():
            parts[key].append(answer(seen))
    sizes = sizes_of(source.targets)
    return {key: task.placed(np.concatenate(rows), view, sizes) for key, rows in parts.items()}


def road_answers(given: Mapping[str, Answers], road: Road, source: Source) -> dict[str, np.ndarray]:
    """Return `answers` to a split of a road."""
    pixels = road.pixels(source)
    return answers(given, source, road.view, road.task, pixels if isinstance(pixels, torch.Tensor) else None)


def batches(source: Source | torch.Tensor, view: ViewConfig) -> Iterator[torch.Tensor]:
    """Yield a split's plain views, uint8 [B, 3, S, S], some at a time."""
    if isinstance(source, torch.Tensor):
        yield from source.split(_BATCH)
        return
    for seen in stream(Views(source, view.plain()), np.arange(len(source)), batch_size=_BATCH):
        yield seen.pixels


def probabilities_of(teacher: Teacher, road: Road, source: Source) -> np.ndarray:
    """Return float32 [N, C], what a teacher says of every unaugmented image of a split."""
    return road_answers({"": teacher_answers(teacher, road.task)}, road, source)[""]
