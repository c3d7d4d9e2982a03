"""Channels innermost in memory, where a network's own code can bear it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_OURS = ("torch.nn.", "torchvision.", "timm.", "transformers.", "pocketvit.")  # not TorchScript, nor traced graphs


def channels_innermost(model: nn.Module, side: int) -> nn.Module:
    """Lay the weights of convolutions out with channels innermost, a fifth to a half faster, and return the model.

    Code that flattens maps with ``view`` (as the first tutorials do) cannot take what such convolutions answer; a
    network with modules of unknown origin is tried on pictures of ``side`` pixels, and left as it is where that fails.
    """
    model.to(memory_format=torch.channels_last)
    if not all(f"{type(module).__module__}.".startswith(_OURS) for module in model.modules()):
        training = [module for module in model.modules() if module.training]
        device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        try:
            with torch.no_grad():  # in evaluation mode, which keeps running statistics as they are
                model.eval()(torch.zeros(2, 3, side, side, device=device))
        except RuntimeError:
            model.to(memory_format=torch.contiguous_format)
        except Exception:  # it cannot be tried on a plain picture; whoever uses it will say so
            pass
        for module in training:
            module.training = True
    return model


def layout_of(model: nn.Module) -> torch.memory_format:
    """Return how the convolutions of a network are laid out: its pictures are best laid out likewise."""
    weights = (p for p in model.parameters() if p.ndim == 4 and not p.is_contiguous())
    innermost = any(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    return torch.channels_last if innermost else torch.contiguous_format


class _Laid(torch.autograd.Function):
    """Maps in another layout, and their gradient in the one that they came in: mixed ones are slow everywhere."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, layout: torch.memory_format, came: torch.memory_format) -> Tensor:
        ctx.came = came
        return maps.contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].contiguous(memory_format=ctx.came), None, None


def planes_for_group_norm(model: nn.Module) -> list[RemovableHandle]:
    """Hand every GroupNorm maps with channels innermost plane by plane, and lay out its answers as they came.

    Else its gradient is two to thirty times slower on a processor (torch 2.15). The hooks are to be removed by whoever
    trains.
    """
    planes, innermost = torch.contiguous_format, torch.channels_last
    turned = set()

    def before(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        maps, *others = given
        turned.discard(module)
        if maps.ndim != 4 or maps.is_contiguous() or not maps.is_contiguous(memory_format=innermost):
            return given
        turned.add(module)
        return _Laid.apply(maps, planes, innermost), *others

    def behind(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> Tensor:
        return _Laid.apply(answer, innermost, planes) if module in turned else answer

    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    before_all = [norm.register_forward_pre_hook(before) for norm in norms]
    return [*before_all, *(norm.register_forward_hook(behind) for norm in norms)]
