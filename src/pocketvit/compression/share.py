"""Weight multiplexing: a trained ViT in, the same ViT with layers shared by consecutive blocks out."""

from __future__ import annotations

import re

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..errors import PocketError
from ..models import shared
from ..models.inputs import tell_input
from ..models.registry import build
from ..models.saving import recipe_of

_LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")


@torch.no_grad()
def share(model: nn.Module, blocks: int = 2) -> nn.Module:
    """Return ``model`` with every ``blocks`` consecutive blocks sharing their linear layers; ``model`` is left alone.

    A shared layer begins as the mean of those that it replaces.

    The result is `models.shared.pocketvit_shared`; saved students with it need pocketvit. It answers differently from
    ``model`` until it is trained again.

    Args:
        model: a timm ``VisionTransformer`` with plain attention, or such a student of ours.
        blocks: that share; the last group is smaller where the depth is no multiple.

    Raises:
        PocketError: the network's blocks cannot share, or do so already.
    """
    if not isinstance(model, VisionTransformer):
        raise PocketError(
            f"{type(model).__name__} is no VisionTransformer of timm, so that its blocks cannot share their layers. "
            "Take a vit_ or deit_ model, or a student of the ladder."
        )
    recipe = recipe_of(model)
    if recipe["architecture"] == shared.pocketvit_shared.__name__:
        raise PocketError("this student's blocks share their layers already. Begin with the student it was made of.")
    smaller = build(
        shared.pocketvit_shared.__name__, {"of": recipe["architecture"], "share": blocks, **recipe["model_args"]}
    )
    tell_input(smaller, like=model)
    old = model.state_dict()
    own = smaller.state_dict()
    for name, value in own.items():
        found = _BLOCK.fullmatch(name)
        if found is None or found[2] not in _LAYERS:
            value.copy_(old.get(name, value))  # a transformation that is new begins as the identity
            continue
        first = int(found[1])
        group = range(first, min(first + blocks, _depth(old)))
        value.copy_(torch.stack([old[f"blocks.{i}.{found[2]}.{found[3]}"] for i in group]).mean(0))
    device = next(model.parameters()).device
    return smaller.to(device).train(model.training)


def _depth(state: dict[str, Tensor]) -> int:
    return 1 + max(int(found[1]) for name in state if (found := _BLOCK.fullmatch(name)))
