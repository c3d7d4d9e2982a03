"""Where the features come from that terms compare: live teachers on the very pixels of each batch, or a store."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..labels import LabelStore, SoftLabels
from ..models.taps import Taps
from ..teachers import Teacher
from .feed import Batch


class LiveFeatures:
    """Runs teachers on a batch's pixels, recording layers; the same forward pass gives their logits.

    Args:
        teachers: Frozen, in evaluation mode.
        layers: Module paths to record, one list a teacher.
    """

    def __init__(self, teachers: Sequence[Teacher], layers: Sequence[Sequence[str]]) -> None:
        self.teachers = tuple(teachers)
        self.layers = [tuple(names) for names in layers]

    def __call__(self, batch: Batch) -> tuple[tuple[SoftLabels, ...], tuple[dict[str, torch.Tensor], ...]]:
        """Return the teachers' labels and features (layer -> output) for a batch, one of each a teacher."""
        seen = [self._look(teacher, names, batch) for teacher, names in zip(self.teachers, self.layers, strict=True)]
        return tuple(soft for soft, _ in seen), tuple(features for _, features in seen)

    @staticmethod
    def _look(teacher: Teacher, names: tuple[str, ...], batch: Batch) -> tuple[SoftLabels, dict[str, torch.Tensor]]:
        taps = Taps(teacher.module, names)
        try:
            logits = teacher.logits(batch.pixels)
        finally:
            taps.remove()
        return SoftLabels(logits=logits, num_classes=logits.shape[1]), taps.take()


class StoredFeatures:
    """Reads layers from a store that `LayerTeacher` wrote, at the batch's very view; a whole view is held in memory.

    Args:
        store: Holds a teacher each for the layers.
        layers: One dictionary a teacher: layer -> (its key in the store, shape for one image).
    """

    def __init__(self, store: LabelStore, layers: Sequence[dict[str, tuple[str, tuple[int, ...]]]]) -> None:
        self.store, self.layers = store, list(layers)

    def __call__(self, batch: Batch) -> tuple[tuple[SoftLabels, ...], tuple[dict[str, torch.Tensor], ...]]:
        """Return no labels, and the features of a batch: one dictionary a teacher."""
        return (), tuple(
            {name: self._read(key, batch).unflatten(1, shape) for name, (key, shape) in layers.items()}
            for layers in self.layers
        )

    def _read(self, key: str, batch: Batch) -> torch.Tensor:
        flat = self.store.read(key, batch.view).index(batch.positions.cpu()).logits
        assert flat is not None
        return flat.to(batch.pixels.device)
