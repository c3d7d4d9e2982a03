"""`pocketvit train IMAGES --model NAME`."""

from __future__ import annotations

from pathlib import Path

from ..rundir import Run
from ..settings import Train, verb


@verb(Train)
def train(settings: Train) -> Run:
    """Train a teacher, or any other model, on labelled images: from scratch, or from weights that are there."""
    from ..road import Hours, Open, Report, Score, Ship, Statistics
    from ..road.begin import check_published, check_student, go
    from ..road.decide import decide_model
    from ..road.fit import Fit

    check_student(settings, "--model")
    check_published(settings)
    of = "" if settings.model == "auto" else f"-{Path(settings.model).name.replace(':', '_')}"
    learning = (Fit(), Ship(), Statistics(), Score(), Report())
    return go(settings, (Open(), Hours(*learning), *learning), decide_all=decide_model, of=of)
