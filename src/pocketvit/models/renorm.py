"""Another normalization for a network with BatchNorm: replaced in an untrained one, converted in a trained one."""

from __future__ import annotations

from torch import nn

from ..errors import PocketError
from .norms import Norm, check_norm, swap_norms
from .renormed import renormed_recipe
from .saving import recipe_of


def replace_norm(model: nn.Module, kind: Norm, *, groups: int = 32) -> nn.Module:
    """Replace every BatchNorm of a network in place, and return it.

    As ``nn.SyncBatchNorm.convert_sync_batchnorm``: use what is returned, since a lone BatchNorm is replaced itself. A
    network of timm's or ours stays one that `save_model` can save.

    Args:
        model: any network.
        kind: "group", "group-ws" (GroupNorm and standardized convolutions), "layer" (over C, H and W), "instance",
            "frozen" (BatchNorm that changes no more), or "batch" (as it is).
        groups: of GroupNorm; fewer where channels do not divide (see `norms.group_count`).

    Raises:
        PocketError: unknown kind, or no BatchNorm to replace.
    """
    check_norm(kind)
    if kind == "batch":
        return model
    try:
        recipe = recipe_of(model)
    except PocketError:  # not timm's: it can be used and trained, and `save_model` says that it cannot be saved
        recipe = None
    model = swap_norms(model, kind, groups)
    if recipe is not None:
        vars(model)["pocket_recipe"] = renormed_recipe(recipe, kind, groups)
    return model
