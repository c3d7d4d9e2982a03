"""When a student matches its teachers' features unasked (see `objectives.terms`), and where these come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..config import RunConfig
from ..errors import PocketError
from ..files import parse_bytes
from ..labels import record_of
from ..models.detector import Detector
from ..models.flops import count_flops
from ..models.names import is_pretrained
from ..models.taps import Layers, list_layers
from ..objectives.terms import FeatureTerms, deepest, term_needs
from ..settings import Compare, Distill
from ..sources import Dataset
from ..tasks import task_named
from ..teachers.layer import LayerTeacher, heard
from .smaller import SMALL

MATCHED = "fitnets"
MADE = "fitnets:3"  # of made pictures, which say little else: 83.4 % where weight 1 has 81.6 (recipes/datafree_cnn.md)
STORED = "4GB"  # that features may take unasked; a quarter of it for one view of all images, which is in memory
LIGHT = 3.0  # times the multiply-adds of the student that a teacher may have to answer every batch unasked


def with_usual_match(
    settings: Distill | Compare, config: RunConfig, dataset: Dataset, teachers: Sequence[Any]
) -> dict[str, str]:
    """Return what to change in the settings for a student that matches features; nothing where it should not.

    It does where the last maps of all named teachers can be stored with their answers, or these are light. From made
    pictures that is worth most: CIFAR-10, a ResNet-20 as teacher, 1,500 steps, 83.4 % with its maps and 74.7 without
    (recipes/datafree_cnn.md); a ViT, whose patches make a map, too, 83.1 and 80.4 (recipes/datafree_vit.md); a detector
    of ours, mAP .198 and .152 (recipes/detection_datafree.md). From real pictures, small ones, with convolutional
    teachers: 10,000 images in 12 epochs, 82.3 and 77.7 %, behind the first layers 87.6 and 84.2 (docs/which-method.md);
    of 720 photographs of 128 px, behind the first layers, 93.3 and 91.3 % (three seeds); with the hybrid stem no
    difference was seen (recipes/photographs.md). Methods are compared by what they name, and an assistant is another
    teacher.
    """
    if isinstance(settings, Compare) or settings.assistant or not teachers:
        return {}
    task = task_named(dataset.task)
    ours = all(isinstance(getattr(teacher, "module", None), Detector) for teacher in teachers)
    if not (task.finetunes or (dataset.synthetic and ours)):
        return {}
    asked = settings.match is not None or settings.hard_share
    network, side, made = config.network, config.view.view_size, bool(dataset.synthetic)
    small = side <= SMALL and network.stem != "hybrid"
    helps = made or (network.init_from is None and (small or network.stem == "teacher"))
    if asked or not helps or is_pretrained(network.name):
        return {}
    student = task.network(network, classes=2, side=side)
    layers = [_last_map(teacher, tokens=made) for teacher in teachers]
    known = [layer for layer in layers if layer is not None]
    if _last_grid(student, side) is None or len(known) < len(layers):
        return {}
    match = MADE if made and task.finetunes else MATCHED
    a_view = len(dataset.train) * sum(record_of(layer).bytes_per_image for layer in known)
    allowed = settings.store_features or STORED
    if max(config.labels.views, 4) * a_view <= parse_bytes(allowed, "--store-features"):
        return {"match": match, "store_features": allowed}
    costs = sum(count_flops(teacher.module, teacher.input_size) for teacher in teachers)
    return {"match": match} if costs <= LIGHT * count_flops(student, side) else {}


def check_match(config: RunConfig, dataset: Dataset, teachers: Sequence[Any]) -> list[str]:
    """Try the objectives on features with the networks, before anything long; return what is to be said of them.

    Raises:
        PocketError: A layer that is named is not there, a teacher has none to compare, they do not fit together, or
            features are to be stored and none are matched.
    """
    stored = config.labels.store_features
    if stored is not None and "features" not in term_needs(config.loss):
        raise PocketError(
            f"--store-features {stored}: no features of a teacher are matched here. Name objectives with --match, as "
            "in --match fitnets, or leave it away."
        )
    if not config.loss.terms or not teachers or is_pretrained(config.network.name):
        return []
    for teacher in teachers:
        if getattr(teacher, "module", None) is None:
            raise PocketError(f"--match compares features, and {teacher.name} has answers alone. Leave it away.")
    side = config.view.view_size
    student = task_named(dataset.task).network(
        config.network, classes=max(1, len(dataset.classes)), side=side, tokens=config.network.tokens
    )
    terms = FeatureTerms(config.loss, student, side, teachers)
    layers = [f"{name} of {teacher.name}" for at, teacher in enumerate(teachers) for name in terms.teacher_layers(at)]
    what = ", ".join(dict.fromkeys(terms.names))
    return [f"student  learns features, too ({what}): {', '.join(layers)} (--match none: without)"] if layers else []


def _last_map(teacher: Any, *, tokens: bool) -> LayerTeacher | None:
    """Return the layer of a teacher that would be matched; None where it has none, or ``tokens`` unasked."""
    module = getattr(teacher, "module", None)  # stored answers have none
    found = None if module is None else _last_grid(module, teacher.input_size)
    if found is None or (len(found[0].shapes[found[1]]) != 3 and not tokens):
        return None
    layers, name = found
    return heard(teacher, layers, [name])[0]


def _last_grid(model: nn.Module, side: int) -> tuple[Layers, str] | None:
    """Return a network's layers and the one that would be matched; None where it has no places, or none can be seen."""
    try:
        layers = list_layers(model, side)
        name = deepest(layers)[0]
        return (layers, name) if min(layers.grid(name) or (0,)) > 1 else None
    except Exception:  # whatever a stranger's network says to being looked into
        return None
