"""`pocketvit compress RUN`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..rundir import Run
from ..settings import Compress, verb


@verb(Compress)
def compress(settings: Compress) -> Run:
    """Make a student smaller - pruned, weight-multiplexed, quantized - and recover it from its stored labels.

    No teacher is loaded. The new run lies beside the old one and may be compressed again.
    """
    from ..road.base import Walk, walk
    from ..road.begin import as_shown, check_device
    from ..road.compress import Compress as Shrink
    from ..road.compress import Reopen, recovered, refuse, trains
    from ..road.reopen import reopen
    from ..road.report import Report
    from ..road.score import Score
    from ..road.search import Search
    from ..road.ship import Ship

    if isinstance(settings.resume, str) and Run(settings.resume).finished:
        return as_shown(Run(settings.resume), settings)
    check_device(settings.device)
    folder = Path(settings.model.folder if isinstance(settings.model, Run) else str(settings.model))
    folder = folder if folder.name not in ("", "..") else folder.resolve()  # `compress .` inside a run
    settings = dataclasses.replace(settings, model=str(folder), out=str(settings.out or folder.parent))
    source = reopen(folder, settings.images)
    refuse(settings, source.student.module)
    if trains(settings):
        # Labels that are gone are told before a run is begun, and of the images once it is.
        source.labels(source.road(settings.device, tell=False))
    run = Run.begin(settings.name or f"{folder.name}-{settings.tag}", settings)
    if run.finished:
        as_shown(run, settings)
    else:
        with run.alone(), run.logging():
            run.say([f"the student of {folder}, without its teachers", *source.notes])
            config = source.config if settings.fit else recovered(source.config, settings)
            search = [Search(source)] if settings.fit else []
            stages = (Reopen(source), *search, Shrink(source), Ship(), Score(), Report())
            walk(stages, Walk(settings, config, run.folder, source.dataset, device=settings.device))
    return run
