"""`pocketvit distill IMAGES`: the whole road."""

from __future__ import annotations

from ..rundir import Outcome, Run
from ..settings import Distill, verb


@verb(Distill)
def distill(settings: Distill) -> Run | Outcome:
    """Turn teachers and images into a small vision transformer: exported, measured, reported.

    Checks and splits the images, makes every teacher answer in their classes, stores the teachers' labels once,
    trains the student (and, for comparison, the same student without a teacher), exports it to ONNX (fp32 and int8),
    measures the files and writes the report. What is there already is reused. With ``data_free`` the images are made
    from the teacher.
    """
    from ..road import DATA_FREE, DISTILL
    from ..road.begin import go, plan_of

    stages = DATA_FREE if settings.data_free else DISTILL
    return plan_of(settings, stages) if settings.plan else go(settings, stages)
