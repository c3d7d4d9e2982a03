"""What a teacher said about some samples, in memory: all logits, or the top k with what stands in for the rest.

Shape legend: B samples, C classes, k stored classes.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import torch
from torch import Tensor


class SoftLabels(ABC):
    """A teacher's logits for B samples: `FullLabels` or `TopLabels`.

    All of a sample is one row of one tensor in the types that are stored, so that a gather or a transfer to the device
    moves few bytes, once. Numbers become float32 and int64 when they are looked at.

    Attributes:
        num_classes: C.
        full: Whether the logits of all classes are here.
    """

    full: bool

    def __init__(self, rows: Tensor, num_classes: int) -> None:
        self._rows = rows
        self.num_classes = num_classes

    @property
    @abstractmethod
    def top1(self) -> Tensor:
        """The teacher's class, int64 [B]."""

    def index(self, rows: Tensor | np.ndarray) -> Self:
        """Gather samples: int64 [B]."""
        return self._with(gather(self._rows, torch.as_tensor(rows)))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Move to a device."""
        return self._with(self._rows.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Copy to page-locked memory, from where transfers do not block."""
        return self._with(self._rows.pin_memory())

    def _with(self, rows: Tensor) -> Self:
        other = copy.copy(self)
        other._rows = rows
        return other

    def __len__(self) -> int:
        return len(self._rows)


class FullLabels(SoftLabels):
    """The logits of all classes, floating [B, C]."""

    full = True

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits, logits.shape[1])

    @property
    def stored(self) -> Tensor:
        """[B, C] as they are held."""
        return self._rows

    @property
    def logits(self) -> Tensor:
        """float32 [B, C]."""
        return self._rows.float()

    @property
    def top1(self) -> Tensor:
        return self._rows.argmax(1)

    def __repr__(self) -> str:
        return f"FullLabels({len(self)} samples, {self.num_classes} classes)"


class TopLabels(SoftLabels):
    """The k largest logits, relative to the largest, and two numbers for the other C - k.

    The log-probability of class ``ids[b, j]`` at temperature 1 is
    ``values[b, j] - logaddexp(logsumexp(values[b]), lse_rest[b])``.

    Args:
        rows: int16 [B, words], in each: three float32, then the ids, then the values (see `columns`).
        num_classes: C.
        k: Stored classes.
    """

    full = False

    def __init__(self, rows: Tensor, num_classes: int, k: int) -> None:
        super().__init__(rows, num_classes)
        self.k = k

    @classmethod
    def empty(cls, samples: int, num_classes: int, k: int) -> TopLabels:
        """Room for samples, to be filled through `columns`."""
        words = 6 + k * (1 + _id_type(num_classes).itemsize // 2)
        return cls(torch.empty((samples, words + words % 2), dtype=torch.int16), num_classes, k)

    def columns(self) -> dict[str, Tensor]:
        """The stored tensors, as views: float32 [B] three times, 16- or 32-bit ids [B, k], fp16 values [B, k]."""
        numbers = self._rows[:, :6].view(torch.float32)
        kind = _id_type(self.num_classes)
        end = 6 + self.k * kind.itemsize // 2
        return {
            "maximum": numbers[:, 0],
            "lse_rest": numbers[:, 1],
            "mean_rest": numbers[:, 2],
            "ids": self._rows[:, 6:end].view(kind),
            "values": self._rows[:, end : end + self.k].view(torch.float16),
        }

    @property
    def ids(self) -> Tensor:
        """int64 [B, k], the classes of `values`, best first."""
        ids = self.columns()["ids"]
        wide = ids.to(torch.int64)
        # uint16 is carried as int16, because few torch operations know uint16: undo the sign.
        return wide & 0xFFFF if ids.dtype == torch.int16 and self.num_classes > 2**15 else wide

    @property
    def values(self) -> Tensor:
        """float32 [B, k], logit minus the sample's maximum logit, in falling order."""
        return self.columns()["values"].float()

    @property
    def maximum(self) -> Tensor:
        """float32 [B], the largest logit."""
        return self.columns()["maximum"]

    @property
    def lse_rest(self) -> Tensor:
        """float32 [B], log-sum-exp of (logit - maximum) over the other C - k classes."""
        return self.columns()["lse_rest"]

    @property
    def mean_rest(self) -> Tensor:
        """float32 [B], the mean of (logit - maximum) over them."""
        return self.columns()["mean_rest"]

    @property
    def top1(self) -> Tensor:
        return self.ids[:, 0]

    def __repr__(self) -> str:
        return f"TopLabels({len(self)} samples, top {self.k} of {self.num_classes} classes)"


def gather(rows: Tensor, chosen: Tensor) -> Tensor:
    """Rows of a tensor. On a processor by numpy: one thread, which shares the cores better with a training step."""
    if rows.device.type == "cpu" and chosen.device.type == "cpu":
        return torch.from_numpy(rows.numpy().take(chosen.numpy(), axis=0))
    return rows.index_select(0, chosen.to(rows.device))


def encode_topk(logits: Tensor, k: int, true_classes: Tensor | None = None) -> TopLabels:
    """Keep the k largest logits of each sample, the true classes always among them, and sum up the rest.

    Args:
        logits: floating [B, C].
        k: at least 2 and below C; above m, so that the teacher's own class is kept beside the true ones.
        true_classes: int64 [B, m] with m < k, -1 where unknown; their ids are kept whatever their logits.
    """
    tensors = topk_tensors(logits, k, true_classes)
    labels = TopLabels.empty(len(logits), logits.shape[1], k)
    for name, column in labels.columns().items():
        column.copy_(tensors[name])
    return labels


def topk_tensors(logits: Tensor, k: int, true_classes: Tensor | None = None) -> dict[str, Tensor]:
    """Return what `encode_topk` keeps, in the types that are stored, and "std_rest", the rest's deviation [B]."""
    logits = logits.float()
    classes = logits.shape[1]
    if not 2 <= k < classes:
        raise ValueError(f"k must lie between 2 and {classes - 1}, not {k}")
    rank_BC = logits
    if true_classes is not None:
        rank_BC = logits.clone()
        for column in true_classes.to(logits.device).unbind(1):
            known = (column >= 0).nonzero()[:, 0]
            rank_BC[known, column[known]] = math.inf
    ids_Bk = rank_BC.topk(k, dim=1).indices
    maximum_B1 = logits.amax(1, keepdim=True)
    shifted_BC = logits - maximum_B1
    values_Bk, place_Bk = shifted_BC.gather(1, ids_Bk).sort(dim=1, descending=True, stable=True)
    ids_Bk = ids_Bk.gather(1, place_Bk)
    kept_BC = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids_Bk, True)
    count = classes - k
    mean_B1 = shifted_BC.masked_fill(kept_BC, 0).sum(1, keepdim=True) / count
    variance_B = (shifted_BC - mean_B1).masked_fill(kept_BC, 0).square().sum(1) / count
    kind = _id_type(classes)
    return {
        "ids": (torch.where(ids_Bk >= 2**15, ids_Bk - 2**16, ids_Bk) if kind == torch.int16 else ids_Bk).to(kind),
        "values": values_Bk.clamp_min(torch.finfo(torch.float16).min).half(),
        "maximum": maximum_B1[:, 0],
        "lse_rest": shifted_BC.masked_fill(kept_BC, -math.inf).logsumexp(1),
        "mean_rest": mean_B1[:, 0],
        "std_rest": variance_B.sqrt(),
    }


def decode(soft: SoftLabels, temperature: float = 1.0) -> Tensor:
    """Return logits float32 [B, C]; where only the top k is stored, the rest is one level per sample.

    That level is ``m + (l - m) / T`` with m the mean of the rest and l = lse_rest - log(C - k). At temperature 1 it is
    l, which gives the rest its exact total probability; at high temperatures it tends to the mean, which is exact
    there; between, it is exact when the rest is normal (log mean exp(z / T) = m / T + variance / (2 T^2)).
    """
    if isinstance(soft, FullLabels):
        return soft.logits
    assert isinstance(soft, TopLabels)
    mean = soft.mean_rest
    even = soft.lse_rest - math.log(soft.num_classes - soft.k)
    level = mean + (even - mean) / temperature
    logits = level[:, None].repeat(1, soft.num_classes).scatter_(1, soft.ids, soft.values)
    return logits + soft.maximum[:, None]


def _id_type(num_classes: int) -> torch.dtype:
    return torch.int16 if num_classes <= 2**16 else torch.int32
