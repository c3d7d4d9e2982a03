"""Means and variances of what a teacher's layers are fed: those that BatchNorm keeps, and those of some images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True)
class Moments:
    """Mean and variance of every channel of what a layer is fed.

    float32 [C] each; or [1 + P, C], where P tokens that stand for no patch have rows of their own, before the patches'.
    """

    mean: Tensor
    var: Tensor

    def to(self, device: torch.device) -> Moments:
        return Moments(self.mean.to(device), self.var.to(device))


def moments_of(x: Tensor, apart: int = 0) -> Moments:
    """Take the moments of maps [B, C, ...] or, for 3 dimensions, tokens [B, N, C], over all but the channels.

    Args:
        x: What a layer is fed, by `channelled`.
        apart: First tokens that each get a row of their own.
    """
    if apart and x.ndim == 3:
        rows = [moments_of(part) for part in (*x[:, :apart].split(1, dim=1), x[:, apart:])]
        return Moments(torch.stack([row.mean for row in rows]), torch.stack([row.var for row in rows]))
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


def channelled(layer: nn.Module, x: Tensor) -> Tensor:
    """Return what a layer is fed in the form that `moments_of` takes: maps [B, C, H, W], or tokens [B, L, C].

    LayerNorm's maps have their channels last; rows [B, C, L] of BatchNorm and its kin have them first.
    """
    last = isinstance(layer, nn.LayerNorm) and not is_2d(layer)
    if x.ndim == 3 and not isinstance(layer, nn.LayerNorm):
        return x.transpose(1, 2)
    return x.flatten(1, 2) if last and x.ndim == 4 else x


def is_2d(layer: nn.Module) -> bool:
    """Whether a LayerNorm is one over the channels of maps [B, C, H, W], as timm's ``LayerNorm2d``."""
    return "2d" in type(layer).__name__


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
