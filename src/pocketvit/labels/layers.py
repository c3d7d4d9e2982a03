"""What a teacher's layer returned, as a record: int8 with one scale an image, a quarter of what float32 takes.

Shape legend: B images, N values of a layer's output for one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import PocketError
from .record import Field, Record, register_record
from .soft import gather

_MOST = 127  # symmetric: -128 is not used


class LayerLabels:
    """The flattened output of a layer for B images.

    Attributes:
        values: int8 [B, N].
        scale: float32 [B]: of a step, so that half of it is the largest error.
    """

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        self.values, self.scale = values, scale

    @property
    def features(self) -> Tensor:
        """float32 [B, N]."""
        return self.values.float() * self.scale[:, None]

    def index(self, rows: Tensor | np.ndarray) -> LayerLabels:
        """Gather images: int64 [B]."""
        rows = torch.as_tensor(rows)
        return LayerLabels(gather(self.values, rows), self.scale[rows])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> LayerLabels:
        """Move to a device."""
        return LayerLabels(*(part.to(device, non_blocking=non_blocking) for part in (self.values, self.scale)))

    def pin_memory(self) -> LayerLabels:
        """Copy to page-locked memory, from where transfers do not block."""
        return LayerLabels(self.values.pin_memory(), self.scale.pin_memory())

    def __len__(self) -> int:
        return len(self.values)


@register_record
@dataclass(frozen=True)
class Layer(Record):
    """The flattened output of a layer, rounded to 255 steps of the largest value that an image has in it."""

    kind = "layer"
    per_class = False

    @classmethod
    def of(cls, teacher: Any, k: int | None) -> Layer:
        return cls(teacher.num_outputs)

    def fields(self) -> dict[str, Field]:
        return {"values": Field(np.int8, (self.num_classes,)), "scale": Field(np.float32)}

    def encode(self, outputs: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
        if tuple(outputs.shape) != (len(targets), self.num_classes):
            raise PocketError(
                f"returned features of shape {tuple(outputs.shape)}, not {(len(targets), self.num_classes)}."
            )
        scale = outputs.abs().amax(1) / _MOST
        steps = outputs / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        # What is not finite stays so in the scale, and is refused there.
        values = steps.nan_to_num().round().clamp(-_MOST, _MOST).to(torch.int8)
        return {"values": values.cpu().numpy(), "scale": scale.cpu().numpy()}

    def empty(self, images: int, offsets: np.ndarray | None) -> tuple[LayerLabels, dict[str, np.ndarray]]:
        values = torch.empty((images, self.num_classes), dtype=torch.int8)
        scale = torch.empty(images)
        return LayerLabels(values, scale), {"values": values.numpy(), "scale": scale.numpy()}

    def difference(self, stored: LayerLabels, outputs: Tensor) -> Tensor:
        """Largest difference beyond what rounding explains, over the largest value."""
        live = outputs.float().cpu()
        beyond = (stored.features - live).abs().amax(1) - stored.scale / 2
        return beyond.clamp_min(0) / live.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)

    def text(self) -> str:
        return f"{self.num_classes} features in int8"
