"""Images out of nothing but a teacher: drawn and chosen, inverted, or made by a generator; and what they are worth.

`check_teacher` first; `draw_bank`, `invert_bank` or `generate_bank` makes a `Bank`, an ordinary source without labels;
`teach_from` trains a student on it; `audit_bank` says what was used. Nothing here is ever shown a real image, but for
the controls that say so.
"""

from .audit import Audit, audit_bank
from .bank import Bank, join_banks, open_bank
from .candidates import Candidates, Noise, Photograph, RealImages, sample_photograph
from .check import TeacherCheck, check_teacher
from .drawn import DrawnConfig, draw_bank
from .gallery import gallery
from .generator import GeneratorConfig, generate_bank
from .inversion import InversionConfig, invert_bank
from .loop import hard_views, teach_from
from .plan import BankPlan, plan_bank
from .priors import PriorConfig, Priors, student_answers
from .procedural import Procedural
from .push import push
from .statistics import Card, make_card, read_card

__all__ = [
    "Audit",
    "Bank",
    "BankPlan",
    "Candidates",
    "Card",
    "DrawnConfig",
    "GeneratorConfig",
    "InversionConfig",
    "Noise",
    "Photograph",
    "PriorConfig",
    "Priors",
    "Procedural",
    "RealImages",
    "TeacherCheck",
    "audit_bank",
    "check_teacher",
    "draw_bank",
    "gallery",
    "generate_bank",
    "hard_views",
    "invert_bank",
    "join_banks",
    "make_card",
    "open_bank",
    "plan_bank",
    "push",
    "read_card",
    "sample_photograph",
    "student_answers",
    "teach_from",
]
