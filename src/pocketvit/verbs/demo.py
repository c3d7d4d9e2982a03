"""`pocketvit demo`: the whole road on images that come with scikit-learn."""

from __future__ import annotations

from typing import Any

from ..rundir import Run
from ..settings import Demo, Distill, verb

LABELS = 50  # that students see, of 1,259
SCENES = 60  # likewise, of 300


@verb(Demo)
def demo(settings: Demo) -> Run:
    """Distill on handwritten digits in minutes: a teacher, few labels, a small ViT.

    The teacher learns from all labels. The student sees all images but only 50 labels, and what the teacher says.
    Beside it stand the same student with the 50 labels alone, and with all labels. With ``task="detection"`` likewise
    on drawn scenes, of which 60 have their boxes.
    """
    from ..road import DISTILL
    from ..road.begin import go

    common: dict[str, Any] = {
        "student": "pocket_xs", "precision": "fp32", "folds": 0, "seed": settings.seed, "resume": settings.resume,
        "out": settings.out, "no_images": settings.no_images,
    }  # fmt: skip
    if settings.task == "detection":
        scenes = Distill(
            images="scenes", few_labels=SCENES, epochs=8, views=8, batch_size=8, augment="light", name="demo-detection",
            **common,
        )  # fmt: skip
        return go(scenes, DISTILL)
    return go(
        Distill(
            images="digits",
            few_labels=LABELS,
            size=16,
            flip=False,  # a mirrored digit is another thing
            augment="light",
            epochs=28,
            views=10,
            batch_size=32,
            name="demo",
            **common,
        ),
        DISTILL,
    )
