"""`pocketvit demo`: the whole road on images that come with scikit-learn."""

from __future__ import annotations

from typing import Any

from ..rundir import Run
from ..settings import Demo, Distill, verb

LABELS = 50  # that students see, of 1,259
SCENES = 60  # likewise, of 300


@verb(Demo)
def demo(settings: Demo) -> Run:
    """Distill on handwritten digits in minutes: a large teacher, few labels, a very small ViT.

    The teacher learns from all labels. The student sees all images but only 50 labels, and what the teacher says.
    Beside it stand the same student with the 50 labels alone, the teacher's own int8 file, and what one would do
    without any of this: scikit-learn's SVM, on the 50 labels and on all. With ``task="detection"`` the whole road on
    drawn scenes, of which 60 have their boxes.
    """
    from ..config import TrainConfig
    from ..road import DISTILL, Baselines, Label, Open, Report, Score, Ship, Train
    from ..road.begin import go
    from ..road.classic import Classic
    from ..road.large import LargeTeacher

    common: dict[str, Any] = {
        "precision": "fp32", "folds": 0, "seed": settings.seed, "resume": settings.resume, "out": settings.out,
        "no_images": settings.no_images,
    }  # fmt: skip
    boxes = settings.task == "detection"
    if not isinstance(settings.resume, bool):  # a run to go on with says itself which demo it is
        boxes = Run(settings.resume).settings.images == "scenes"
    if boxes:
        scenes = Distill(
            images="scenes", student="pocket_xs", few_labels=SCENES, epochs=8, views=8, batch_size=8, augment="light",
            name="demo-detection", **common,
        )  # fmt: skip
        return go(scenes, DISTILL)
    teacher = LargeTeacher("cifar_resnet20x2", TrainConfig(epochs=8, batch_size=64, precision="fp32"))
    return go(
        Distill(
            images="digits",
            student="pocket_xxs",
            stem="conv",
            few_labels=LABELS,
            size=16,
            flip=False,  # a mirrored digit is another thing
            augment="light",
            epochs=20,
            views=4,
            batch_size=32,
            name="demo",
            **common,
        ),
        (Open(), teacher, Label(), Train(), Baselines(ceiling=False), Classic(), Ship(), Score(), Report()),
    )
