"""A teacher's layers as teachers of their own: what they return is stored as its answers are, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..models.taps import Layers, Taps, channels_last
from .teacher import Teacher


class HeardTeacher:
    """A teacher that keeps what its layers returned on the last pictures; in all else it is the teacher.

    Attributes:
        teacher: As it was.
        names: Module paths of the layers.
    """

    def __init__(self, teacher: Teacher, names: Sequence[str]) -> None:
        self.teacher, self.names = teacher, tuple(names)
        self._last: tuple[Tensor | None, dict[str, Tensor]] = (None, {})

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__dict__["teacher"], name)
        return partial(self._hear, value) if name in ("logits", "detect") else value

    def layer(self, name: str, pixels: Tensor) -> Tensor:
        """Return what a layer makes of pictures, as its module returns it."""
        if self._last[0] is not pixels:
            self.logits(pixels)
        return self._last[1][name]

    def _hear(self, answer: Callable[[Tensor], Any], pixels: Tensor) -> Any:
        taps = Taps(self.teacher.module, self.names)
        try:
            given = answer(pixels)
        finally:
            taps.remove()
        self._last = (pixels, taps.take())
        return given


class LayerTeacher:
    """What labelling needs of a teacher, answering with the flattened output of one layer.

    Attributes:
        name: ``TEACHER@LAYER``.
        shape: of the layer's output for one image.
        num_outputs: its number of values.
        kind: "layer".
    """

    kind = "layer"

    def __init__(self, teacher: HeardTeacher, layer: str, layers: Layers) -> None:
        self.teacher, self.layer = teacher, layer
        self.name = f"{teacher.name}@{layer}"
        shape = layers.shapes[layer]
        # As the module returns it: Layers lists maps channels first.
        nhwc = len(shape) == 3 and channels_last(teacher.module)
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
        return parts | {"layer": self.layer, "shape": list(self.shape), "stored": self.kind}

    def logits(self, pixels: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> float32 [B, num_outputs]."""
        return self.teacher.layer(self.layer, pixels).float().flatten(1)

    def check_unchanged(self) -> None:
        self.teacher.check_unchanged()


def heard(teacher: Teacher, layers: Layers, names: Sequence[str]) -> list[LayerTeacher]:
    """Return layers of a teacher that answer pictures in one forward pass, and with them their ``teacher``."""
    one = HeardTeacher(teacher, names)
    return [LayerTeacher(one, name, layers) for name in names]
