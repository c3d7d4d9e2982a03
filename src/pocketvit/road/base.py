"""The road as a list of stages. A verb chooses stages; `walk` takes them in order.

A stage reads what earlier ones put into the `Walk` (and on disk), and adds its own. Each can be run again: what is
finished on disk is opened, not made anew, so that an interrupted walk goes on where it stopped.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..config import RunConfig
from ..errors import PocketError
from ..files import read_json, write_json

if TYPE_CHECKING:
    from torch import nn

    from ..labels import LabelStore
    from ..teachers import Teacher
    from .images import Road
    from .measuring import Entry

log = logging.getLogger("pocketvit")

# What a stage may miss, and the command that makes it.
_MAKES = {
    "images": "pocketvit distill IMAGES",
    "teachers": "pocketvit train IMAGES",
    "labels": "pocketvit label IMAGES --teacher NAME",
    "student": "pocketvit distill IMAGES",
    "files": "pocketvit export RUN",
    "rows": "pocketvit bench RUN",
}


@dataclass(frozen=True)
class Cost:
    """What a stage has still to do: what ``--plan`` adds up.

    Attributes:
        seconds: On this machine.
        bytes: To be written.
        told: Lines for people.
    """

    seconds: float = 0.0
    bytes: float = 0.0
    told: tuple[str, ...] = ()


@dataclass
class Walk:
    """What stages hand on to each other.

    Attributes:
        settings: Of the verb, every choice made.
        config: What decides the student.
        folder: Of the run; of an experiment or a fold where these walk a stretch of the road.
        images: What the user gave; a `Dataset` where it was opened before.
        specs: The teachers as they were given.
        device: As it was asked for.
        road: Images and views ("images"); not there before the stage that opens them.
        teachers: In the classes of the images ("teachers").
        assistant: Who learned from them and teaches the student in their place; None for nobody.
        store: Their labels ("labels").
        networks: Trained networks by key: "student" ("student"), "alone", "ceiling", "against".
        names: How the table calls networks, where the stage that made them knows it best.
        input: What the student and its twins are fed, once they are made.
        rounding: How the student becomes an int8 file; None for as usual.
        controls: What the table says of further networks, by key.
        calibrated: Keys of those whose temperature was fitted.
        entries: The teachers' rows, to be measured.
        beside: Further rows to be measured, which stand at the end.
        rows: Measured ("rows").
        answered: The student's, one row per tile where images are tiled; None without a scored split.
        fold_rows: Pooled rows of a cross-validation.
        arrays: Everyone's answers, for ``predictions.npz``.
        notes: Sentences under the table.
        extra: Further fields of ``results.json``.
        began: When this process set out, of `time.monotonic`.
    """

    settings: Any
    config: RunConfig
    folder: Path
    images: Any = None
    specs: Sequence[Any] = ()
    device: str | None = None
    road: Road = None  # type: ignore[assignment]
    teachers: list[Teacher] = field(default_factory=list)
    assistant: Teacher | None = None
    store: LabelStore | None = None
    networks: dict[str, nn.Module] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    input: Any = None
    rounding: Any = None
    controls: dict[str, str] = field(default_factory=dict)
    calibrated: set[str] = field(default_factory=set)
    entries: list[Entry] = field(default_factory=list)
    beside: list[Entry] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    answered: Any = None
    fold_rows: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def tutors(self) -> list[Teacher]:
        """Whose labels the student learns."""
        return self.teachers if self.assistant is None else [self.assistant]

    @property
    def untaught(self) -> bool:
        """Whether there are no teachers, not even such as are made here."""
        return getattr(self.settings, "untaught", False)

    def seconds(self, *stages: str) -> float:
        """Return what these stages of this run took, over all interruptions."""
        spent = self.spent()
        return sum(spent.get(name, 0.0) for name in stages)

    def spend(self, stage: str, seconds: float) -> None:
        """Note what a stage took."""
        spent = self.spent()
        write_json(self.folder / "seconds.json", spent | {stage: round(spent.get(stage, 0.0) + seconds, 3)})

    def spent(self) -> dict[str, float]:
        """Seconds by stage."""
        path = self.folder / "seconds.json"
        return read_json(path) if path.is_file() else {}


class Stage(ABC):
    """One stretch of the road.

    Attributes:
        name: One word; of its entry in the run's ``seconds.json``.
        reads: What earlier stages must have left in the walk.
        writes: What this one adds.
        everyone: Whether all processes of ``torchrun`` take part, or the first alone.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()
    everyone: ClassVar[bool] = True

    def done(self, walk: Walk) -> bool:
        """Whether what it makes is on disk, so that `run` only opens it."""
        return False

    def cost(self, walk: Walk) -> Cost:
        """Return what it would still cost. The images are open and the teachers loaded; nothing is written."""
        return Cost()

    def beside(self, walk: Walk) -> float:
        """Seconds of its cost that are spent on other things than on the networks that it trains."""
        return 0.0

    def trains(self, walk: Walk) -> int:
        """Return how many networks it trains that share a budget of time (see `hours`)."""
        return 0

    @abstractmethod
    def run(self, walk: Walk) -> None:
        """Make what is missing, open what is there, and leave it in ``walk``."""


def walk(stages: Sequence[Stage], state: Walk, have: Sequence[str] = ()) -> Walk:
    """Take the stages in order; return the walk with what they left in it.

    Args:
        stages: Each may read what the ones before it write.
        state: Where the walk starts.
        have: What is in it already.

    Raises:
        PocketError: A stage would find nothing of what it reads; says which command makes it.
    """
    for stage in _checked(stages, have):
        if not stage.everyone and state.road is not None and state.road.processes.rank > 0:
            continue
        start = time.monotonic()
        try:
            stage.run(state)
        finally:
            if state.road is None or state.road.processes.rank == 0:
                state.spend(stage.name, time.monotonic() - start)
    return state


def plan(stages: Sequence[Stage], state: Walk, have: Sequence[str] = ()) -> dict[str, Cost]:
    """Return what each stage has still to do, by its name."""
    return {stage.name: Cost() if stage.done(state) else stage.cost(state) for stage in _checked(stages, have)}


def _checked(stages: Sequence[Stage], have: Sequence[str]) -> Iterator[Stage]:
    found = set(have)
    for stage in stages:
        missing = [what for what in stage.reads if what not in found]
        if missing:
            hint = "".join(f" `{_MAKES[what]}` makes them." for what in missing if what in _MAKES)
            raise PocketError(
                f"the stage {stage.name} needs {' and '.join(missing)}, and no stage before it made that.{hint}"
            )
        found |= set(stage.writes)
    yield from stages
