"""Networks of grey pictures (one channel) take colour ones: their first convolution sees the luma of ITU-R BT.601.

Y = 0.299 R + 0.587 G + 0.114 B, as Pillow's "L". The weights add up to one, so that normalizing three channels with a
mean and deviation that they share and then weighting them is the same as normalizing Y: nothing else has to change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .inputs import config_of, input_stats

LUMA = (0.299, 0.587, 0.114)


def in_colour(model: nn.Module) -> bool:
    """Let a network that takes [B, 1, H, W] take [B, 3, H, W]; False where it is left as it is.

    Args:
        model: Is changed in place: its first convolution, and what it remembers of how it was made.
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    # A convolution that standardizes its weights over all channels would undo the luma's.
    if first is None or first.in_channels != 1 or "Std" in type(first).__name__:
        return False
    first.weight = nn.Parameter(_weighted(first.weight.detach()), requires_grad=first.weight.requires_grad)
    first.in_channels = 3
    recipe, about, stats = vars(model).get("pocket_recipe"), config_of(model), input_stats(model)
    if recipe is not None:
        recipe["model_args"].pop("in_chans", None)
    if about:
        about |= {"mean": of_brightness(stats.mean), "std": of_brightness(stats.std)}
        vars(model)["pretrained_cfg"] = about | {"input_size": (3, stats.input_size, stats.input_size)}
    return True


def of_brightness(values: Sequence[float]) -> tuple[float, ...]:
    """Return a mean, or a deviation, of three channels as the one that their brightness has, for each of them."""
    return (sum(weight * value for weight, value in zip(LUMA, values, strict=True)),) * 3


def is_grey(state: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Whether weights are of a network like ``model``, but for grey pictures."""
    first = next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)
    weight = state.get(f"{first}.weight")
    return weight is not None and weight.ndim == 4 and weight.shape[1] == 1


def _weighted(weight: Tensor) -> Tensor:
    """[O, 1, h, w] -> [O, 3, h, w]."""
    return weight * torch.tensor(LUMA, dtype=weight.dtype, device=weight.device).view(1, 3, 1, 1)
