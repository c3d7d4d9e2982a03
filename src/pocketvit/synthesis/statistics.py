"""Means and variances of a teacher's features: those that BatchNorm keeps, and those on a card beside the teacher.

A network without BatchNorm stores no moments of its data. A *statistics card*, written when the teacher is trained,
gives them; what is synthesized with one is "statistics-assisted" and not "data-free".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import PocketError
from ..teachers import Teacher
from ..training.checkpoint import read_checkpoint, save_checkpoint

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_FORMAT = "pocketvit statistics card 1"


@dataclass(frozen=True)
class Moments:
    """Mean and variance of every channel of what a layer is fed, float32 [C] each."""

    mean: Tensor
    var: Tensor


def moments_of(x: Tensor) -> Moments:
    """Take the moments of maps [B, C, ...] or, for 3 dimensions, tokens [B, N, C], over all but the channels."""
    x = x.float()
    flat = x.flatten(0, 1) if x.ndim == 3 else x.movedim(1, -1).flatten(0, -2)
    var, mean = torch.var_mean(flat, dim=0, correction=0)
    return Moments(mean, var)


def kept_moments(module: nn.Module) -> dict[str, Moments]:
    """Return what BatchNorm layers (of torch, timm, torchvision or ours) keep, by module path; empty without any."""
    kept = {}
    for path, layer in module.named_modules():
        mean, var = getattr(layer, "running_mean", None), getattr(layer, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(var, Tensor):
            kept[path] = Moments(mean.detach().float(), var.detach().float())
    return kept


def norm_layers(module: nn.Module) -> list[str]:
    """Paths of the normalization layers that keep no moments: LayerNorm, GroupNorm and their kin."""
    kept = kept_moments(module)
    return [path for path, layer in module.named_modules() if isinstance(layer, NORMS) and path not in kept]


class Inputs:
    """Records what named layers are fed in the last forward pass, with its graph, until `remove` is called."""

    def __init__(self, module: nn.Module, paths: Iterable[str]) -> None:
        self.seen: dict[str, Tensor] = {}
        self._handles = [
            module.get_submodule(path).register_forward_pre_hook(
                lambda _, arguments, path=path: self.seen.__setitem__(path, arguments[0])
            )
            for path in paths
        ]

    def take(self) -> dict[str, Tensor]:
        """Return what was recorded since the last call, and forget it."""
        seen, self.seen = self.seen, {}
        return seen

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def make_card(teacher: Teacher, batches: Iterable[Tensor], path: Path | str) -> None:
    """Write a teacher's statistics card: the moments of what its normalization layers are fed.

    Args:
        teacher: as it will be synthesized from.
        batches: uint8 [B, 3, S, S] of its training images, as it sees them.
        path: of the card, ``statistics.safetensors`` beside the teacher.

    Raises:
        PocketError: it has no normalization layer, or there are no images.
    """
    paths = [path for path, layer in teacher.module.named_modules() if isinstance(layer, NORMS)]
    if not paths:
        raise PocketError(f"{teacher.name} has no normalization layers, so that there is nothing for a card to hold.")
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    images = parts = 0
    inputs = Inputs(teacher.module, paths)
    try:
        for batch in batches:
            teacher.logits(batch)
            images += len(batch)
            parts += 1
            for name, x in inputs.take().items():
                found = moments_of(x.detach())
                weight = len(batch)
                first, second = found.mean.double() * weight, (found.var + found.mean**2).double() * weight
                before = sums.get(name)
                sums[name] = (first, second) if before is None else (before[0] + first, before[1] + second)
    finally:
        inputs.remove()
    if not images:
        raise PocketError("a statistics card needs images: there are none.")
    tensors = {}
    for name, (first, second) in sums.items():
        mean = first / images
        tensors[f"{name}.mean"] = mean.float().cpu()
        tensors[f"{name}.var"] = (second / images - mean**2).clamp_min(0).float().cpu()
    save_checkpoint(
        Path(path), tensors, {"format": _FORMAT, "weights": teacher.fingerprint["weights"], "images": images}
    )


@dataclass(frozen=True)
class Card:
    """A statistics card: moments by module path, and of how many real images they were taken."""

    moments: Mapping[str, Moments]
    images: int


def read_card(path: Path | str, teacher: Teacher) -> Card:
    """Read a teacher's card.

    Raises:
        PocketError: the file is no card, or another teacher's.
    """
    tensors, about = read_checkpoint(Path(path))
    if about.get("format") != _FORMAT:
        raise PocketError(f"{path} is no statistics card: `pocketvit train` writes one beside a teacher.")
    if about.get("weights") != teacher.fingerprint["weights"]:
        raise PocketError(f"the statistics card {path} belongs to other weights than those of {teacher.name}.")
    names = sorted({name.rsplit(".", 1)[0] for name in tensors})
    device = teacher.device
    found = {name: Moments(tensors[f"{name}.mean"].to(device), tensors[f"{name}.var"].to(device)) for name in names}
    return Card(found, about["images"])
