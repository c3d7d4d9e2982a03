"""Records of which an image has any number: laid end to end, with offsets that say which are whose.

Shape legend: B images, M items of all of them together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

OFFSETS = "offsets"  # name of the array that says so: int64 [B + 1], image b has the items offsets[b] to offsets[b + 1]


class RaggedLabels:
    """What was said about B images, any number of items each.

    Attributes:
        offsets: int64 [B + 1].
        items: Name -> [M, ...], in the types that are stored.
    """

    def __init__(self, offsets: Tensor, items: Mapping[str, Tensor]) -> None:
        self.offsets, self.items = offsets, dict(items)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        """The items of one image."""
        start, end = self.offsets[row : row + 2].tolist()
        return {name: tensor[start:end] for name, tensor in self.items.items()}

    @property
    def rows(self) -> Tensor:
        """int64 [M], the image of each item."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.offsets.diff())

    def index(self, rows: Tensor | np.ndarray) -> Self:
        """Gather images: int64 [B]."""
        rows = torch.as_tensor(rows).to(self.offsets.device)
        lengths = self.offsets.diff()[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        shift = torch.repeat_interleave(self.offsets[rows] - offsets[:-1], lengths)
        places = shift + torch.arange(len(shift), device=shift.device)
        return self._with(offsets, {name: tensor[places] for name, tensor in self.items.items()})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Move to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Copy to page-locked memory, from where transfers do not block."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return self._with(function(self.offsets), {name: function(tensor) for name, tensor in self.items.items()})

    def _with(self, offsets: Tensor, items: dict[str, Tensor]) -> Self:
        other = copy.copy(self)
        other.offsets, other.items = offsets, items
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, {int(self.offsets[-1])} items)"


def places(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return where the items of some images lie, in the order of ``rows``: int64 [their number]."""
    lengths = offsets[rows + 1] - offsets[rows]
    ends = np.cumsum(lengths)
    return np.repeat(offsets[rows] - (ends - lengths), lengths) + np.arange(int(ends[-1]) if len(ends) else 0)


def concatenate(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Lay arrays of consecutive images end to end; `OFFSETS`, where there are any, count on."""
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != OFFSETS}
    if OFFSETS in parts[0]:
        lengths = np.concatenate([np.diff(part[OFFSETS]) for part in parts])
        whole[OFFSETS] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return whole
