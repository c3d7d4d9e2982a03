"""A finished run opened again: its student, its images and views, and the labels it learned, without any teacher."""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..config import RunConfig
from ..errors import PocketError
from ..files import read_json
from ..labels import LabelStore
from ..models import load_model
from ..models.saving import LoadedModel
from ..objectives.gating import FROM_VALIDATION, Gate
from ..rundir import Run
from ..settings import Distill, Train, settings_of
from ..settings.groups import BUILT_IN, Place
from ..sources import Dataset
from ..sources.tiles import whole
from ..synthesis.bank import find_bank
from ..training.step import Input
from .decide import decide, decide_model
from .images import Road, open_dataset, open_road, scored_of
from .measuring import Entry
from .train import GATE

log = logging.getLogger("pocketvit")

P = TypeVar("P", bound=Place)


class Taught(NamedTuple):
    """Stored answers that a student learned from, the keys of their teachers, and what weighs these, if fitted."""

    store: LabelStore | None = None
    keys: Sequence[str] = ()
    gate: Gate | None = None


@dataclass(frozen=True)
class Reopened:
    """What a run stands on.

    Attributes:
        chain: The run that trained on images, and what was compressed from it, up to the run itself.
        settings: Of the origin.
        config: What decided its student; its losses as far as stored labels serve them.
        student: Its student, as it was saved.
        input: What the student is fed.
        dataset: Its images, opened.
        notes: What is otherwise than in its training.
    """

    chain: tuple[Run, ...]
    settings: Distill | Train
    config: RunConfig
    student: LoadedModel
    input: Input
    dataset: Dataset
    notes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Of the origin: packs and labels lie beside it."""
        return self.chain[0].folder

    def road(self, device: str | None, *, tell: bool = True) -> Road:
        """Return the road of the origin, as its student saw it, and tell of its images."""
        road = open_road(self.dataset, self.config.view, self.folder.parent / "shared", device=device, tell=tell)
        few = getattr(self.settings, "few_labels", 0)
        return road.with_few_labels(few) if few else road

    def labels(self, road: Road) -> Taught:
        """Return what its student learned from; nothing for a run without teachers.

        Raises:
            PocketError: The labels are gone, or are of others.
        """
        results = self.chain[0].results
        names = [str(teacher["name"]) for teacher in results.get("teachers", [])]
        if not names:
            return Taught()
        folder = road.store_folder(self.config.labels)
        try:
            store = LabelStore(folder)
            keys = [store.key(name) for name in results.get("labels") or names]
        except PocketError as error:
            raise PocketError(
                f"the soft labels that {self.folder} learned from are not in {folder}. Put that folder back, make them "
                f"anew with a run as this one was (`{self.chain[0].results.get('command')}`), or give --no-recover."
            ) from error
        gate = self.folder / GATE
        return Taught(store, keys, Gate.of(read_json(gate)) if gate.is_file() else None)


_SIZES = {"parameters", "flops", "bytes"}
# Of a row: what its entry says itself, and what another minute would measure otherwise.
_OF_THE_MOMENT = {"key", "name", "role", "status", "note", "calibrated", "latency_ms", "memory_mb", "file"}
# The verbs that train a student.
_DECIDES: dict[str, Callable[..., tuple[Any, RunConfig]]] = {"distill": decide, "train": decide_model}


def reopen(path: Path | str, images: Any = None) -> Reopened:
    """Open a finished run, or one that was compressed from another.

    Args:
        path: Its folder.
        images: Where its images are now, if they have moved.

    Raises:
        PocketError: It is unfinished, its images are gone, or it was made by a verb that trains no student.
    """
    run = Run(path)
    if not (run.folder / "student").is_dir():
        raise PocketError(f"{run.folder} has no student yet. Finish it first: give its command again with --resume.")
    chain = [run]
    while (settings := chain[0].settings).verb == "compress":
        chain.insert(0, Run(_beside(settings.model, chain[0].folder)))
    origin = chain[0]
    if settings.verb not in _DECIDES:
        raise PocketError(f"{origin.folder} was made by `pocketvit {settings.verb}`, which trains no student.")
    for one in chain:
        one.results  # noqa: B018 - an unfinished run is told here, not after the work
    student = load_model(run.folder / "student")
    settings = _rebased(settings, origin.folder)
    if student.preprocessing.window is not None:  # what it was trained with, whatever images are there now
        settings = dataclasses.replace(settings, window=student.preprocessing.window)
    settings, dataset = _images_of(origin, settings, images)
    if not dataset.classes:  # labels were the teachers' alone
        dataset = dataclasses.replace(dataset, classes=tuple(student.classes))
    _, config = _DECIDES[settings.verb](settings, dataset, ())
    if student.classes and tuple(student.classes) != tuple(dataset.classes):
        raise PocketError(
            f"{run.folder} knows the classes {', '.join(student.classes[:5])}..., and the images have "
            f"{', '.join(dataset.classes[:5])}.... Give the images that it was trained on."
        )
    notes = []
    scored, known = scored_of(dataset), origin.results["dataset"].get("fingerprint")
    if known is not None and scored is not None and scored.fingerprint != known:
        notes.append(
            f"the {scored.split} images are not those that {origin.folder.name} was measured on: were some added, or "
            f"is {settings.images} another set?"
        )
    weights = config.loss.teacher_weights
    if weights in FROM_VALIDATION and not (origin.folder / GATE).is_file():  # of an older version
        notes.append(f"teachers were weighed {weights.replace('_', ' ')}; in recovery they count alike")
        weights = "fixed"
    config = dataclasses.replace(
        config, loss=dataclasses.replace(config.loss, terms=(), teacher_weights=weights, hard_share=0.0)
    )
    about = student.preprocessing
    side = (about.input_size, about.mean, about.std)
    return Reopened(tuple(chain), settings, config, student, side, dataset, tuple(notes))


def _images_of(origin: Run, settings: Any, given: Any) -> tuple[Any, Dataset]:
    """Return the settings of a run with its images, and these opened.

    Args:
        origin: The run.
        settings: Its own.
        given: Where the images are now; None for where they were.

    Raises:
        PocketError: They are not there.
    """
    free = getattr(settings, "data_free", False)
    images = settings.images if given is None else given
    if free and given is None:
        images = _bank_of(origin)
    if isinstance(images, str) and images.startswith("("):
        raise PocketError(f"the images of {origin.folder} were a {images[1:-1]} given in Python. Give them again.")
    if isinstance(images, str) and images not in BUILT_IN and not Path(images).exists():
        raise PocketError(
            f"the images of {origin.folder} are not at {images} any more. Say where they are: --images PATH."
        )
    if not free:
        settings = dataclasses.replace(settings, images=images)
        return settings, open_dataset(settings)
    # As an ordinary source: what was said of making it holds for nothing else.
    settings = dataclasses.replace(
        settings, images=images, data_free=False, data=None, method="auto", generator="conv", prune_ratio=0.0,
        statistics=False, count=None,
    )  # fmt: skip
    return settings, dataclasses.replace(open_dataset(settings), name=str(origin.results["dataset"]["name"]))


def _bank_of(origin: Run) -> str:
    """Return the bank that a run without images made, as its results name it."""
    bank = origin.results.get("bank")
    named = Path(str(bank)) if bank else None
    moved = origin.folder.parent / "shared" / "banks" / named.name if named else None
    for folder in filter(None, (named, moved)):
        if (file := find_bank(folder)) is not None:
            return str(file)
    raise PocketError(
        f"{origin.folder} was made without images. Give those that it made: --images FILE, images.npz of the bank in "
        f"{origin.folder.parent / 'shared' / 'banks'} that `grep make {shlex.quote(str(origin.folder / 'train.log'))}` "
        "names."
    )


def _beside(path: Any, folder: Path) -> Path:
    """Return the run that another one names: by its name beside it, wherever both are now, else where it was."""
    named = Path(str(path))
    for place in (folder.parent / named.name, named):
        if (place / "config.yaml").is_file() and place.resolve() != folder.resolve():
            return place
    raise PocketError(f"{folder} was compressed from {path}, which is gone. Put it back, or begin with another run.")


def _rebased(settings: P, folder: Path) -> P:
    """Return a run's settings with relative paths as they were when it was made, whatever the working folder is now.

    That was where ``out`` leads from to the run; where it is not known, or nothing is there, paths stay as they are.
    """
    out, runs = Path(str(settings.out)), folder.resolve().parent
    depth = len(out.parts)
    if out.is_absolute() or runs.parts[len(runs.parts) - depth :] != out.parts:
        return settings
    base = Path(*runs.parts[: len(runs.parts) - depth])
    found: dict[str, Any] = {}
    for one in settings_of(type(settings)):
        value = getattr(settings, one.name)
        if one.exists and isinstance(value, str | Path) and str(value) not in BUILT_IN and (base / value).exists():
            found[one.name] = str(base / value)
    return dataclasses.replace(settings, **found)


def relative(path: Path, folder: Path) -> str:
    """Return a path as it is written in the results of a run in ``folder``."""
    return Path(os.path.relpath(path, folder)).as_posix()


def teacher_rows(origin: Run, road: Road, folder: Path) -> list[Entry]:
    """Return the rows of a run's teachers from its own results, so that none has to be loaded.

    Args:
        origin: The run that has them.
        road: Its scored split is compared with that of ``origin``.
        folder: Of the run that the rows are for.
    """
    results = origin.results
    held = origin.folder / "predictions.npz"
    arrays = dict(np.load(held)) if held.is_file() else {}
    source = road.scored
    measured = results.get("dataset", {}).get("fingerprint")
    other = source is not None and measured is not None and source.fingerprint != measured
    same = source is not None and source.parents is None and list(arrays.get("names", ())) == list(whole(source).names)
    same = same and not other
    entries = []
    for row in results["rows"]:
        if row.get("role") not in ("teacher", "teacher-int8") or row.get("status") != "measured":
            continue
        file = {"file": relative(origin.folder / row["file"], folder)} if row.get("file") else {}
        kept = _SIZES if other or (same and row["key"] in arrays) else set(row) - _OF_THE_MOMENT
        entries.append(
            Entry(
                row["key"], row["name"], row["role"], 0, calibrated=False,
                note=f"not loaded: its answers and size are those in {origin.folder.name}",
                probabilities=arrays.get(row["key"]) if same else None,
                extra={name: row[name] for name in row if name in kept and row[name] is not None} | file,
            )
        )  # fmt: skip
    return entries
