"""Where the features come from that terms compare: live teachers on the very pixels of each batch, or a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..labels import FullLabels, LabelStore
from ..models.taps import Taps
from ..objectives.batch import Batch
from ..teachers import Teacher


class LiveFeatures:
    """Runs teachers on a batch's pixels, recording layers; the same forward pass gives their logits.

    Args:
        teachers: Frozen, in evaluation mode.
        layers: Module paths to record, one list per teacher.
    """

    def __init__(self, teachers: Sequence[Teacher], layers: Sequence[Sequence[str]]) -> None:
        self.teachers = tuple(teachers)
        self.layers = [tuple(names) for names in layers]

    def __call__(self, batch: Batch) -> tuple[tuple[FullLabels, ...], tuple[dict[str, torch.Tensor], ...]]:
        """Return the teachers' labels and features (layer -> output) for a batch, one of each per teacher."""
        seen = [self._look(teacher, names, batch) for teacher, names in zip(self.teachers, self.layers, strict=True)]
        return tuple(soft for soft, _ in seen), tuple(features for _, features in seen)

    @staticmethod
    def _look(teacher: Teacher, names: tuple[str, ...], batch: Batch) -> tuple[FullLabels, dict[str, torch.Tensor]]:
        taps = Taps(teacher.module, names)
        try:
            logits = teacher.logits(batch.pixels)
        finally:
            taps.remove()
        return FullLabels(logits), {name: features.float() for name, features in taps.take().items()}


class StoredFeatures:
    """Layers in a store that `LayerTeacher` wrote: read view by view with the labels.

    Args:
        store: Holds a teacher for each of the layers.
        layers: One dictionary per teacher: layer -> (its key in the store, shape for one image).
    """

    def __init__(self, store: LabelStore, layers: Sequence[dict[str, tuple[str, tuple[int, ...]]]]) -> None:
        self.store, self.layers = store, list(layers)

    @property
    def keys(self) -> list[str]:
        """Keys in the store, in the order that `shaped` takes."""
        return [key for layers in self.layers for key, _ in layers.values()]

    def shaped(self, stored: Sequence[Any]) -> tuple[dict[str, torch.Tensor], ...]:
        """Return the features of a batch, one dictionary per teacher, of the records of its images by each key."""
        records = iter(stored)
        return tuple(
            {name: next(records).features.unflatten(1, shape) for name, (_, shape) in layers.items()}
            for layers in self.layers
        )
