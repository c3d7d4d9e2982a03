"""When a student sees smaller pictures first (see `training.progressive`)."""

from __future__ import annotations

from ..models import LADDER
from ..settings import Train
from ..settings.verbs import Distilling
from ..tasks import Task

SMALL = 64  # pixels up to which a student has a residual convolutional stem (recipes/fast_students.md, ladder.md)
SMALLER_FIRST = 4 / 3  # times as many images take as long as they would whole
_SHARE = 0.6  # of the steps: smaller pictures end before the learning rate goes down


def progressive_for(settings: Distilling | Train, task: Task, name: str, *, small: bool) -> float:
    """Return the share of the run in smaller pictures: as asked, or `_SHARE` for students of small ones.

    CIFAR-10, 10,000 images by their labels, pocket_xs, equal time: 78.2 % with it, 75.9 without. 800 photographs of 128
    px, pocket_s, equal time: 75.7 and 76.3, no difference seen (recipes/ladder.md). Methods are compared in pictures of
    one size; whoever names epochs means whole ones.
    """
    asked = getattr(settings, "progressive", None)
    pairs = any(term.objective == "minilm" for term in getattr(settings, "terms", ()))
    if asked is None:
        ours = settings.epochs is None or getattr(settings, "time", None) is not None
        one = ours and task.finetunes and not pairs and not hasattr(settings, "methods")
        fits = name in LADDER and small and settings.stem not in ("concatenated", "coadvise")
        return _SHARE if one and fits else 0.0
    if asked and pairs:
        raise settings.refused("progressive", "minilm compares patches one to one. Leave one of them away")
    return asked
