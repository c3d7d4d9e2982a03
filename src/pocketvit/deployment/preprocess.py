"""From a picture to what an exported file takes, outside the graph and inside it.

Outside, `pocketvit.views` renders the plain view. Inside, the same crop and resize are constant matrix products with
the same weights; these are multiples of 2^-14, so that float32 sums are exact and the pixels are equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Resample, ViewConfig
from ..views import Views
from ..views.kernels import nearest_index, weight_matrix
from ..views.resize import to_input
from .signature import Signature


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
    views = Views(_Pictures(pictures), view.plain())
    return views.render(np.arange(len(pictures)), 0).pixels


def pictures_to_input(pixels: Tensor, signature: Signature) -> Tensor:
    """Return the network's input float32 [B, 3, S, S].

    Args:
        pixels: uint8 views [B, 3, V, V]; pictures [B, H, W, 3] when the signature has a source size.
        signature: of the exported file.
    """
    if signature.source_size:
        pixels = plain_views(list(pixels.numpy()), signature.view)
    return to_input(pixels, signature.input_size, signature.mean, signature.std)


class PictureInput(nn.Module):
    """A network with its preprocessing in front and a softmax behind: uint8 [B, H, W, 3] to probabilities [B, C].

    Of several labels an image the probabilities are a sigmoid.
    """

    picture_scale: Tensor
    picture_shift: Tensor

    def __init__(self, network: nn.Module, signature: Signature) -> None:
        super().__init__()
        assert signature.source_size is not None
        self.network = network
        self.several = signature.several
        view = signature.view
        stages = [fit_matrices(signature.source_size, view)]
        if view.view_size != signature.input_size:
            matrix = axis_matrix(view.view_size, signature.input_size, "lanczos", 5)  # as `to_input` does
            stages.append((matrix, matrix))
        # Names begin with "picture_", by which `quantize_int8` knows that they must stay exact.
        self.stages = len(stages)
        for i, (rows, columns) in enumerate(stages):
            self.register_buffer(f"picture_rows{i}", torch.from_numpy(rows))
            self.register_buffer(f"picture_columns{i}", torch.from_numpy(np.ascontiguousarray(columns.T)))
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (signature.mean, signature.std))
        self.register_buffer("picture_scale", (1 / (255 * std)).float().view(1, 3, 1, 1))
        self.register_buffer("picture_shift", (-mean / std).float().view(1, 3, 1, 1))

    def forward(self, picture: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to probabilities float32 [B, C]."""
        x = picture.permute(0, 3, 1, 2).float()
        for i in range(self.stages):
            rows, columns = getattr(self, f"picture_rows{i}"), getattr(self, f"picture_columns{i}")
            x = _to_8_bit(x @ columns)  # horizontally first, an 8-bit picture in between, as `views.resize` does
            x = _to_8_bit(rows @ x)
        logits = self.network(x * self.picture_scale + self.picture_shift)
        return logits.sigmoid() if self.several else logits.softmax(1)


def _to_8_bit(x: Tensor) -> Tensor:
    return (x + 0.5).floor().clamp(0, 255)


def fit_matrices(size: tuple[int, int], view: ViewConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of the rows [V, H] and the columns [V, W] that turn a picture into its plain view.

    Args:
        size: (H, W) of the picture.
        view: what shape becomes square how (``fit``), and the kernel.
    """
    high, wide = size  # what of the picture is shown, and how large it is in the view
    fitted = (view.view_size, view.view_size)
    if view.fit == "crop":
        high = wide = min(size)
    elif view.fit == "pad":
        longest = max(size)
        fitted_high, fitted_wide = (max(1, (2 * side * view.view_size + longest) // (2 * longest)) for side in size)
        fitted = (fitted_high, fitted_wide)
    pair = []
    for side, part, length in zip(size, (high, wide), fitted, strict=True):
        matrix = np.zeros((view.view_size, side), np.float32)
        above, before = (view.view_size - length) // 2, (side - part) // 2
        inner = matrix[above : above + length, before : before + part]
        inner[:] = axis_matrix(part, length, view.resample, view.lobes)
        pair.append(matrix)
    return pair[0], pair[1]


def axis_matrix(size_in: int, size_out: int, kernel: Resample, lobes: int) -> np.ndarray:
    """Return the weights of one axis, float32 [size_out, size_in]."""
    if size_in == size_out:
        return np.eye(size_in, dtype=np.float32)
    if kernel == "nearest":
        return np.eye(size_in, dtype=np.float32)[nearest_index(size_in, size_out)]
    return weight_matrix(size_in, size_out, kernel, lobes, True)
