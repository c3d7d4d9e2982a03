"""Means and variances of what a teacher's layers are fed: those that BatchNorm keeps, and those of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


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
