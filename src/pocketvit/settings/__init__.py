"""Every setting, said once; see `base`. Nothing here imports torch or numpy."""

from .base import Settings, listed, setting, settings_of
from .calling import gather, speak, verb
from .configfile import differences, dump, load, plain
from .devices import Bench, Compress, Export, Predict, Report, Serve
from .teachers import NO_TEACHER
from .values import Budget, Hours, parse_budget
from .verbs import VERBS, Compare, Demo, Distill, Label, Pack, RunRecipe, Synthesize, Train

__all__ = [
    "NO_TEACHER",
    "VERBS",
    "Bench",
    "Budget",
    "Compare",
    "Compress",
    "Demo",
    "Distill",
    "Export",
    "Hours",
    "Label",
    "Pack",
    "Predict",
    "Report",
    "RunRecipe",
    "Serve",
    "Settings",
    "Synthesize",
    "Train",
    "differences",
    "dump",
    "gather",
    "listed",
    "load",
    "parse_budget",
    "plain",
    "setting",
    "settings_of",
    "speak",
    "verb",
]
