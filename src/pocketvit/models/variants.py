"""`pocketvit_vit`: any of timm's plain ViTs, or of ours, with another patch embedding or another attention."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import Attention
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..errors import PocketError
from .local_attention import LocalAttention
from .patches import STEMS
from .positions import checkpoint_filter_fn
from .vit import cfgs_of


def is_vision_transformer(name: str) -> bool:
    """Whether timm's ``name`` is a ``VisionTransformer``, whose patches and attention can be exchanged."""
    with torch.device("meta"):
        return isinstance(timm.create_model(name.split(".", 1)[0]), VisionTransformer)


def use_local_attention(model: VisionTransformer) -> None:
    """Put `LocalAttention` into every block, over the layers that are there.

    Raises:
        PocketError: a block has another attention than timm's plain one.
    """
    for block in model.blocks:
        plain = getattr(block, "attn", None)
        if type(plain) is not Attention or getattr(plain, "gate", None) is not None:
            raise PocketError(
                f"local attention takes the place of timm's plain one, and a block of this {type(model).__name__} has "
                f"{type(plain).__name__}. Choose a plain ViT, or --attention plain."
            )
        block.attn = LocalAttention(plain)
    # Bound to names, not to the model: a copy of the model keeps a list that is right for it.
    names = {name for name, _ in model.named_parameters() if name.endswith(".temperature")}
    vars(model)["no_weight_decay"] = partial(operator.or_, model.no_weight_decay(), names)


def _assemble(base: str, stem: str, stem_args: dict[str, Any], attention: str, **kwargs: Any) -> nn.Module:
    if stem not in STEMS or attention not in ("plain", "local"):
        raise PocketError(f"a ViT has no stem {stem!r} with {attention!r} attention: see pocketvit.config.Stem.")
    if not timm.is_model(base):  # no hub, no folder: a config.json may be a stranger's
        raise PocketError(f"{base!r} is no network that timm knows.")
    if stem != "patch":
        kwargs["embed_layer"] = partial(STEMS[stem], **stem_args)
    model = timm.create_model(base, **kwargs)
    if not isinstance(model, VisionTransformer):
        raise PocketError(
            f"{base} is no VisionTransformer of timm, so that its patches and its attention cannot be exchanged."
        )
    if attention == "local":
        use_local_attention(model)
    return model


default_cfgs = cfgs_of("pocketvit_vit", first_conv="patch_embed.proj", classifier="head")


@register_model
def pocketvit_vit(
    pretrained: bool = False,
    base: str = "vit_tiny_patch16_224",
    stem: str = "patch",
    stem_args: dict[str, Any] | None = None,
    attention: str = "plain",
    **kwargs: Any,
) -> nn.Module:
    """Make ``base`` with a stem of `patches.STEMS` and "plain" or "local" attention; ``kwargs`` are the base's own."""
    make: Callable[..., nn.Module] = partial(_assemble, base, stem, stem_args or {}, attention)
    model = build_model_with_cfg(make, "pocketvit_vit", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs)
    # What the base was made with holds a function, and timm would write it into a config.json (`save_for_hf`): it is
    # to keep what was said here.
    vars(model).pop("_model_args", None)
    told = timm.get_pretrained_cfg(base)
    if told is not None:  # which layers are heads is the base's to say
        cfg: Any = model.pretrained_cfg
        first = "patch_embed.stages.0.0" if stem == "conv" else "patch_embed.proj"  # the teacher's do not learn
        vars(model)["pretrained_cfg"] = {**cfg, "classifier": told.classifier, "first_conv": first}
    return model
