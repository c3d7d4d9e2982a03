"""BatchNorm into the convolution before it, as every exporter does: then a graph has the weights that a network has.

y = (W x + b - mean) * weight / sqrt(var + eps) + bias is a convolution again, of W * weight / sqrt(var + eps).
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .cost import TABLE

_SAME = 1e-3  # largest difference of an answer, relative to the largest answer, that rounding may make


@torch.no_grad()
def fold_norms(model: nn.Module, side: int) -> nn.Module:
    """Return ``model`` in evaluation mode on the CPU, without the BatchNorm that stands right behind convolutions.

    Which stands behind which is seen in one picture's way through the network. A convolution whose output something
    else reads too would change the answers: then nothing is folded.

    Args:
        model: takes one float tensor [1, 3, side, side]; left as it is.
        side: of its input in pixels.

    Returns:
        A copy, or ``model`` itself where there is nothing to fold.
    """
    if not any(_is_norm(module) for module in model.modules()):
        return model
    picture = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    folded = copy.deepcopy(model).float().cpu().eval()
    before, pairs = _watched(folded, picture)
    for conv_name, norm_name in pairs:
        conv: Any = folded.get_submodule(conv_name)
        norm: Any = folded.get_submodule(norm_name)
        values = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *values)
        folded.set_submodule(norm_name, _rest(norm))
    if not pairs or not isinstance(before, Tensor):
        return model
    change = float((folded(picture) - before).abs().max())
    return folded if change <= _SAME * max(float(before.abs().max()), 1e-6) else model


@torch.no_grad()
def before_norms(model: nn.Module, side: int) -> list[str]:
    """Return the names of convolutions that `fold_norms` would change and `fakequant.fake_quantize` would round."""
    picture, network = torch.zeros(1, 3, side, side), copy.deepcopy(model).float().cpu().eval()
    pairs = _watched(network, picture)[1]
    return [name for name, _ in pairs if network.get_parameter(f"{name}.weight").numel() >= TABLE]


def _is_norm(module: Any) -> bool:
    """Whether a module is a BatchNorm with statistics of its own: torch's, timm's with an activation, a frozen one."""
    return (
        "BatchNorm" in type(module).__name__
        and getattr(module, "running_mean", None) is not None
        and getattr(module, "eps", None) is not None
    )


def _rest(norm: Any) -> nn.Module:
    """Return what a norm does besides normalizing."""
    acts = [part for name in ("drop", "act") if isinstance(part := getattr(norm, name, None), nn.Module)]
    return nn.Sequential(*acts) if acts else nn.Identity()


def _watched(model: nn.Module, picture: Tensor) -> tuple[Any, list[tuple[str, str]]]:
    """Return the answer to a picture, and (convolution, norm) whose output is just what the norm was given."""
    last: list[tuple[str, Tensor]] = []
    runs: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def made(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        runs[name] = runs.get(name, 0) + 1
        last[:] = [(name, output)]

    def given(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        runs[name] = runs.get(name, 0) + 1
        if last and last[0][1] is inputs[0]:
            pairs.append((last[0][0], name))

    handles = []
    for name, module in model.named_modules():
        if type(module) is nn.Conv2d:
            handles.append(module.register_forward_hook(partial(made, name)))
        elif _is_norm(module):
            handles.append(module.register_forward_pre_hook(partial(given, name)))
    try:
        answer = model(picture)
    finally:
        for handle in handles:
            handle.remove()
    return answer, [pair for pair in pairs if all(runs[name] == 1 for name in pair)]
