"""Detections as records: any number of boxes per image, each with the logits of every class.

Shape legend: B images, n boxes of one image, M boxes of all of them, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import PocketError
from .ragged import OFFSETS, RaggedLabels, concatenate
from .record import Field, Record, register_record

DEFAULT_BOXES = 100  # per image
_ONE = 65_535  # a side of the view, in stored units


class BoxLabels(RaggedLabels):
    """Boxes of B images, in the order in which the detector gave them; `rows` says whose each is.

    Attributes:
        activation: See `Boxes`.
        unknown: Classes that the detector does not know, and so says nothing of.
    """

    def __init__(
        self,
        offsets: Tensor,
        items: Mapping[str, Tensor],
        activation: str = "sigmoid",
        unknown: tuple[int, ...] = (),
    ) -> None:
        super().__init__(offsets, items)
        self.activation, self.unknown = activation, unknown

    @property
    def boxes(self) -> Tensor:
        """float32 [M, 4]: centre x, centre y, width, height, as shares of the view's side."""
        return (self.items["boxes"].to(torch.int32) & 0xFFFF).float() / _ONE

    @property
    def corners(self) -> Tensor:
        """float32 [M, 4], likewise: left, top, right, bottom."""
        middle, half = self.boxes[:, :2], self.boxes[:, 2:] / 2
        return torch.cat([middle - half, middle + half], 1)

    @property
    def logits(self) -> Tensor:
        """float32 [M, C], before the activation (and one more for "no object" behind a softmax)."""
        return self.items["logits"].float()

    @property
    def probabilities(self) -> Tensor:
        """float32 [M, C]."""
        return self.logits.sigmoid() if self.activation == "sigmoid" else self.logits.softmax(1)[:, :-1]


@register_record
@dataclass(frozen=True)
class Boxes(Record):
    """The boxes that a detector finds in a view: fractions of its side in 16 bits, logits in fp16.

    The teacher answers ``detect(pixels)`` with (boxes floating [n, 4], logits floating [n, C]) for each image: centre,
    width and height as shares of the view's side, and logits before the activation.

    Attributes:
        k: Most boxes of an image, the likeliest; 0 is all.
        activation: "sigmoid", or "softmax" with "no object" as the last class.
        least: Boxes whose likeliest class has less than this probability are left out.
        unknown: Numbers of the classes that the teacher does not know, with commas between.
    """

    kind = "boxes"
    activation: str = "sigmoid"
    least: float = 0.01
    unknown: str = ""

    @classmethod
    def of(cls, teacher: Any, k: int | None) -> Boxes:
        unknown = ",".join(map(str, getattr(teacher, "unknown", ())))
        activation = getattr(teacher, "activation", "sigmoid")
        return cls(teacher.num_outputs, DEFAULT_BOXES if k is None else k, activation, unknown=unknown)

    def fields(self) -> dict[str, Field]:
        width = self.num_classes + (self.activation == "softmax")
        return {"boxes": Field(np.uint16, (4,), ragged=True), "logits": Field(np.float16, (width,), ragged=True)}

    def ask(self, teacher: Any, pixels: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        return teacher.detect(pixels)

    def encode(self, outputs: Sequence[tuple[Tensor, Tensor]], targets: Tensor) -> dict[str, np.ndarray]:
        if len(outputs) != len(targets):
            raise PocketError(f"returned the boxes of {len(outputs)} images for {len(targets)}.")
        return concatenate([self._encode_one(boxes.float().cpu(), logits.float().cpu()) for boxes, logits in outputs])

    def _encode_one(self, boxes: Tensor, logits: Tensor) -> dict[str, np.ndarray]:
        width = self.fields()["logits"].shape[0]
        if tuple(boxes.shape) != (len(boxes), 4) or tuple(logits.shape) != (len(boxes), width):
            raise PocketError(
                f"returned boxes {list(boxes.shape)} with logits {list(logits.shape)}, not [n, 4] with [n, {width}]."
            )
        scores = self.scores(logits)
        kept = scores.topk(min(self.k, len(scores))).indices if self.k else torch.arange(len(scores))
        kept = kept[~(scores[kept] < self.least)].sort().values  # NaN stays, and stops the labelling
        return {
            OFFSETS: np.array([0, len(kept)], np.int64),
            "boxes": (boxes[kept].clamp(0, 1) * _ONE).round().numpy().astype(np.uint16),
            "logits": logits[kept].half().numpy(),
        }

    def scores(self, logits: Tensor) -> Tensor:
        """Probability of the likeliest class, [n]."""
        if not len(logits):
            return logits.new_empty(0)
        likely = logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(1)[:, :-1]
        return likely.amax(1)

    def empty(self, images: int, offsets: np.ndarray | None) -> tuple[BoxLabels, dict[str, np.ndarray]]:
        assert offsets is not None
        count, width = int(offsets[-1]), self.fields()["logits"].shape[0]
        boxes = torch.empty((count, 4), dtype=torch.int16)  # bits of uint16, which few torch operations know
        logits = torch.empty((count, width), dtype=torch.float16)
        unknown = tuple(map(int, self.unknown.split(","))) if self.unknown else ()
        labels = BoxLabels(torch.from_numpy(offsets), {"boxes": boxes, "logits": logits}, self.activation, unknown)
        return labels, {"boxes": boxes.numpy().view(np.uint16), "logits": logits.numpy()}

    def difference(self, stored: BoxLabels, outputs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The worst box of each image, of those stored and those found now: how far the nearest of the others is.

        A box without a counterpart counts no more than its score lies above what is left out on the other side: at the
        threshold, rounding decides whether it is there.
        """
        live = self.encode(outputs, torch.zeros(len(outputs), 2))
        now, arrays = self.empty(len(outputs), live[OFFSETS])
        for name, array in arrays.items():
            array[:] = live[name]
        return torch.tensor([self._difference_one(_image(stored, row), _image(now, row)) for row in range(len(now))])

    def _difference_one(self, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
        scale = max([1.0, *(float(logits.abs().max()) for _, logits in (one, other) if len(logits))])
        boxes, logits = (torch.cdist(a, b, p=torch.inf) for a, b in zip(one, other, strict=True))
        apart = torch.maximum(boxes, logits / scale)
        worst = 0.0
        for (_, mine), (_, theirs), table in ((one, other, apart), (other, one, apart.T)):
            if not len(mine):
                continue
            full = self.k and len(theirs) == self.k
            bound = float(self.scores(theirs).min()) if full else self.least
            cost = (self.scores(mine) - bound).clamp_min(0)
            if len(theirs):
                cost = torch.minimum(cost, table.amin(1))
            worst = max(worst, float(cost.max()))
        return worst

    def text(self) -> str:
        return f"{f'at most {self.k}' if self.k else 'all'} boxes with {self.num_classes} logits each"


def _image(labels: BoxLabels, row: int) -> tuple[Tensor, Tensor]:
    part = labels.index(torch.tensor([row]))
    return part.boxes, part.logits
