"""Preprocessing inside an exported graph: from whole pictures to probabilities.

Crop and resize are slices and products with constant weights, the same as those of `pocketvit.views`; these are
multiples of 2^-14, so that float32 sums are exact and the pixels are equal to the bit. What the crop drops is never
multiplied, and of the weights only the bands that are not zero.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Resample
from ..tasks import Task
from ..views.kernels import nearest_index, weight_matrix
from ..views.preprocessing import Preprocessing
from .signature import Signature

_BLOCK = 32  # output pixels of one product: narrower ones multiply fewer zeros, but are more nodes
_DENSE = 64  # at most this many input pixels: one product


class PictureInput(nn.Module):
    """A network with its preprocessing in front and its task's probabilities behind.

    uint8 [B, H, W, 3] to float32 [B, C].
    """

    picture_scale: Tensor
    picture_shift: Tensor

    def __init__(self, network: nn.Module, signature: Signature) -> None:
        super().__init__()
        assert signature.source_size is not None
        about = signature.preprocessing
        self.network, self.task = network, _Probabilities(signature.task)
        # Names begin with "picture_", by which `quantize_int8` knows that weights must stay exact.
        self.picture_fit = Fit(signature.source_size, about)
        self.picture_resize = Resize((about.view_size,) * 2, (about.input_size,) * 2, "lanczos", 5)  # as `to_input`
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (about.mean, about.std))
        self.register_buffer("picture_scale", (1 / (255 * std)).float().view(1, 3, 1, 1))
        self.register_buffer("picture_shift", (-mean / std).float().view(1, 3, 1, 1))

    def forward(self, picture: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to what `Task.graph` makes of the outputs, probabilities float32 [B, C] as a rule."""
        x = self.picture_resize(self.picture_fit(picture.permute(0, 3, 1, 2).float()))
        return self.task(self.network(x * self.picture_scale + self.picture_shift))


class _Probabilities(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.of = task.graph

    def forward(self, logits: Tensor) -> Tensor:
        return self.of(logits)


class Fit(nn.Module):
    """From pictures of one size to square views, float32 [B, 3, H, W] to [B, 3, V, V] of whole numbers.

    Args:
        size: (H, W) of the pictures.
        about: what shape becomes square how, and the kernel.
    """

    def __init__(self, size: tuple[int, int], about: Preprocessing) -> None:
        super().__init__()
        view = about.view_size
        shown, fitted = size, (view, view)
        if about.aspect == "crop":
            shown = (min(size),) * 2
        elif about.aspect == "pad":
            longest = max(size)
            high, wide = (max(1, (2 * side * view + longest) // (2 * longest)) for side in size)
            fitted = (high, wide)
        self.top, self.left = ((side - part) // 2 for side, part in zip(size, shown, strict=True))
        self.shown = shown
        self.resize = Resize(shown, fitted, about.resample, about.lobes)
        above, before = ((view - side) // 2 for side in fitted)
        self.border = (before, view - fitted[1] - before, above, view - fitted[0] - above)

    def forward(self, x: Tensor) -> Tensor:
        high, wide = self.shown
        if x.shape[2:] != (high, wide):
            x = x[:, :, self.top : self.top + high, self.left : self.left + wide]
        x = self.resize(x)
        return nn.functional.pad(x, self.border) if any(self.border) else x


class Resize(nn.Module):
    """A separable resize, horizontally first, rounded to 8 bits after each axis, as `views.resize` does."""

    def __init__(self, old: tuple[int, int], new: tuple[int, int], kernel: Resample, lobes: int) -> None:
        super().__init__()
        self.across = self._axis("across", old[1], new[1], kernel, lobes)
        self.down = self._axis("down", old[0], new[0], kernel, lobes)

    def _axis(self, name: str, old: int, new: int, kernel: Resample, lobes: int) -> list[tuple[str, int, int]]:
        """Register the weights of one axis; return the name of each part and the input that it sees."""
        if old == new:
            return []
        weights = axis_weights(old, new, kernel, lobes)
        step = new if old <= _DENSE else _BLOCK
        parts = []
        for number, start in enumerate(range(0, new, step)):
            rows = weights[start : start + step]
            used = np.flatnonzero(rows.any(axis=0))
            first, last = int(used[0]), int(used[-1]) + 1
            part = rows[:, first:last].T if name == "across" else rows[:, first:last]
            self.register_buffer(f"{name}{number}", torch.from_numpy(np.ascontiguousarray(part)))
            parts.append((f"{name}{number}", first, last))
        return parts

    def forward(self, x: Tensor) -> Tensor:
        if self.across:
            x = _to_8_bit(torch.cat([x[..., a:b] @ self.get_buffer(name) for name, a, b in self.across], dim=3))
        if self.down:
            x = _to_8_bit(torch.cat([self.get_buffer(name) @ x[:, :, a:b] for name, a, b in self.down], dim=2))
        return x


def _to_8_bit(x: Tensor) -> Tensor:
    return (x + 0.5).floor().clamp(0, 255)


def axis_weights(old: int, new: int, kernel: Resample, lobes: int) -> np.ndarray:
    """Return the weights of one axis, float32 [new, old]."""
    if kernel == "nearest":
        return np.eye(old, dtype=np.float32)[nearest_index(old, new)]
    return weight_matrix(old, new, kernel, lobes, True)
