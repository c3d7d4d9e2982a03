"""When a student matches its teachers' features unasked (see `objectives.terms`), and where these come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..config import RunConfig
from ..deployment.flops import count_flops
from ..files import parse_bytes
from ..labels import record_of
from ..models import LADDER
from ..models.taps import list_layers
from ..objectives.terms import deepest
from ..sources import Dataset
from ..tasks import task_named
from ..teachers.layer import LayerTeacher, heard
from .starts import TEACHER

MATCHED = "fitnets"
STORED = "4GB"  # that features may take unasked; a quarter of it for one view of all images, which is in memory
LIGHT = 3.0  # times the multiply-adds of the student that a teacher may have to answer every batch unasked


def with_usual_match(settings: Any, config: RunConfig, dataset: Dataset, teachers: Sequence[Any]) -> dict[str, str]:
    """Return what to change in the settings for a student that matches features; nothing where it should not.

    It does where every named teacher is a convolutional network, whose last maps are stored with its answers, or which
    is light, and pictures are small, or made. CIFAR-10, a ResNet-20 as teacher, 12 epochs of 10,000 images: 82.3 % with
    its maps and 77.7 without, behind its first layers 87.6 and 84.2 (docs/which-method.md); 1,500 steps from drawn
    pictures: 80.6 and 73.1 (recipes/datafree_cnn.md). 800 photographs of 128 px, MobileNetV2 as teacher, ten minutes:
    78.3 and 80.0, no difference seen (recipes/photographs.md). Methods are compared by what they name, and an assistant
    is another teacher.
    """
    task, elsewhere = task_named(dataset.task), hasattr(settings, "methods") or getattr(settings, "assistant", None)
    if elsewhere or not teachers or not task.finetunes:
        return {}
    asked = settings.match is not None or settings.store_features is not None or settings.hard_share
    network = config.network
    helps = dataset.synthetic or network.stem in ("conv", TEACHER)
    if asked or not helps or network.name not in LADDER or network.init_from is not None:
        return {}
    layers = [_last_map(teacher) for teacher in teachers]
    if not all(layers):
        return {}
    a_view = len(dataset.train) * sum(record_of(layer).bytes_per_image for layer in layers)
    if max(config.labels.views, 4) * a_view <= parse_bytes(STORED, "--store-features"):
        return {"match": MATCHED, "store_features": STORED}
    side = config.view.view_size
    student = count_flops(task.network(network, classes=2, side=side), side)
    costs = sum(count_flops(teacher.module, teacher.input_size) for teacher in teachers)
    return {"match": MATCHED} if costs <= LIGHT * student else {}


def _last_map(teacher: Any) -> LayerTeacher | None:
    """Return the layer of a teacher that would be matched; None where it makes no map, as in a ViT, or none is seen."""
    module = getattr(teacher, "module", None)  # stored answers have none
    if module is None:
        return None
    try:
        layers = list_layers(module, teacher.input_size)
        name = deepest(layers)[0]
        if len(layers.shapes[name]) != 3 or min(layers.grid(name) or (0,)) < 2:
            return None
        return heard(teacher, layers, [name])[0]
    except Exception:  # whatever a stranger's network says to being looked into
        return None
