"""Where a student's feature terms get the teachers' features: from live teachers, or stored within a stated size."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from ..config import LabelConfig, RunConfig
from ..errors import PocketError
from ..files import human_bytes, parse_bytes
from ..labels import LabelStore, is_complete, record_of, write_labels
from ..models.taps import list_layers
from ..objectives.terms import FeatureTerms, term_needs
from ..sources.base import Source
from ..teachers import Teacher
from ..teachers.layer import LayerTeacher, heard
from ..training.features import LiveFeatures, StoredFeatures
from ..views import Views
from .images import Road
from .students import input_of, make_network

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

    With ``labels.store_features`` (a size, as in 2GB) they are read from ``folder``, where they stand for every view
    beside the labels. What is missing there is stored by all ``world`` processes together, of which this is ``rank``.

    Raises:
        PocketError: they do not fit into that size; says what they need.
    """
    wanted = [terms.teacher_layers(index) for index in range(len(teachers))]
    if not any(wanted):
        return None
    if labels.store_features is None:
        return LiveFeatures(teachers, wanted)
    found = _layers(views, labels, teachers, terms)
    parts = [layer for layers in found for layer in layers]
    if is_complete(folder, parts, labels.views):
        store = LabelStore(folder)
    else:
        store = write_labels(folder, views.source, views, parts, labels.views, k=0, rank=rank, world=world)
    return StoredFeatures(store, [{one.layer: (store.key(one), one.shape) for one in layers} for layers in found])


def stored_layers(road: Road, config: RunConfig, teachers: Sequence[Any]) -> list[LayerTeacher]:
    """Return the layers of the teachers that are stored with their labels for a student; none where none are.

    Raises:
        PocketError: they do not fit into the size that is allowed.
    """
    if config.labels.store_features is None or "features" not in term_needs(config.loss):
        return []
    student = make_network(config.network, road, taught=True)
    terms = FeatureTerms(config.loss, student, input_of(config.network, student, road)[0], teachers)
    return [layer for layers in _layers(road.views, config.labels, teachers, terms) for layer in layers]


def _layers(
    views: Views, labels: LabelConfig, teachers: Sequence[Teacher], terms: FeatureTerms
) -> list[list[LayerTeacher]]:
    """The layers that terms look at, of each teacher, which fit into the size that is allowed."""
    found = []
    for index, teacher in enumerate(teachers):
        names = terms.teacher_layers(index)
        found.append(heard(teacher, list_layers(teacher.module, teacher.input_size), names) if names else [])
    parts = [layer for layers in found for layer in layers]
    images = len(cast(Source, views.source))
    size = sum(record_of(part).bytes_per_image for part in parts) * images * labels.views
    if size > parse_bytes(str(labels.store_features), "--store-features"):
        shapes = ", ".join(f"{part.name} {list(part.shape)}" for part in parts)
        raise PocketError(
            f"the features of {images:,} images in {labels.views} views take {human_bytes(size)} ({shapes}), more than "
            f"the {labels.store_features} of --store-features. Allow more, store fewer views, name later layers, or "
            "leave it out: the teacher then runs on every batch."
        )
    return found
