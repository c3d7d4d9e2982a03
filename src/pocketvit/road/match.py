"""Reading ``--match``: objectives on features, with their weights and layers."""

from __future__ import annotations

import re

from ..config import TermConfig
from ..errors import PocketError
from ..objectives.terms import TERMS, check_term

_TERM = re.compile(r"([a-z_]+)(?::(\d+(?:\.\d*)?|\.\d+))?(?:@([^>]*)>(.*))?")


def parse_terms(match: str | None, *, average: bool) -> tuple[TermConfig, ...]:
    """Read objectives on features between commas, each ``NAME[:WEIGHT][@STUDENT_LAYER>TEACHER_LAYER]``.

    Args:
        match: As it was asked for; None for none.
        average: Whether an average of the student's weights is kept (``--ema``).

    Raises:
        PocketError: One is not understood or unknown, or needs an average that is not kept.
    """
    terms = []
    for part in filter(None, (piece.strip() for piece in (match or "").split(","))):
        found = _TERM.fullmatch(part)
        if found is None:
            raise PocketError(
                f"--match {part}: give an objective, if you like with its weight and layers, as in fitnets, rkd:0.5 or "
                "fitnets:1@blocks.3>layer3."
            )
        name, weight, mine, theirs = found.groups()
        check_term(name)
        if TERMS[name].family == "self-distillation" and not average:
            raise PocketError(f"--match {name} learns from an average of the student's weights: give --ema 0.999, say.")
        terms.append(TermConfig(name, float(weight or 1.0), (mine or "").strip(), (theirs or "").strip()))
    return tuple(terms)
