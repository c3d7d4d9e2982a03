"""A replay memory: the last images of every class, so that a student keeps what a generator no longer makes."""

from __future__ import annotations

import torch
from torch import Tensor


class Memory:
    """Images of balanced classes, resident as uint8; where it is full the commonest class loses its oldest.

    Args:
        capacity: images, at most.
        size: side of an image in pixels.
    """

    def __init__(self, capacity: int, size: int) -> None:
        self.capacity = capacity
        self.images = torch.empty(0, 3, size, size, dtype=torch.uint8)  # oldest first
        self.classes = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def add(self, images: Tensor, classes: Tensor) -> None:
        """Add uint8 [n, 3, S, S] of classes int64 [n]."""
        self.images = torch.cat([self.images, images])
        self.classes = torch.cat([self.classes, classes])
        if len(self.images) > self.capacity:
            kept = balanced_newest(self.classes, self.capacity)
            self.images, self.classes = self.images[kept], self.classes[kept]

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return uint8 [count, 3, S, S], every class that is there as often as any other."""
        present, numbers = self.classes.unique(return_inverse=True)
        order = torch.argsort(numbers, stable=True)
        sizes = numbers.bincount()
        starts = sizes.cumsum(0) - sizes
        which = torch.arange(count) % len(present)
        inside = (torch.rand(count, generator=generator) * sizes[which]).long()
        return self.images[order[starts[which] + inside]]

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        return {"images": self.images, "classes": self.classes}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.images, self.classes = tensors["images"], tensors["classes"]


def balanced_newest(classes: Tensor, count: int) -> Tensor:
    """Return the positions of ``count`` entries, in order: the newest of each class, no class above a common cap.

    Args:
        classes: int64 [n], oldest first.
        count: at most n.
    """
    age = torch.empty_like(classes)  # 0 for the newest of its class
    for label in classes.unique():
        rows = (classes == label).nonzero()[:, 0]
        age[rows] = torch.arange(len(rows) - 1, -1, -1)
    # By age and then by position: whole rounds of one image a class, the newest first.
    order = torch.argsort(age * len(classes) - torch.arange(len(classes)))
    return order[:count].sort().values
