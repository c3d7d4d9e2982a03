"""What a generator has made and the teacher confirmed: as many pictures of each class, the newest ones.

The pictures lie in shards, a shard a round, and are read where they lie; what is held of them follows from the shards
alone, so that a killed run finds its memory again.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .bank import near_duplicates, thumbnails
from .shards import Shards

_OPEN = 256  # shards that are mapped at once


class _Held(NamedTuple):
    shard: int
    row: int
    thumbnail: np.ndarray


class Memory:
    """At most ``quota`` pictures of each class; the oldest of a class go first.

    Args:
        shards: With ``images`` uint8 [n, 3, S, S] and ``targets`` int64 [n], those made before ``rounds`` are taken.
        quota: int64 [C].
        rounds: That are over.
    """

    def __init__(self, shards: Shards, quota: np.ndarray, rounds: int = 0) -> None:
        self.shards, self.quota = shards, quota
        self._held: list[deque[_Held]] = [deque(maxlen=int(most)) for most in quota]
        self._images = lru_cache(_OPEN)(lambda number: shards.read(number)["images"])
        for number in range(rounds):
            if number in shards:
                self.take(number)

    @property
    def held(self) -> np.ndarray:
        """Pictures of each class: int64 [C]."""
        return np.array([len(own) for own in self._held])

    def take(self, number: int) -> None:
        """Hold the pictures of a shard."""
        piece = self.shards.read(number)
        thumbs = thumbnails(np.asarray(piece["images"]))
        for row, label in enumerate(piece["targets"].tolist()):
            self._held[label].append(_Held(number, row, thumbs[row]))

    def alike(self, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return bool [n]: whether a picture of its class that is held, or that comes before it, looks the same."""
        thumbs = thumbnails(images)
        result = np.zeros(len(images), bool)
        for label in np.unique(targets):
            rows = np.flatnonzero(targets == label)
            before = [held.thumbnail for held in self._held[label]]
            every = np.concatenate([np.stack(before), thumbs[rows]]) if before else thumbs[rows]
            result[rows] = near_duplicates(every, first=len(before))[len(before) :]
        return result

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw pictures, the classes that are there as often as each other: uint8 [n, 3, S, S]."""
        present = np.flatnonzero(self.held)
        order = present[torch.randperm(len(present), generator=generator).numpy()]
        chances = torch.rand(count, generator=generator).tolist()
        drawn = [
            self._held[label][int(chance * len(self._held[label]))]
            for label, chance in zip(np.resize(order, count), chances, strict=True)
        ]
        return torch.from_numpy(np.stack([self._images(held.shard)[held.row] for held in drawn]))

    def rows(self) -> dict[int, np.ndarray]:
        """Rows of each shard that are held, both in their order."""
        found: dict[int, list[int]] = {}
        for own in self._held:
            for held in own:
                found.setdefault(held.shard, []).append(held.row)
        return {number: np.sort(found[number]) for number in sorted(found)}
