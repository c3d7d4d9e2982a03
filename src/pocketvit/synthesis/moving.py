"""Random moves of a batch while it is optimized or learned, and where each patch of a picture is seen after one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Move:
    """A roll of the whole batch, and a mirror for some of its pictures.

    Attributes:
        down: Pixels.
        right: Pixels.
        flip: bool [B].
    """

    down: int
    right: int
    flip: Tensor

    @classmethod
    def draw(cls, images: Tensor, shift: float, generator: torch.Generator) -> Move:
        """Draw a roll by up to ``shift`` of the side each way, and a random half of pictures [B, 3, S, S] to mirror."""
        most = round(shift * images.shape[-1])
        down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
        flip = torch.rand(len(images), generator=generator) < 0.5
        return cls(down, right, flip.to(images.device))

    def __call__(self, images: Tensor) -> Tensor:
        """Return the pictures [B, 3, S, S] moved."""
        images = images.roll((self.down, self.right), (2, 3))
        return torch.where(self.flip[:, None, None, None], images.flip(3), images)

    def patches(self, patches: Tensor, grid: int, patch: int) -> Tensor:
        """Return the places, int64 [B, K] in a grid of ``grid`` squared, where patches of the picture are seen.

        A roll that is no whole number of patches sets a patch between places: the nearest one is taken.
        """
        rows = (patches // grid + round(self.down / patch)) % grid
        columns = (patches % grid + round(self.right / patch)) % grid
        columns = torch.where(self.flip[:, None], grid - 1 - columns, columns)
        return rows * grid + columns


def moved(images: Tensor, shift: float, generator: torch.Generator) -> Tensor:
    """Roll a batch by up to ``shift`` of its side each way, and mirror a random half of its images."""
    return Move.draw(images, shift, generator)(images)
