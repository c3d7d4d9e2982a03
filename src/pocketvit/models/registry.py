"""Making networks by name: any of timm's, ours (registered in timm), and the students of the ladder."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

import timm
import torchvision
from torch import nn

from ..config import Attention, Stem
from ..errors import PocketError
from . import cifar_resnet, rednet, renormed, shared  # noqa: F401  (register their networks in timm)
from .coadvise import stem_width
from .conv_stem import conv_stem_args
from .hub import explain, hub
from .variants import is_vision_transformer
from .vit import LADDER, default_patch

_PLAIN, _DISTILLED, _TOKENS = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "pocketvit_tokens"
# One 7 x 7 convolution, GroupNorm and pooling before the patches: timm's smallest hybrid (Steiner et al. 2021).
_HYBRID = "vit_tiny_r_s16_p8_224"
_COADVISE, _VARIANT = "pocketvit_coadvise", "pocketvit_vit"
LADDER_STEMS = ("coadvise", "conv", "hybrid", "teacher")  # made for the sizes of the ladder


def suggest(name: str) -> str:
    """Return ``Did you mean ...?`` for a mistyped model name, or what to do with one of torchvision's; or nothing."""
    if name in torchvision.models.list_models(module=torchvision.models):
        return f" It is torchvision's: as a teacher, name torchvision:{name} and its file with --weights."
    known = [*LADDER, *timm.list_models()]
    base = name.split(".", 1)[0]
    near = difflib.get_close_matches(base, known, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def build(architecture: str, model_args: dict[str, Any], *, pretrained: bool = False) -> nn.Module:
    """Make a timm model and remember how (``model.pocket_recipe``), so that `save_model` can write it down."""
    model = timm.create_model(architecture, pretrained=pretrained, **model_args)
    recipe = {"architecture": architecture.split(".", 1)[0], "model_args": dict(model_args)}
    vars(model)["pocket_recipe"] = recipe
    size = model_args.get("img_size")
    if size is not None:
        size = (size, size) if isinstance(size, int) else tuple(size)
        cfg: Any = model.pretrained_cfg
        vars(model)["pretrained_cfg"] = {**cfg, "input_size": (model_args.get("in_chans", 3), *size)}
    return model


def takes_image_size(name: str) -> bool:
    """Whether timm's ``name`` has to be told the image size when it is made (ViTs and their kin)."""
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(cfg and getattr(cfg, "fixed_input_size", False))


def create_model(
    name: str, *, num_classes: int, image_size: int | None = None, pretrained: bool = False, **kwargs: Any
) -> nn.Module:
    """Make a classifier by name, from scratch or with timm's weights.

    Args:
        name: of timm's or ours: ``resnet18``, ``vit_tiny_patch16_224.augreg_in21k``, ``cifar_resnet56``,
            ``cifar_rednet20``, ``rednet50``, or of the ladder (`create_student`).
        num_classes: of the head.
        image_size: for networks whose size is fixed when they are made; others take any.
        pretrained: fetch the weights from the hub (or find them in its cache).
        kwargs: for the architecture: ``norm="group"``, ``drop_path_rate=0.1``.

    Raises:
        PocketError: unknown name (with near ones), weights that cannot be had, arguments that do not fit.
    """
    if name in LADDER and not pretrained:
        return create_student(name, num_classes=num_classes, image_size=image_size or 224, **kwargs)
    if name in LADDER:
        raise PocketError(f"{name} has no pretrained weights: train it from scratch, or name a timm model.")
    if not timm.is_model(name.split(".", 1)[0]):
        raise PocketError(f"unknown model {name!r}.{suggest(name)} timm.list_models() lists them all.")
    args: dict[str, Any] = {"num_classes": num_classes, **kwargs}
    if image_size is not None and takes_image_size(name):
        args["img_size"] = image_size
    if pretrained:
        with hub() as reachable:
            try:
                return build(name, args, pretrained=True)
            except Exception as error:  # the hub's client, its transport and timm each raise their own
                raise PocketError(explain(name, reachable, error)) from error
    try:
        return build(name, args)
    except Exception as error:  # whatever an architecture says of its arguments
        lines = [*str(error).strip().splitlines(), type(error).__name__]
        raise PocketError(f"could not make {name} with {args}: {lines[0][:200]}. Check these arguments.") from error


def create_student(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    patch_size: int | None = None,
    tokens: int = 0,
    stem: Stem = "patch",
    attention: Attention = "plain",
    drop_path: float = 0.0,
    cut: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Make an untrained student.

    Args:
        name: ``pocket_xxs`` .. ``pocket_xl``, or any timm model.
        num_classes: of every head.
        image_size: side of the square input in pixels.
        patch_size: None for `default_patch` on the ladder, and for timm's own otherwise.
        tokens: distillation tokens: 0 for a plain ViT; 1 for timm's distilled ViT; k >= 2 for a token and a head for
            each of k teachers (saved students then need pocketvit).
        stem: "patch" for plain patches; "hybrid" for one convolution and pooling before them, which timm has in stock
            (without tokens; it averages over places); "conv" for a residual convolutional stem (see `models.conv_stem`;
            without tokens its students average over places too); "teacher" for the first layers of a convolutional
            teacher, whose weights they take later (see `models.teacher_stem`); "shifted", "summed" or "concatenated"
            (see `models.patches`); "coadvise" for a convolution and an involution stem that start the tokens of the
            first and the second teacher (see `models.coadvise`; ``tokens`` is then 2).
        attention: "plain", or "local" (see `models.local_attention`). Saved students with it, and with any stem but
            "patch" and "hybrid", need pocketvit.
        drop_path: probability that the last block is skipped; grows linearly from 0 with depth.
        cut: of the stem "teacher": what `teacher_stem.TeacherStem` is told of the layers.

    Raises:
        PocketError: what was asked cannot be made.
    """
    if stem not in get_args(Stem):
        raise PocketError(f"unknown stem {stem!r}: choose one of {', '.join(get_args(Stem))}.")
    if attention not in get_args(Attention):
        raise PocketError(f"unknown attention {attention!r}: choose one of {', '.join(get_args(Attention))}.")
    if (stem == "teacher") != (cut is not None):
        raise PocketError("the stem of a teacher's layers, and no other, is told which these are (cut).")
    if stem == "coadvise" and tokens != 2:
        raise PocketError(
            f"the coadvise stems start the tokens of two teachers, and the student has {tokens}: give it 2 tokens, or "
            "the patch stem."
        )
    args: dict[str, Any] = {"num_classes": num_classes}
    if drop_path:
        args["drop_path_rate"] = drop_path
    if name not in LADDER:
        if tokens:
            raise PocketError(
                f"distillation tokens need a student of the ladder ({', '.join(LADDER)}), not {name}. Choose one of "
                "these, or no tokens."
            )
        if patch_size is not None:
            args["patch_size"] = patch_size
        if (stem, attention) == ("patch", "plain"):
            return create_model(name, image_size=image_size, **args)
        if stem in LADDER_STEMS:
            raise PocketError(f"the {stem} stem needs a student of the ladder ({', '.join(LADDER)}), not {name}.")
        if not timm.is_model(name.split(".", 1)[0]):
            raise PocketError(f"unknown model {name!r}.{suggest(name)} timm.list_models() lists them all.")
        if not is_vision_transformer(name):
            raise PocketError(
                f"{name} is no VisionTransformer of timm, so that its patches and its attention cannot be exchanged. "
                "Choose a vit_ or deit_ model or a student of the ladder, or leave stem and attention as they are."
            )
        return create_model(_VARIANT, image_size=image_size, base=name, stem=stem, attention=attention, **args)
    patch = patch_size or default_patch(image_size, stem)
    if patch > image_size:
        raise PocketError(f"patches of {patch} pixels do not fit an image of {image_size}: choose a smaller patch.")
    args.update(img_size=image_size, patch_size=patch, **LADDER[name].model_args(stem))
    if stem == "hybrid":
        if tokens or attention != "plain" or patch % 4 or -(-image_size // 4) % (patch // 4):
            raise PocketError(
                f"the hybrid stem has no tokens, plain attention, and patches of 4, 8 or 16 pixels that divide the "
                f"picture ({image_size} pixels), not {tokens} tokens, {attention} attention and patches of {patch}."
                " Choose --stem conv or patch."
            )
        return build(_HYBRID, args | {"patch_size": patch // 4, "class_token": False, "global_pool": "avg"})
    if stem in ("conv", "teacher"):
        args["stem_args"] = conv_stem_args(image_size, LADDER[name].embed_dim) if cut is None else dict(cut)
        if not tokens:
            args.update(class_token=False, global_pool="avg")
    if stem == "coadvise":
        base, stem = _COADVISE, "patch"  # coadvise brings its own patches
        args["stem_width"] = stem_width(LADDER[name].embed_dim)
    else:
        base = (_PLAIN, _DISTILLED)[tokens] if tokens < 2 else _TOKENS
        if tokens >= 2:
            args["tokens"] = tokens
    if (stem, attention) == ("patch", "plain"):
        return build(base, args)
    return build(_VARIANT, {"base": base, "stem": stem, "attention": attention, **args})
