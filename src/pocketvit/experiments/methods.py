"""What `compare` compares: methods by name, each a way of training the same student."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from ..config import LossConfig, TermConfig
from ..errors import PocketError
from ..objectives import OBJECTIVES, mutual
from ..objectives.terms import TERMS

ALONE = "alone"  # the student without a teacher
ASSISTANT = "assistant"  # from the labels of one who learned from the teachers
MUTUAL = "mutual"  # two students that learn from each other
WEIGHTS = get_args(get_type_hints(LossConfig)["teacher_weights"])  # ways of weighing several teachers


@dataclass(frozen=True)
class Method:
    """One way of training the student.

    Attributes:
        name: As it was asked for, and of its folder: parts joined by "+".
        loss: What the student is asked to match.
        taught: Whether there are teachers; ground truth alone otherwise.
        live: Whether the teachers run on every batch, because their features are not stored.
        averaged: Whether it needs an average of the student's weights.
        assisted: Whether an assistant teaches in the teachers' place.
        mutual: Whether it is two students, without a teacher.
    """

    name: str
    loss: LossConfig
    taught: bool = True
    live: bool = False
    averaged: bool = False
    assisted: bool = False
    mutual: bool = False

    @property
    def shown(self) -> str:
        """The name for a table, with what an unnamed part was."""
        parts = self.name.split("+")
        unsaid = self.taught and self.loss.objective not in parts
        return self.name + (f" (with {self.loss.objective})" if unsaid else "") + (", live teachers" * self.live)


def parse_methods(asked: str | Sequence[str], loss: LossConfig, *, teachers: int) -> list[Method]:
    """Read method names, in lists and between commas, in the order in which they are first named.

    A method is "mutual", or made of parts joined by "+": "alone" or an objective on answers, a way of weighing several
    teachers (or "assistant"), and any number of objectives on features, each at the weight 1. What a method does not
    name is that of ``loss``.

    Raises:
        PocketError: A part is unknown, or the parts of a method exclude each other.
    """
    words = [asked] if isinstance(asked, str) else asked
    names = [name.strip() for word in words for name in word.split(",") if name.strip()]
    if not names:
        raise PocketError("--methods names no method. Name some, as in --methods alone,kl,zscore.")
    methods: dict[frozenset[str], Method] = {}
    for name in names:
        methods.setdefault(frozenset(name.split("+")), _method(name, loss, teachers))
    return list(methods.values())


def _method(name: str, loss: LossConfig, teachers: int) -> Method:
    parts = name.split("+")
    if "" in parts or len(set(parts)) < len(parts):
        raise PocketError(f"--methods {name}: every part between + stands there once, as in kl+rkd.")
    for part in parts:
        _check_known(part, [ALONE, MUTUAL, ASSISTANT, *OBJECTIVES, *WEIGHTS, *TERMS])
    if MUTUAL in parts:
        if len(parts) > 1:
            raise PocketError(f"--methods {name}: {MUTUAL} is two students and no teacher; nothing is added to it.")
        return Method(name, dataclasses.replace(loss, **mutual.MUTUAL), taught=False, mutual=True)
    objectives = [part for part in parts if part in OBJECTIVES]
    weights = [part for part in parts if part in WEIGHTS]
    features = [part for part in parts if part in TERMS]
    own = [part for part in features if TERMS[part].family == "self-distillation"]
    taught, assisted = ALONE not in parts, ASSISTANT in parts
    if not taught and (objectives or weights or assisted or features != own):
        only = ", ".join(part for part, kind in TERMS.items() if kind.family == "self-distillation")
        raise PocketError(f"--methods {name}: {ALONE} is without a teacher; what can be added to it is {only}.")
    if len(objectives) > 1 or len(weights) > 1:
        raise PocketError(
            f"--methods {name}: a method has one objective on answers ({', '.join(OBJECTIVES)}) and one way of "
            f"weighing teachers ({', '.join(WEIGHTS)}). Commas separate methods."
        )
    if weights and teachers < 2:
        raise PocketError(f"--methods {name}: {weights[0]} weighs several teachers, and there is one. Name another.")
    if weights and assisted:
        raise PocketError(f"--methods {name}: {weights[0]} weighs several teachers, and the assistant is the only one.")
    changes: dict[str, Any] = {"terms": tuple(TermConfig(part) for part in features)} if features else {}
    changes |= {"objective": objectives[0]} if objectives else {}
    changes |= {"teacher_weights": weights[0]} if weights else {}
    return Method(name, dataclasses.replace(loss, **changes), taught, features != own, bool(own), assisted)


def _check_known(part: str, known: Collection[str]) -> None:
    if part in known:
        return
    near = difflib.get_close_matches(part, known, n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise PocketError(f"--methods: there is no method {part!r}.{hint} There are: {', '.join(known)}.")


def served(classes: int, whole: bool, temperature: float) -> list[str]:
    """Return "alone" and every objective that labels of so many classes serve, all logits or the top ones stored."""
    return [ALONE, *(name for name in OBJECTIVES if not why_not(name, classes, whole, temperature))]


def why_not(objective: str, classes: int, whole: bool, temperature: float) -> str:
    """Return why such labels do not serve an objective, or nothing."""
    if objective == "zscore" and classes == 2:
        return "z-scores of two logits say nothing but which is larger"
    if not whole and OBJECTIVES[objective].needs_at(temperature) == "full":
        return "it needs all logits, and the largest are stored: give --top-k 0 or --approximate-tail"
    return ""
