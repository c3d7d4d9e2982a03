"""How a picture becomes what a network takes: one description, written into every artefact and read from it everywhere.

A student folder, an ONNX file and ``device.zip`` all carry a `Preprocessing`; prediction, benchmarks, export and the
model card feed a network by it, so that none of them can answer otherwise than another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..config import Resample, ViewConfig
from ..errors import PocketError
from ..sources.decode import to_rgb8, without_alpha
from ..sources.tiles import SMALLEST, cut_tiles
from .render import Views
from .resize import to_input

Aspect = Literal["crop", "pad", "stretch"]
Input = tuple[int, Sequence[float], Sequence[float]]
"""What a network is fed: side of the square in pixels, and the mean and standard deviation of each channel (of 1)."""

_LARGEST = 4096  # pixels: no view and no input is larger
_LARGEST_TILE = 16_384
_FILLED = 0.25  # share of the window below which a picture is suspiciously dark (a 12-bit picture on 16-bit: 0.06)
_OUTSIDE = 0.1  # share of the values beyond the window above which too much is cut off


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded picture of any size and depth to a network's input.

    A picture becomes 8-bit RGB (`window`), is cut into squares (`tile`) or is one, becomes a square view (`view_size`,
    `aspect`, `resample`, `lobes`), and is resized to the network's input (`input_size`, Lanczos) and normalized.

    Raises:
        PocketError: A value is out of range.
    """

    view_size: int  # side in pixels of the uint8 view
    input_size: int  # side in pixels of what the network sees; as a rule that of the view
    mean: tuple[float, ...]  # of each channel, of values in 0..1
    std: tuple[float, ...]
    resample: Resample = "lanczos"
    lobes: int = 5  # of the Lanczos kernel
    aspect: Aspect = "crop"  # how other shapes become square
    window: tuple[float, float] | None = None  # intensities that become 0 and 255 in what is not 8-bit
    tile: int | None = None  # side in pixels of the squares that a picture is cut into; their answers are averaged

    def __post_init__(self) -> None:
        for name in ("view_size", "input_size"):
            side = getattr(self, name)
            if type(side) is not int or not 1 <= side <= _LARGEST:
                raise PocketError(f"preprocessing: {name} must be between 1 and {_LARGEST} pixels, not {side!r}.")
        numbers = (*self.mean, *self.std)
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(math.isfinite, numbers)) or min(self.std) <= 0:
            raise PocketError(
                f"preprocessing: mean and std need three numbers each and std above 0, not {self.mean} and {self.std}."
            )
        if self.window is not None and not self.window[0] < self.window[1]:
            raise PocketError(f"preprocessing: a window runs from a lower to a higher intensity, not {self.window}.")
        if self.tile is not None and (type(self.tile) is not int or not SMALLEST <= self.tile <= _LARGEST_TILE):
            raise PocketError(
                f"preprocessing: tiles have {SMALLEST} to {_LARGEST_TILE} pixels a side, not {self.tile!r}."
            )
        if self.aspect not in ("crop", "pad", "stretch"):
            raise PocketError(f"preprocessing: aspect must be crop, pad or stretch, not {self.aspect!r}.")
        if self.resample not in ("lanczos", "bicubic", "bilinear", "nearest") or not 1 <= self.lobes <= 16:
            raise PocketError(f"preprocessing: there is no kernel {self.resample!r} with {self.lobes} lobes.")

    @classmethod
    def of(
        cls,
        view: ViewConfig,
        input: Input | None = None,
        *,
        window: tuple[float, float] | None = None,
        tile: int | None = None,
    ) -> Preprocessing:
        """Describe what a network is fed that was trained on such views.

        Args:
            view: its ``plain()`` part is used.
            input: of the network; None for one that takes views as they are, in 0..1.
            window: of the images it was trained on, where they are not 8-bit.
            tile: side of the squares they were cut into, if they were.
        """
        size, mean, std = input or (view.view_size, (0.0,) * 3, (1.0,) * 3)
        return cls(
            view_size=view.view_size,
            input_size=size,
            mean=tuple(map(float, mean)),
            std=tuple(map(float, std)),
            resample=view.resample,
            lobes=view.lobes,
            aspect=view.fit,
            window=window,
            tile=tile,
        )

    @classmethod
    def plain(cls, input: Input) -> Preprocessing:
        """Describe a network of which only its input is known: the middle of a picture, at the input's size."""
        return cls.of(ViewConfig(view_size=input[0]), input)

    @property
    def view(self) -> ViewConfig:
        """The view, with nothing random in it."""
        return ViewConfig(view_size=self.view_size, resample=self.resample, lobes=self.lobes, fit=self.aspect)

    @property
    def input(self) -> Input:
        """What the network is fed."""
        return self.input_size, self.mean, self.std

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-like values, every field: a reader in another language needs no defaults."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Any) -> Preprocessing:
        """Read what `to_dict` wrote, by this version or one before; fields that it did not know have their defaults.

        Raises:
            PocketError: it is something else, or a value is out of range.
        """
        try:
            unknown = sorted(set(values) - set(cls.__dataclass_fields__))
            if unknown:  # leaving one out would give other answers, and no word of it
                raise PocketError(
                    f"its preprocessing has {', '.join(unknown)}, which this version does not know: update pocketvit."
                )
            lists = {name: tuple(map(float, values[name])) for name in ("mean", "std")}
            window = values.get("window")
            if window is not None:
                low, high = window
                lists["window"] = (float(low), float(high))
            return cls(**{**values, **lists})
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise PocketError(
                f"its preprocessing cannot be read ({type(error).__name__}: {error}). Write it again with "
                "`pocketvit export`, or copy the file again."
            ) from error

    def to_rgb8(self, picture: np.ndarray) -> np.ndarray:
        """Bring a decoded picture to 8-bit RGB.

        Args:
            picture: [H, W] or [H, W, C] in its native depth, as `sources.decode` gives it.

        Returns:
            uint8 [H, W, 3].

        Raises:
            PocketError: it is not 8-bit and there is no window.
        """
        if picture.dtype != np.uint8 and self.window is None:
            raise PocketError(
                f"is a {picture.dtype} picture, and this model was made from 8-bit ones: say which intensities are "
                "black and white, as --window LOW,HIGH"
            )
        return to_rgb8(picture, self.window)

    def doubts(self, picture: np.ndarray) -> str | None:
        """Say why a decoded picture may not be of the kind that the window was made for, or None.

        A 12-bit picture under the window of 16-bit ones is nearly black, and is answered all the same.
        """
        if picture.dtype == np.uint8 or self.window is None or not picture.size:
            return None
        low, high = self.window
        picture = without_alpha(picture)
        share = (float(np.quantile(picture, 0.999)) - low) / (high - low)
        outside = float(((picture < low) | (picture > high)).mean())
        between = f"the model's window of {low:g} to {high:g}"
        if share < _FILLED:
            return f"fills only {max(share, 0):.0%} of {between}, so that it is nearly black: is it of another depth?"
        if outside > _OUTSIDE:
            return f"has {outside:.0%} of its values outside {between}, which cuts them off: is it of another depth?"
        return None

    def views(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Turn 8-bit pictures into views.

        Args:
            pictures: uint8 [H, W, 3] each, of any sizes.

        Returns:
            uint8 [M, 3, view_size, view_size], one per picture, or those of its tiles one after the other.
        """
        if self.tile is not None:
            pictures = [tile for picture in pictures for tile in cut_tiles(picture, self.tile)]
        return plain_views(pictures, self.view)

    def to_input(self, views: Tensor) -> Tensor:
        """Turn views uint8 [B, 3, V, V] into the network's input float32 [B, 3, S, S]."""
        return to_input(views, self.input_size, self.mean, self.std)


class _Pictures:
    """Pictures in memory, as much of a source as views need."""

    def __init__(self, pictures: Sequence[np.ndarray]) -> None:
        self.ids = np.arange(len(pictures), dtype=np.uint64)
        self._pictures = pictures

    def rgb(self, positions: np.ndarray) -> np.ndarray | list[np.ndarray]:
        chosen = [self._pictures[int(position)] for position in positions]
        return np.stack(chosen) if len({picture.shape for picture in chosen}) == 1 else chosen


def plain_views(pictures: Sequence[np.ndarray], view: ViewConfig) -> Tensor:
    """Render the plain view of pictures in memory.

    Args:
        pictures: uint8 [H, W, 3] each, of any sizes.
        view: its ``plain()`` part is used.

    Returns:
        uint8 [B, 3, view_size, view_size].
    """
    if not len(pictures):
        return torch.empty(0, 3, view.view_size, view.view_size, dtype=torch.uint8)
    return Views(_Pictures(pictures), view.plain()).render(np.arange(len(pictures)), 0).pixels
