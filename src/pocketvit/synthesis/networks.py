"""Networks that make images: from noise and a class to a picture."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

_NEGATIVE_SLOPE = 0.2


class Generator(nn.Module):
    """Noise and a class to a picture: a linear layer to a small map, then doublings with convolutions (as in DAFL).

    GroupNorm and not BatchNorm, so that a picture depends on its own noise alone.

    Args:
        size: side of the pictures, in pixels.
        classes: of the teacher.
        latent: numbers of noise.
        width: channels of the last stage; the first has up to four times as many.
    """

    def __init__(self, size: int, classes: int, latent: int = 64, width: int = 32) -> None:
        super().__init__()
        self.size, self.latent = size, latent
        doublings, base = 2, -(-size // 4)
        while base > 8:
            doublings, base = doublings + 1, -(-base // 2)
        widths = [min(4, 2 ** (doublings - stage)) * width for stage in range(doublings + 1)]
        self.base, first = base, widths[0]
        self.classes = nn.Embedding(classes, latent)
        self.first = nn.Linear(2 * latent, first * base * base)
        stages: list[nn.Module] = [nn.GroupNorm(8, first)]
        for before, after in pairwise(widths):
            stages += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(before, after, 3, padding=1),
                nn.GroupNorm(8, after),
                nn.LeakyReLU(_NEGATIVE_SLOPE),
            ]
        self.stages = nn.Sequential(*stages)
        self.last = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, noise: Tensor, classes: Tensor) -> Tensor:
        """[B, latent] and int64 [B] -> [B, 3, S, S] in 0..1."""
        x = self.first(torch.cat([noise, self.classes(classes)], 1)).unflatten(1, (-1, self.base, self.base))
        x = self.last(self.stages(x))
        over = x.shape[-1] - self.size
        x = x[..., over // 2 : over // 2 + self.size, over // 2 : over // 2 + self.size]
        return x.sigmoid()

    def renew(self, generator: torch.Generator) -> None:
        """Draw the first layer anew: what it had collapsed to is forgotten (as Fast-DataFree and NAYER do)."""
        for tensor in (self.first.weight, self.classes.weight):
            with torch.no_grad():
                std = tensor.shape[1] ** -0.5 if tensor is self.first.weight else 1.0
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)
