"""Images out of nothing but a teacher: drawn and chosen, optimized, or generated; and what they were made from.

`draw_bank`, `invert_bank` or `generate_bank` makes a `Bank`, an ordinary source without labels, after `check_teacher`
has tried the teacher. Nothing here is ever shown a real image, but for the candidates that say so.
"""

from .bank import Bank, open_bank
from .candidates import Candidates, Mixed, Noise, Photograph, RealImages, sample_photograph
from .card import StatisticsCard, measure_card, read_card
from .check import TeacherCheck, check_teacher
from .contest import GenerationConfig
from .drawn import DrawnConfig, draw_bank
from .gallery import gallery
from .generation import generate_bank
from .inversion import InversionConfig, invert_bank
from .priors import PriorConfig, Priors
from .procedural import Procedural
from .push import push
from .rival import Rival

__all__ = [
    "Bank",
    "Candidates",
    "DrawnConfig",
    "GenerationConfig",
    "InversionConfig",
    "Mixed",
    "Noise",
    "Photograph",
    "PriorConfig",
    "Priors",
    "Procedural",
    "RealImages",
    "Rival",
    "StatisticsCard",
    "TeacherCheck",
    "check_teacher",
    "draw_bank",
    "gallery",
    "generate_bank",
    "invert_bank",
    "measure_card",
    "open_bank",
    "push",
    "read_card",
    "sample_photograph",
]
