"""`pocketvit compare IMAGES --teacher NAME --methods alone,kl,zscore`."""

from __future__ import annotations

from ..errors import PocketError
from ..rundir import Outcome
from ..settings import Compare, verb


@verb(Compare)
def compare(settings: Compare) -> Outcome:
    """Compare methods of distillation: the same student, images, steps and seeds; one table, one plot, one report.

    Each method is trained once per seed. Differences to the baseline (alone where it is among the methods, else the
    first one) are paired over the seeds and have intervals. Typed again, it goes on where it stopped; with more methods
    or seeds it trains only these.
    """
    from ..config import LossConfig
    from ..experiments.comparing import compare_methods
    from ..experiments.methods import parse_methods
    from ..road.adapt import given_teachers
    from ..road.light import LIGHT

    if settings.methods:  # a mistake in them is told before the images are read
        count = len(given_teachers(settings)) or len(LIGHT)
        chosen = parse_methods(settings.methods, LossConfig(), teachers=count)
        assisted = [one.name for one in chosen if one.assisted]
        if assisted and settings.assistant is None:
            raise PocketError(
                f"--methods {assisted[0]} needs an assistant, a network between teacher and student in size. Name it: "
                "--assistant pocket_m, say."
            )
        if settings.assistant is not None and not assisted:
            raise settings.refused(
                "assistant", "no method uses it. Add one to --methods, as in kl+assistant, or leave it away"
            )
        if settings.tokens and any(one.mutual for one in chosen):
            raise settings.refused("tokens", "the students of --methods mutual have no teacher. Leave one away")
        averaged = [one.name for one in chosen if one.averaged]
        if averaged and not settings.ema:
            raise PocketError(
                f"--methods {averaged[0]} learns from an average of the student's weights. Give --ema 0.999, say; all "
                "methods then keep and are scored by such an average."
            )
    return compare_methods(settings)
