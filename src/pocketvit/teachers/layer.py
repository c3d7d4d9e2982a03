"""A teacher's layer as a teacher of its own: its maps are stored as logits are, per view and never transformed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..models.taps import Layers, Taps
from .teacher import Teacher


class LayerTeacher:
    """What labelling needs of a teacher, answering with the flattened output of one layer.

    Attributes:
        name: ``TEACHER@LAYER``.
        shape: of the layer's output for one image.
        num_outputs: its number of values.
        kind: "features".
    """

    kind = "features"

    def __init__(self, teacher: Teacher, layer: str, layers: Layers) -> None:
        self.teacher, self.layer = teacher, layer
        self.name = f"{teacher.name}@{layer}"
        shape = layers.shapes[layer]
        # As the module returns it: Layers lists maps channels first.
        nhwc = len(shape) == 3 and getattr(teacher.module, "output_fmt", "NCHW") == "NHWC"
        self.shape = (shape[1], shape[2], shape[0]) if nhwc else tuple(shape)
        self.num_outputs = int(torch.Size(self.shape).numel())
        self.input_size = teacher.input_size

    @property
    def device(self) -> torch.device:
        return self.teacher.device

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The teacher's, without what its classes are called, and the layer."""
        parts = {name: value for name, value in self.teacher.fingerprint.items() if name != "columns"}
        return parts | {"layer": self.layer, "shape": list(self.shape)}

    def logits(self, pixels: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> float32 [B, num_outputs]."""
        taps = Taps(self.teacher.module, [self.layer])
        try:
            self.teacher.logits(pixels)
        finally:
            taps.remove()
        return taps.take()[self.layer].float().flatten(1)

    def check_unchanged(self) -> None:
        self.teacher.check_unchanged()
