"""The engine: a list of resumable stages, and the walk along them. Verbs choose stages; recipes use them one by one.

from pocketvit.road import DISTILL, Stage, walk
walk([*DISTILL[:3], MyStage(), *DISTILL[3:]], state)
"""

from .adapt import Adapt
from .assist import Assist, LabelAgain
from .base import Cost, Stage, Walk, plan, walk
from .baselines import Baselines
from .folds import Folds
from .hours import Hours
from .images import Open, Road, open_road
from .label import Label
from .report import Report
from .score import Score
from .ship import Ship
from .statistics import Statistics
from .synthesize import Controls, Synthesize
from .train import Train

_LEARNING: tuple[Stage, ...] = (
    Assist(), LabelAgain(), Train(), Baselines(), Controls(), Folds(), Ship(), Score(), Report(),
)  # fmt: skip
DISTILL: tuple[Stage, ...] = (Open(), Adapt(), Label(), Hours(*_LEARNING), *_LEARNING)
"""Images and teachers in; a small, exported, measured and reported student out."""

DATA_FREE: tuple[Stage, ...] = (Synthesize(), *DISTILL)
"""The same with a teacher alone: images are made from it, and beside the student stands one that saw noise."""

__all__ = [
    "DATA_FREE",
    "DISTILL",
    "Adapt",
    "Assist",
    "Baselines",
    "Controls",
    "Cost",
    "Folds",
    "Hours",
    "Label",
    "LabelAgain",
    "Open",
    "Report",
    "Road",
    "Score",
    "Ship",
    "Stage",
    "Statistics",
    "Synthesize",
    "Train",
    "Walk",
    "open_road",
    "plan",
    "walk",
]
