"""BatchNorm into the convolution before it, as every exporter does: then a graph has the weights that a network has.

y = (W x + b - mean) * weight / sqrt(var + eps) + bias is a convolution again, of W * weight / sqrt(var + eps). Parallel
branches that only training needs (RepViT, FastViT, MobileOne, RepVGG) become one too, which no exporter does.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .fakequant import quantizable
from .grid import key_of

_SAME = 1e-3  # largest difference of an answer, relative to the largest answer, that rounding may make
_MERGES = ("fuse", "reparameterize", "switch_to_deploy")  # methods that timm's `reparameterize_model` calls


@torch.no_grad()
def fold_norms(model: nn.Module, side: int) -> nn.Module:
    """Return ``model`` in evaluation mode on the CPU, without the BatchNorm that stands right behind convolutions.

    Branches that only training needs are merged first, where its modules say how (timm's ``fuse`` and
    ``reparameterize``). Which norm stands behind which convolution is seen in one picture's way through the network. A
    convolution whose output something else reads too would change the answers: then nothing is folded.

    Args:
        model: takes one float tensor [1, 3, side, side]; left as it is.
        side: of its input in pixels.

    Returns:
        A copy, or ``model`` itself where there is nothing to fold.
    """
    if not any(_is_norm(module) for module in model.modules()):
        return model
    picture, model = _picture(side), merge_branches(model, side)
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
    return folded if _alike(folded(picture), before) else model


@torch.no_grad()
def merge_branches(model: nn.Module, side: int) -> nn.Module:
    """Return a copy without branches that only training needs; ``model`` where it has none, or answers would change.

    Args:
        model: takes one float tensor [1, 3, side, side]; left as it is.
        side: of its input in pixels.
    """
    if not any(hasattr(module, name) for module in model.modules() for name in _MERGES):
        return model
    picture = _picture(side)
    try:
        plain = copy.deepcopy(model).float().cpu().eval()
        merged = reparameterize_model(plain)
        before, after = plain(picture), merged(picture)
    except Exception:  # methods of somebody's own, that mean something else by these names
        return model
    return merged if isinstance(before, Tensor) and _alike(after, before) else model


def _picture(side: int) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def before_norms(model: nn.Module, side: int) -> list[str]:
    """Return the names of layers whose weights `fold_norms` changes, of those that `fake_quantize` rounds."""
    left = {_key(layer) for _, layer in quantizable(fold_norms(model, side))}
    return [name for name, layer in quantizable(model) if _key(layer) not in left]


def _key(layer: Any) -> str:
    return key_of(layer.weight.detach().float().cpu().numpy())


def _alike(after: Tensor, before: Tensor) -> bool:
    return float((after - before).abs().max()) <= _SAME * max(float(before.abs().max()), 1e-6)


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
