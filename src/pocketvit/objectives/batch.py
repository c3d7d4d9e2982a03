"""The batch that a training step takes, and that losses read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_TENSORS = ("pixels", "targets", "partner_targets", "ratio", "positions")


@dataclass
class Batch:
    """One rank's share of a batch, on the training device.

    Attributes:
        pixels: uint8 [B, 3, S, S] views.
        targets: [B, ...] of the images, as their source has them: int64 [B] classes, -1 where unknown; int64 [B, C] of
            0 and 1; or what else the task calls a target.
        partner_targets: Likewise, of the images they are mixed with (the own ones when unmixed).
        ratio: float32 [B] weight of the own target in (0, 1].
        soft: Labels of each teacher, rows as in ``pixels``: `labels.SoftLabels`, or what its kind of record is.
        positions: int64 [B] positions in the source.
        total: Images of this batch over all ranks.
        view: Of the images.
        features: One dictionary per teacher, layer -> its output for ``pixels``; only where terms compare features.
        average: Logits of every head of the student's weight average; only where a term looks at them.
        progress: Share of the training that was done before this batch, 0 to 1.
    """

    pixels: Tensor
    targets: Tensor
    partner_targets: Tensor
    ratio: Tensor
    soft: tuple[Any, ...]
    positions: Tensor
    total: int = 0
    view: int = 0
    features: tuple[dict[str, Tensor], ...] = ()
    average: tuple[Tensor, ...] = ()
    progress: float = 0.0

    def __len__(self) -> int:
        return len(self.pixels)

    def pin_memory(self) -> Batch:
        """Copy everything to page-locked memory, from where transfers do not block."""
        return self._map(lambda part: part.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``; copies from pinned memory do not wait."""
        return self if device.type == "cpu" else self._map(lambda part: part.to(device, non_blocking=True))

    def _map(self, function: Any) -> Batch:
        return dataclasses.replace(
            self,
            **{name: function(getattr(self, name)) for name in _TENSORS},
            soft=tuple(map(function, self.soft)),
            features=tuple({name: function(part) for name, part in layers.items()} for layers in self.features),
        )
