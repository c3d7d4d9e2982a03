"""``pocketvit_renormed``: any timm network with its BatchNorm replaced, as one timm architecture that can be saved."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import register_model
from torch import nn

from ..errors import PocketError
from .norms import Norm, swap_norms

RENORMED = "pocketvit_renormed"


@register_model
def pocketvit_renormed(
    pretrained: bool = False, *, base: str = "resnet18", norm: Norm = "group", groups: int = 32, **kwargs: Any
) -> nn.Module:
    """The timm network ``base``, made with ``kwargs``, its BatchNorm replaced by ``norm``."""
    if pretrained:
        raise PocketError(f"{RENORMED} has no weights of its own: make {base} with its weights, then replace_norm it.")
    return swap_norms(timm.create_model(base, **kwargs), norm, groups)


def renormed_recipe(recipe: dict[str, Any], norm: Norm, groups: int) -> dict[str, Any]:
    """Return the recipe of a network whose own one was ``recipe`` before `swap_norms`."""
    extra = {"groups": groups} if groups != 32 else {}
    args = {**recipe["model_args"], "base": recipe["architecture"], "norm": norm, **extra}
    return {"architecture": RENORMED, "model_args": args}
