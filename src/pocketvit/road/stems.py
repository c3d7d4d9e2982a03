"""When a student begins with its teacher's first layers, and with which of them (see `models.teacher_stem`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from timm.models.vision_transformer import VisionTransformer

from ..config import NetworkConfig
from ..errors import PocketError
from ..models import LADDER
from ..models.flops import count_flops
from ..models.saving import recipe_of
from ..models.teacher_stem import TeacherStem, choose_layer, stem_in
from ..models.vit import default_patch
from ..sources import Dataset
from ..tasks import task_named
from ..teachers import Teacher

HEAVIER = 2.0  # times the multiply-adds that a student may have for its teacher's layers, where it has real images


def with_usual_stem(config: NetworkConfig, settings: Any, teacher: Teacher, dataset: Dataset) -> NetworkConfig:
    """Return the network of a student with its teacher's first layers as stem, where they are a good start.

    That is where they are convolutions that have seen pictures of about this size; methods are compared on one student,
    and an assistant is another teacher. CIFAR-10, a ResNet-20 as teacher, 1,500 steps: 84.7 % with them, 72.4 with
    convolutions of its own; from drawn pictures, which cannot teach first layers better, 72.6 and 49.9
    (recipes/datafree_cnn.md); 720 photographs, MobileNetV2, 20 epochs: 90.3 and 74.7 % (recipes/photographs.md). Those
    of a deep teacher make a student slow: where real images can teach it as well, they are taken up to `HEAVIER`.
    """
    chosen = _possible_stem(config, settings, teacher, dataset)
    if chosen is None:
        return config
    return chosen if dataset.synthetic or _times(config, chosen, settings, dataset) <= HEAVIER else config


def words_on_stem(config: NetworkConfig, settings: Any, teachers: Sequence[Any], dataset: Dataset) -> list[str]:
    """Say what a teacher's first layers would cost that were left away for it; nothing where there was no such choice.

    Args:
        config: As it was decided.
        settings: Of the verb.
        teachers: Named ones.
        dataset: What is learned from.
    """
    if getattr(settings, "stem", "") != "auto" or config.stem == "teacher" or not teachers:
        return []
    chosen = _possible_stem(config, settings, teachers[0], dataset)
    if chosen is None or chosen.cut is None or config.init_from is not None:
        return []
    times = _times(config, chosen, settings, dataset)
    return [
        f"student  --stem teacher would begin with the layers of {teachers[0].name} up to {chosen.cut['layer']}: more "
        f"is learned of few images, for {times:.1f} times the multiply-adds"
    ]


def _possible_stem(config: NetworkConfig, settings: Any, teacher: Teacher, dataset: Dataset) -> NetworkConfig | None:
    """Return the network with its teacher's first layers; None where it cannot have them, or they are of no use."""
    if config.name not in LADDER or config.stem == "patch" or config.tokens or not task_named(dataset.task).finetunes:
        return None
    if hasattr(settings, "methods") or getattr(settings, "assistant", None) or teacher.input_size > 2 * settings.size:
        return None
    if isinstance(teacher.module, VisionTransformer) and stem_in(teacher.module) is None:
        return None
    try:
        return with_stem(dataclasses.replace(config, stem="teacher"), teacher, settings.size)
    except PocketError:  # it is no convolutional network, or none that can be made again
        return None


def _times(usual: NetworkConfig, chosen: NetworkConfig, settings: Any, dataset: Dataset) -> float:
    """Return how many times the multiply-adds of one network another has."""
    task, side = task_named(dataset.task), settings.size
    mine, other = (count_flops(task.network(one, classes=2, side=side), side) for one in (usual, chosen))
    return other / mine


def with_stem(config: NetworkConfig, teacher: Teacher, side: int) -> NetworkConfig:
    """Return a network of the ladder with the layers chosen that its stem takes from its teacher.

    Args:
        config: With the stem "teacher".
        teacher: A convolutional network that timm or pocketvit registers, or a student that began with such layers.
        side: Of the views in pixels.

    Raises:
        PocketError: No stem can be made of it.
    """
    body, patch = LADDER[config.name].model_args(config.stem), config.patch or default_patch(side, config.stem)
    weights = 12 * body["depth"] * body["embed_dim"] ** 2
    try:
        recipe = recipe_of(teacher.module)
        if stem_in(teacher.module) is not None:
            cut = dict(recipe["model_args"]["stem_args"])
        else:
            layer = choose_layer(teacher.module, side, places=-(-side // patch), weights=weights)
            cut = {**recipe, "layer": layer, "mean": list(teacher.mean), "std": list(teacher.std)}
        stem = TeacherStem(side, patch, embed_dim=body["embed_dim"], **cut)
        stem.take(teacher.module)  # what does not fit is told now, and not after labelling
    except Exception as error:  # what a stranger's network, made anew and cut, says besides
        why = str(error) if isinstance(error, PocketError) else f"{type(error).__name__}: {error}"
        raise PocketError(f"--stem teacher: {why.splitlines()[0]}") from error
    return dataclasses.replace(config, cut=cut)
