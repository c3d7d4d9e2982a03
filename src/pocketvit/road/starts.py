"""When a student begins with its teacher's own weights unasked (see `models.selection`)."""

from __future__ import annotations

import dataclasses
from typing import Any

from timm.layers import PatchEmbed

from ..config import NetworkConfig
from ..errors import PocketError
from ..models import LADDER
from ..models.selection import PATCHES, select_weights
from ..models.vit import default_patch
from ..sources import Dataset
from ..tasks import task_named
from ..teachers import Teacher

TEACHER = "teacher"  # what --init-from and --stem call the first of the teachers
NONE = "none"  # what --init-from calls a start from scratch


def with_usual_start(config: NetworkConfig, settings: Any, teacher: Teacher, dataset: Dataset) -> NetworkConfig:
    """Return the network of a student with its teacher's weights to begin with, where that is a ViT as large or larger.

    The teacher's weights have learned already what a short training cannot teach, and made pictures cannot teach at
    all. CIFAR-10, a `pocket_s` as teacher, `pocket_xs` as student, 2,500 steps: 83.6 % with its weights and 79.9
    without, from drawn pictures 81.0 and 73.4 (recipes/datafree_vit.md). With real images only where both have the same
    kind of stem: blocks behind a new one are of little use. Methods are compared on one student, and an assistant is
    another teacher.
    """
    task, elsewhere = task_named(dataset.task), hasattr(settings, "methods") or getattr(settings, "assistant", None)
    if settings.init_from is not None or config.name not in LADDER or elsewhere or not task.finetunes:
        return config
    for network in (_with_patches(config, settings, teacher), config) if dataset.synthetic else (config,):
        try:
            student = task.network(network, classes=2, side=settings.size, tokens=network.tokens)
            taken = select_weights(student, teacher.module)
        except PocketError:  # it is no ViT, or the student is the larger one
            continue
        if dataset.synthetic or PATCHES in taken:
            return dataclasses.replace(network, init_from=TEACHER)
    return config


def _with_patches(config: NetworkConfig, settings: Any, teacher: Teacher) -> NetworkConfig:
    """Return the network with plain patches where its teacher has these and a class token, and nothing was asked for.

    The teacher's blocks are of little use behind a stem that is new. The built-in digits, a ViT on patches as teacher
    (91 %), 1,500 drawn pictures, 240 steps: 74 % with its patches and blocks, 48 with patches from scratch, 28 with its
    blocks behind convolutions, 23 with these from scratch (n = 359).
    """
    module: Any = teacher.module
    asked = (settings.stem, settings.patch, getattr(settings, "fit", None)) != ("auto", None, None)
    plain = type(getattr(module, "patch_embed", None)) is PatchEmbed and getattr(module, "cls_token", None) is not None
    if asked or not plain:
        return config
    patch = max(module.patch_embed.patch_size[0], default_patch(settings.size))
    return dataclasses.replace(config, stem="patch", patch=patch)
