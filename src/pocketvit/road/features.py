"""Where a student's feature terms get the teachers' features: from live teachers, or stored within a stated size."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ..config import LabelConfig
from ..errors import PocketError
from ..files import human_bytes, parse_bytes
from ..labels import record_of, write_labels
from ..models.taps import list_layers
from ..objectives.terms import FeatureTerms
from ..sources.base import Source
from ..teachers import Teacher
from ..teachers.layer import LayerTeacher
from ..training.features import LiveFeatures, StoredFeatures
from ..views import Views

log = logging.getLogger("pocketvit")


def teacher_features(
    views: Views,
    folder: Path,
    labels: LabelConfig,
    teachers: Sequence[Teacher],
    terms: FeatureTerms,
    *,
    rank: int = 0,
    world: int = 1,
) -> LiveFeatures | StoredFeatures | None:
    """Return what gives each batch its teachers' features; None where no term looks at any.

    With ``labels.store_features`` (a size, as in 2GB) the layers are stored once for every view, in ``folder`` beside
    the labels, by all ``world`` processes together, of which this is ``rank``.

    Raises:
        PocketError: they do not fit into that size; says what they need.
    """
    wanted = [terms.teacher_layers(index) for index in range(len(teachers))]
    if not any(wanted):
        return None
    if labels.store_features is None:
        return LiveFeatures(teachers, wanted)
    found = []
    for teacher, names in zip(teachers, wanted, strict=True):
        layers = list_layers(teacher.module, teacher.input_size) if names else None
        found.append({name: LayerTeacher(teacher, name, layers) for name in names if layers is not None})
    parts = [layer for layers in found for layer in layers.values()]
    images = len(cast(Source, views.source))
    size = sum(record_of(part).bytes_per_image for part in parts) * images * labels.views
    if size > parse_bytes(labels.store_features, "--store-features"):
        shapes = ", ".join(f"{part.name} {list(part.shape)}" for part in parts)
        raise PocketError(
            f"the features of {images:,} images in {labels.views} views take {human_bytes(size)} ({shapes}), more than "
            f"the {labels.store_features} of --store-features. Allow more, store fewer views, name later layers, or "
            "leave it out: the teacher then runs on every batch."
        )
    log.info("features %s in %s", human_bytes(size), folder)
    store = write_labels(folder, views.source, views, parts, labels.views, k=0, rank=rank, world=world)
    return StoredFeatures(
        store, [{name: (store.key(part), part.shape) for name, part in layers.items()} for layers in found]
    )
