"""Giving a teacher a new head for the user's classes, to be fine-tuned or probed."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from torch import nn

from ..errors import PocketError
from .teacher import Teacher


def new_head(teacher: Teacher, num_classes: int) -> nn.Module:
    """Return a trainable copy of the teacher's network with a fresh head of ``num_classes``.

    timm's networks reset their own; of others the last linear layer that makes the outputs is replaced.

    Raises:
        PocketError: no such layer.
    """
    module: Any = copy.deepcopy(teacher.module).requires_grad_(True)
    device = teacher.device
    if callable(getattr(module, "reset_classifier", None)):
        both = "distillation" in inspect.signature(module.reset_classifier).parameters
        second = any("head_dist" in name for name in module.state_dict())  # of LeViT and RepViT, which timm would drop
        module.reset_classifier(num_classes, **({"distillation": True} if both and second else {}))
        recipe = getattr(module, "pocket_recipe", None)
        if recipe is not None:
            args = {**recipe["model_args"], "num_classes": num_classes}
            vars(module)["pocket_recipe"] = {**recipe, "model_args": args}
        return module.to(device)
    name = _last_linear(module, teacher.raw_outputs)
    if name is None:
        raise PocketError(
            f"the teacher {teacher.name} ends in no linear layer of {teacher.raw_outputs} outputs, so that it cannot "
            f"be given {num_classes} classes. Give the module a reset_classifier(num_classes) method, or fine-tune it "
            "yourself first."
        )
    old = module.get_submodule(name)
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, nn.Linear(old.in_features, num_classes, old.bias is not None))
    return module.to(device)


def _last_linear(module: nn.Module, outputs: int) -> str | None:
    names = [
        name for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and layer.out_features == outputs
    ]
    return names[-1] if names else None
