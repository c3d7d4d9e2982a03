"""The views from which the scales of activations are taken, and the ranges that are seen in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import NotSmaller
from ..training.step import Input
from ..views import Views
from ..views.resize import to_input
from .grid import ACTIVATION_HIGH, ACTIVATION_LOW

Origin = Literal["real", "synthetic", "noise"]
_SAMPLE = 1 << 16  # values of a layer's input kept of each batch
_CUT = 1e-4  # share of them that is cut off at each end: a single outlier would take the digits of all others


@dataclass(frozen=True)
class Calibration:
    """Views for calibration, and where they come from (a model card says it)."""

    pixels: Tensor = field(repr=False)  # uint8 [N, 3, V, V]
    origin: Origin

    def text(self) -> str:
        """Return one phrase for a person."""
        kinds = {"real": "real images", "synthetic": "synthetic images", "noise": "images of noise"}
        return f"{len(self.pixels)} {kinds[self.origin]}"


def calibration_views(views: Views, count: int = 256, *, origin: Origin = "real") -> Calibration:
    """Take the first view of ``count`` images of a source, spread evenly over it.

    Args:
        views: of the training source, or of a bank of synthetic images.
        count: fewer where the source has fewer.
        origin: what the source is.

    Raises:
        NotSmaller: the views are of one class only, or show nothing.
    """
    source: Any = views.source
    positions = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(np.int64))
    pixels = views.render(positions, 0).pixels
    one_each = origin == "real" and isinstance(source.targets, np.ndarray)  # of boxes a picture has many
    targets = source.targets[positions] if one_each else None
    check_calibration(pixels, targets, getattr(source, "classes", ()))
    return Calibration(pixels, origin)


def noise_views(count: int, side: int, seed: int = 0) -> Calibration:
    """Return images of coloured noise whose spectrum falls with the frequency, as that of photographs does (1/f).

    For calibration without any image: white noise lies far from what a network has seen, 1/f noise near enough.
    """
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = 1 / side
    white = np.fft.rfft2(generator.standard_normal((count, 3, side, side)))
    grey = np.fft.rfft2(generator.standard_normal((count, 1, side, side)))  # channels of photographs are alike
    field_ = np.fft.irfft2((0.4 * white + grey) / frequency, s=(side, side))
    field_ /= field_.std(axis=(1, 2, 3), keepdims=True)
    spread = generator.uniform(30, 70, (count, 1, 1, 1))
    middle = generator.uniform(90, 165, (count, 1, 1, 1))
    pixels = np.clip(np.rint(middle + spread * field_), 0, 255).astype(np.uint8)
    return Calibration(torch.from_numpy(pixels), "noise")


def check_calibration(pixels: Tensor, targets: np.ndarray | None = None, classes: Sequence[str] = ()) -> None:
    """Refuse views whose ranges would be those of nothing else.

    Args:
        pixels: uint8 [N, 3, V, V].
        targets: [N] classes (or [N, C] labels) of the images where they are known.
        classes: names of all classes.

    Raises:
        NotSmaller: too few views, most of them of one colour, all alike, or all of one class of several.
    """
    if len(pixels) < 8:
        raise NotSmaller(f"calibration needs at least 8 views, better 256, and there are {len(pixels)}.")
    flat = pixels.flatten(2).float()
    constant = int((flat.std(2) < 1).all(1).sum())
    if 2 * constant > len(pixels):
        raise NotSmaller(
            f"{constant} of {len(pixels)} calibration images are of one colour: their activations are not those of "
            "pictures, and the quantized file would answer at random. Calibrate with images that the student was "
            "trained on."
        )
    if bool((pixels == pixels[:1]).all()):
        raise NotSmaller("all calibration images are the same one. Take some hundred different ones.")
    if targets is None or np.ndim(targets) != 1 or len(classes) < 2:
        return
    known = np.unique(targets[targets >= 0])
    if len(known) == 1:
        raise NotSmaller(
            f"all {len(pixels)} calibration images are of the class {classes[int(known[0])]!r}, of {len(classes)}: "
            "what other classes activate would be cut off. Take images of all of them."
        )


@dataclass
class Ranges:
    """What was seen of one layer's input."""

    values: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor) -> None:
        """Note a batch of inputs."""
        flat = x.detach().float().flatten()
        step = max(1, flat.numel() // _SAMPLE)
        while math.gcd(step, x.shape[-1]) > 1:  # else of the same few channels in every row
            step += 1
        self.values.append(flat[::step].cpu().clone())

    def scale(self) -> tuple[Tensor, Tensor]:
        """Return scale [] and zero [] of 8-bit integers that hold 0 and the values but for the outermost (`_CUT`)."""
        values = torch.cat(self.values).sort().values
        cut = round(_CUT * (len(values) - 1))
        low, high = min(float(values[cut]), 0.0), max(float(values[len(values) - 1 - cut]), 0.0)
        scale = max((high - low) / (ACTIVATION_HIGH - ACTIVATION_LOW), torch.finfo(torch.float32).tiny)
        zero = round(ACTIVATION_LOW - low / scale)
        return torch.tensor(scale), torch.tensor(float(zero))


def observe(model: nn.Module, names: Sequence[str], pixels: Tensor, input: Input) -> dict[str, Ranges]:
    """Run ``model`` over uint8 views and return what the layers of these names were given."""
    size, mean, std = input
    device = next(model.parameters()).device
    seen = {name: Ranges() for name in names}

    def note(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[name].add(inputs[0])

    handles = [model.get_submodule(name).register_forward_pre_hook(partial(note, name)) for name in names]
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for part in pixels.split(64):
                model(to_input(part.to(device), size, mean, std))
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return seen
