"""`pocketvit label IMAGES --teacher NAME`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..rundir import Outcome
from ..settings import Label, verb

log = logging.getLogger("pocketvit")


@verb(Label)
def label(settings: Label) -> Outcome:
    """Let teachers label every view of the training images, once, into a soft-label store.

    More views and more teachers only add files. `distill` with the same images, views and teachers finds the store
    under OUT/shared/labels by itself.
    """
    from ..labels import LabelStore
    from ..labels import verify as verify_labels
    from ..road import Adapt, Open, walk
    from ..road import Label as LabelStage
    from ..road.begin import begin, plan_of
    from ..road.label import label_road

    if settings.plan:
        return plan_of(settings, (Open(), Adapt(), LabelStage()), decide_labels)
    begun = begin(settings, decide_labels)
    for note in begun.notes:
        log.info("%s", note)
    state = begun.walk(Path(settings.out) / "label")
    walk((Open(), Adapt()), state)
    folder = Path(settings.store) if settings.store else state.road.store_folder(state.config.labels)
    if settings.verify:
        found = verify_labels(LabelStore(folder), state.road.dataset.train, state.road.views, state.teachers)
        data = {"store": str(folder), "verified": list(map(asdict, found))}
        return Outcome("\n".join(one.text() for one in found), data)
    written = label_road(state.road, state.teachers, state.config.labels, folder=folder)
    held = {key: written.views(key) for key in written.teachers()}
    lines = [f"{key}: {len(complete)} complete views" for key, complete in held.items()]
    seen = f"--augment {state.settings.augment} --size {state.settings.size}"
    lines += [f"store   {folder}", f"        of views with {seen}: name these to `distill`, whose length else decides"]
    return Outcome("\n".join(lines), {"store": str(folder), "teachers": held})


def decide_labels(settings: Label, dataset: Any, teachers: Sequence[Any] = ()) -> tuple[Label, Any]:
    """Return the settings with the views decided, and what they come down to."""
    from ..config import LabelConfig, RunConfig
    from ..road.decide import decide_view, epochs_for, usual_batch
    from ..road.viewing import view_size
    from ..tasks import task_named

    task = task_named(dataset.task)
    task.refuse(settings, len(dataset.classes))
    side, count = settings.size or view_size(dataset.train), len(dataset.train)
    epochs = epochs_for(count, side, task.shown, task.steps * usual_batch(count, task))  # as `distill` will have
    settings, view = decide_view(settings, dataset, epochs)
    return settings, RunConfig(view=view, labels=LabelConfig(settings.views, settings.top_k))
