"""What cannot be had yet where images have several labels: refused before any work is done."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import TermConfig
from ..errors import PocketError
from ..labels.record import choose_k
from ..objectives import find_objective
from ..sources import Dataset

_ONE_CLASS = ("cskd", "mean_teacher")  # terms that compare softmaxes over the classes


def check_several(
    dataset: Dataset,
    *,
    objective: str = "auto",
    teacher_weights: str = "fixed",
    balance: str = "none",
    tokens: int = 0,
    top_k: int | None = None,
    terms: Sequence[TermConfig] = (),
) -> None:
    """Refuse options that presume one class an image where images have several labels, and the other way round.

    Raises:
        PocketError: Names the option and what to do.
    """
    several = dataset.train.multilabel
    if objective != "auto":
        find_objective(objective, several=several)
    if not several:
        return
    here = f"the images of {dataset.name} have several labels each"
    if teacher_weights != "fixed":
        raise PocketError(
            f"--teacher-weights {teacher_weights} looks at the one class of an image, and {here}. Use fixed."
        )
    if balance != "none":
        raise PocketError(f"--balance {balance} is for one class an image, and {here}. Leave it away.")
    if tokens > 1:
        raise PocketError(
            f"--tokens {tokens}: a token a teacher is averaged as one class is, and {here}. Use --tokens 0 or 1."
        )
    if choose_k(len(dataset.classes), top_k):
        raise PocketError(
            f"{here}, {len(dataset.classes)} in all, and the largest logits say nothing of the others. Store all of "
            "them, with --top-k 0."
        )
    for term in terms:
        if term.objective in _ONE_CLASS:
            raise PocketError(f"--match {term.objective} compares answers of one class, and {here}. Choose another.")
