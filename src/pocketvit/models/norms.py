"""Normalization as a choice: BatchNorm, or one that needs no batch, where batches are small or must not leak.

"group" is GroupNorm (Wu & He 2018, arXiv 1803.08494); "group-ws" adds weight standardization of the convolutions (Qiao
et al. 2019, arXiv 1903.10520); "layer" takes channels and positions of an image together, "instance" each channel of
an image alone; "frozen" is BatchNorm whose statistics and affine weights stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import PocketError

Norm = Literal["batch", "group", "group-ws", "layer", "instance", "frozen"]
ENOUGH_IMAGES = 16  # a batch and process, for BatchNorm: the published error begins to rise at 8 (Wu & He 2018)


class FrozenBatchNorm(nn.Module):
    """BatchNorm with fixed statistics and affine weights, in training too; all four are buffers.

    As torchvision's ``FrozenBatchNorm2d``, for inputs of any number of dimensions.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((num_features,), value))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


class _ThenAct:
    """What timm's ``BatchNormAct2d`` does after normalizing, for any other normalization."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))  # type: ignore[misc]


class GroupNormAct(_ThenAct, nn.GroupNorm):
    """GroupNorm with a fused activation."""


class InstanceNormAct(_ThenAct, nn.InstanceNorm2d):
    """InstanceNorm with a fused activation."""


class FrozenBatchNormAct(_ThenAct, FrozenBatchNorm):
    """Frozen BatchNorm with a fused activation."""


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1 over their inputs (weight standardization).

    W_hat[o] = (W[o] - mean(W[o])) / sqrt(var(W[o]) + eps), Qiao et al. 2019 (arXiv 1903.10520), equations 2 and 3.
    """

    eps = 1e-5

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, standardize(weight, self.eps), bias)


def standardize(weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Return filters [O, I, kH, kW] with mean 0 and (biased) variance 1 over all but the first dimension."""
    variance, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True, correction=0)
    return (weight - mean) * torch.rsqrt(variance + eps)


def check_norm(kind: str) -> None:
    """Raise `PocketError` unless ``kind`` is one of `Norm`."""
    if kind not in get_args(Norm):
        raise PocketError(f"unknown norm {kind!r}: choose one of {', '.join(get_args(Norm))}.")


def group_count(channels: int, groups: int = 32) -> int:
    """Return how many groups ``channels`` are divided into: 32, or fewer where they do not divide.

    Narrow layers get fewer, so that a group never shrinks to one channel, which would be instance normalization.
    """
    return math.gcd(math.gcd(groups, channels // 2), channels)


def norm_layer(kind: Norm = "batch") -> Callable[[int], nn.Module]:
    """Return what makes a normalization layer for a channel count.

    Raises:
        PocketError: ``kind`` is not known, or concerns convolutions too.
    """
    check_norm(kind)
    if kind == "batch":
        return nn.BatchNorm2d
    if kind == "group-ws":
        raise PocketError("weight standardization changes convolutions too: make the network, then replace_norm it.")
    return lambda channels: _make(kind, channels, 32, 1e-5, fused=False, dimensions=2)


def batch_norms(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """Return (name, layer) of every BatchNorm (synchronized ones too) in ``model``."""
    modules = model.named_modules(remove_duplicate=False)  # a layer may stand in two places
    return [(name, module) for name, module in modules if isinstance(module, _BatchNorm)]


def small_batch_warning(model: nn.Module, images: int, world: int = 1) -> str | None:
    """Say that BatchNorm is about to be trained on few images, and what helps; None where it is not.

    Frozen layers do not count, nor such as stay in evaluation mode while the network is trained.

    Args:
        model: in training mode.
        images: of a batch in this process, before accumulation.
        world: processes, whose images a synchronized BatchNorm counts together.
    """
    live = [norm for _, norm in batch_norms(model) if norm.training]
    together = images * world if live and all(isinstance(norm, nn.SyncBatchNorm) for norm in live) else images
    if not live or together >= ENOUGH_IMAGES:
        return None
    count, share = f"{together} image{'s' if together > 1 else ''}", " in each process" if world > 1 else ""
    return (
        f"{len(live)} BatchNorm layers of {type(model).__name__} take their statistics from batches of {count}{share}; "
        f"under {ENOUGH_IMAGES} they are noisy, and accumulation does not help. Use a larger --batch-size, or replace "
        "them: `pocketvit train --replace-norm group`, or frozen for trained weights "
        "(pocketvit.models.renorm.replace_norm)."
    )


def keep_where_few(model: nn.Module, images: int) -> str:
    """Let the BatchNorm of a trained network keep its statistics while it is fine-tuned, where a batch has no better.

    That is where batches are small, and where the layers were folded into their convolutions: their statistics are then
    0 and 1, and those of a batch would make another network of it.

    Args:
        model: With trained weights; changed in place.
        images: Of a batch.

    Returns:
        What was done, in words; "" where nothing was.
    """
    layers = [layer for _, layer in batch_norms(model) if layer.running_mean is not None]
    folded = bool(layers) and all(_untouched(layer) for layer in layers)
    if not layers or (images >= ENOUGH_IMAGES and not folded):
        return ""
    for layer in layers:
        layer.eval()
        vars(layer)["train"] = _stay
    why = "they were folded into their convolutions" if folded else f"batches of {images} images have no better ones"
    return f"its {len(layers)} BatchNorm layers keep their statistics: {why}"


def _untouched(layer: _BatchNorm) -> bool:
    """Whether statistics are 0 and 1, or the little less than 1 that makes the layer divide by exactly that."""
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    return bool((mean.abs() < 1e-6).all()) and bool(((variance - 1).abs() <= 2 * layer.eps + 1e-6).all())


def _stay(mode: bool = True) -> None:
    """In place of a layer's own `train`: it is not moved by that of the network around it."""


def swap_norms(model: nn.Module, kind: Norm, groups: int = 32) -> nn.Module:
    """Replace every BatchNorm in ``model`` in place; return ``model``, or its replacement if it is one itself.

    Affine weights are copied, a fused activation stays. "group-ws" also standardizes the convolutions that a
    normalization follows: those without a bias, and those registered right before a BatchNorm of as many channels (so
    not those of squeeze-excitation, an involution's kernels or patch embeddings). `models.renorm.replace_norm` is the
    same for networks that are to be saved.

    Raises:
        PocketError: ``kind`` is not known or does not fit, or there is no BatchNorm in ``model``.
    """
    check_norm(kind)
    if kind == "batch":
        return model
    found = batch_norms(model)
    if not found:
        raise PocketError(f"{type(model).__name__} has no BatchNorm to replace. Leave its normalization as it is.")
    convolutions = _normalized_convolutions(model) if kind == "group-ws" else []
    for name, convolution in convolutions:
        model = _put(model, name, _standardized(name, convolution))
    made = {id(norm): _replacement(norm, kind, groups) for _, norm in found}
    for name, norm in found:
        model = _put(model, name, made[id(norm)])
    return model


def zero_init_last(model: nn.Module) -> int:
    """Zero the weights of the last normalization of every residual block, which so starts as its shortcut.

    For untrained networks (Goyal et al. 2017, arXiv 1706.02677; Wu & He 2018). Blocks are those that say how
    (timm's), and those called BasicBlock or Bottleneck (torchvision's and ours).

    Returns:
        The number of blocks.
    """
    count = 0
    for module in model.modules():
        own = getattr(module, "zero_init_last", None)
        if callable(own):
            own()
            count += 1
        elif type(module).__name__.endswith(("BasicBlock", "Bottleneck")):
            last = [child for name, child in module.named_children() if name.startswith(("bn", "norm"))][-1:]
            for norm in last:
                nn.init.zeros_(norm.weight)  # type: ignore[arg-type]
                count += 1
    return count


def _make(kind: Norm, channels: int, groups: int, eps: float, *, fused: bool, dimensions: int) -> nn.Module:
    if kind == "frozen":
        return (FrozenBatchNormAct if fused else FrozenBatchNorm)(channels, eps)
    if kind == "instance":
        if dimensions != 2:
            raise PocketError(f"instance normalization is for pictures, not BatchNorm{dimensions}d. Choose group.")
        return (InstanceNormAct if fused else nn.InstanceNorm2d)(channels, eps, affine=True)
    count = 1 if kind == "layer" else group_count(channels, groups)
    return (GroupNormAct if fused else nn.GroupNorm)(count, channels, eps)


def _replacement(old: Any, kind: Norm, groups: int) -> nn.Module:
    dimensions = {nn.BatchNorm1d: 1, nn.BatchNorm3d: 3}.get(type(old), 2)
    fused = hasattr(old, "act")
    new: Any = _make(kind, old.num_features, groups, old.eps, fused=fused, dimensions=dimensions)
    if fused:
        new.drop, new.act = getattr(old, "drop", nn.Identity()), old.act
    names = ("weight", "bias", "running_mean", "running_var") if kind == "frozen" else ("weight", "bias")
    kept = {name: value for name in names if (value := getattr(old, name, None)) is not None}
    for name, value in kept.items():
        getattr(new, name).data.copy_(value.detach())
    place = next(iter(kept.values()), None)
    return (new if place is None else new.to(place.device, place.dtype)).train(old.training)


def _normalized_convolutions(model: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children()) or _fused(module)]
    result = []
    for (name, module), (_, following) in zip(leaves, [*leaves[1:], ("", None)], strict=True):
        if not isinstance(module, nn.Conv2d) or math.prod(module.weight.shape[1:]) < 2:
            continue
        if module.bias is None or (isinstance(following, _BatchNorm) and following.num_features == module.out_channels):
            result.append((name, module))
    return result


def _fused(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm)  # timm's have their activation as a child


def _standardized(name: str, old: nn.Conv2d) -> nn.Module:
    if type(old) is not nn.Conv2d:
        raise PocketError(
            f"the convolution {name} is a {type(old).__name__}, for which there is no weight standardization. Choose "
            "group."
        )
    new = StandardizedConv2d(
        old.in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        old.groups,
        old.bias is not None,
        old.padding_mode,
    )
    new.weight, new.bias = old.weight, old.bias
    return new.train(old.training)


def _put(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    if not name:
        return module
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
    return model
