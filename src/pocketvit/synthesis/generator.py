"""Networks that make pictures of a class out of noise: one of convolutions, one of attention.

Both are given noise twice: as numbers that become, with the class, a style, which makes the coarse maps that a picture
begins as and is told to every layer; and as a map, so that two pictures of a style differ too. A generator that has
collapsed is cured where these come in (NAYER and Fast begin their first layer anew too).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

Network = Literal["conv", "transformer"]

_NOISE, _MAPS = 64, 4  # numbers of noise for the style; maps of it
_SCATTER = 0.2  # size of these maps: as large as what a style makes, when nothing is learned
_WIDTH = 128  # of a style and of tokens
_WIDEST, _THINNEST = 96, 24  # channels of the coarsest and of the finest maps
_COARSEST = 8  # side of the first maps, about
_GROUPS = 8
_DEPTH, _HEADS = 4, 4  # of attention
_COLOURS = 8  # channels that patches are made of, before a convolution joins them


class Generator(nn.Module):
    """What both networks share: the noise, the style, the first layers, and pixels in 0..1.

    Args:
        classes: C.
        size: S.
        side: Of the map of noise; S divided by it, rounded up, is how many pixels come from a place of it.
        width: Channels that a place begins with.
    """

    def __init__(self, classes: int, size: int, side: int, width: int) -> None:
        super().__init__()
        self.size, self.side = size, side
        self.noise = _NOISE + _MAPS * side**2  # random numbers that a picture is made of
        self.classes = nn.Embedding(classes, _NOISE)
        self.style = nn.Linear(2 * _NOISE, _WIDTH)
        self.start = nn.Linear(_WIDTH, width * side**2)
        self.scatter = nn.Conv2d(_MAPS, width, 3, padding=1)

    def forward(self, noise: Tensor, targets: Tensor) -> Tensor:
        """Make pictures.

        Args:
            noise: float [B, noise], standard normal.
            targets: int64 [B], the wanted classes.

        Returns:
            float [B, 3, S, S] in 0..1.
        """
        style, maps = noise[:, :_NOISE], noise[:, _NOISE:].unflatten(1, (_MAPS, self.side, self.side))
        style = F.silu(self.style(torch.cat([style, self.classes(targets)], 1)))
        maps = self.start(style).unflatten(1, (-1, self.side, self.side)) + self.scatter(_SCATTER * maps)
        # What the last places have too much is cut off.
        return self.paint(maps, style)[..., : self.size, : self.size].sigmoid()

    def paint(self, maps: Tensor, style: Tensor) -> Tensor:
        """Return float [B, 3, S or more, S or more] of maps [B, width, side, side] and styles [B, W]."""
        raise NotImplementedError

    def renew(self) -> list[nn.Parameter]:
        """Begin the first layers anew, which makes all pictures others, and return their weights."""
        layers = (self.classes, self.style, self.start, self.scatter)
        for layer in layers:
            layer.reset_parameters()
        return [weight for layer in layers for weight in layer.parameters()]


class ConvGenerator(Generator):
    """Maps of about 8 x 8, doubled until the picture is there, each time convolved and styled.

    Args:
        classes: C.
        size: S.
    """

    def __init__(self, classes: int, size: int) -> None:
        doublings = max(1, round(math.log2(size / _COARSEST)))
        widths = [max(_THINNEST, _WIDEST >> number) for number in range(doublings + 1)]
        super().__init__(classes, size, -(-size // 2**doublings), widths[0])
        self.styles = nn.ModuleList([Styled(width) for width in widths])
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in pairwise(widths)]
        )
        self.end = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def paint(self, maps: Tensor, style: Tensor) -> Tensor:
        x = self.styles[0](maps, style)
        for convolution, styled in zip(self.convolutions, self.styles[1:], strict=True):
            x = styled(convolution(F.interpolate(x, scale_factor=2)), style)
        return self.end(x)


class Styled(nn.Module):
    """Normalizes maps [B, W, H, H], gives each channel the scale and the shift that the style wants, and cuts off."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, width, affine=False)
        self.wanted = nn.Linear(_WIDTH, 2 * width)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.wanted(style)[..., None, None].chunk(2, 1)
        return F.leaky_relu(torch.addcmul(shift, self.norm(x), 1 + scale), 0.2)


class AttentionGenerator(Generator):
    """Tokens for 8 x 8 patches (14 x 14 from 65 px on) that look at each other and become pixels.

    After the transformer of arXiv 2408.05952's generator, of which no sizes are known to us. The coarse maps tell the
    places apart, and every block is told the style.

    Args:
        classes: C.
        size: S.
    """

    def __init__(self, classes: int, size: int) -> None:
        super().__init__(classes, size, 8 if size <= 64 else 14, _WIDTH)
        self.patch = -(-size // self.side)
        self.styles = nn.ModuleList([nn.Linear(_WIDTH, _WIDTH) for _ in range(_DEPTH)])
        self.blocks = nn.ModuleList([Block(_WIDTH, _HEADS, mlp_ratio=2, qkv_bias=True) for _ in range(_DEPTH)])
        self.norm = nn.LayerNorm(_WIDTH)
        self.pixels = nn.Linear(_WIDTH, _COLOURS * self.patch**2)
        self.end = nn.Conv2d(_COLOURS, 3, 3, padding=1)

    def paint(self, maps: Tensor, style: Tensor) -> Tensor:
        x = maps.flatten(2).transpose(1, 2)
        for told, block in zip(self.styles, self.blocks, strict=True):
            x = block(x + told(style)[:, None])
        patches = self.pixels(self.norm(x)).transpose(1, 2).unflatten(2, (self.side, self.side))
        return self.end(F.pixel_shuffle(patches, self.patch))


def make_generator(network: Network, classes: int, size: int) -> Generator:
    """Make an untrained one, of random weights of torch's own state."""
    return (ConvGenerator if network == "conv" else AttentionGenerator)(classes, size)
