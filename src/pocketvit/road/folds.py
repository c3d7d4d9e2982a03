"""The stage of cross-validation: a student per fold, each answering the images that it never saw.

The student that ships is the run's own. Its folds say what such a student is worth when a test split would be too small
to tell: everything that learned from labels (adapted teachers, soft labels, student, baseline, temperature, operating
point) is made anew in each fold, by the same stages.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PocketError
from ..files import human_time, read_arrays, read_json, write_json
from ..metrics import OperatingPoint
from ..metrics.crossvalidation import FoldScores, OutOfFold, pool_folds, write_predictions
from ..settings import Distill, Settings
from ..sources import Dataset, open_folds, pack_dataset
from ..sources.packing import bound_for
from ..sources.targets import labelled
from ..sources.tiles import whole
from ..tasks import task_named
from ..training.distributed import from_rank_zero
from ..views import Views
from .adapt import Adapt
from .answering import network_answers
from .assist import Assist, LabelAgain
from .base import Cost, Stage, Walk, walk
from .baselines import Baselines
from .images import VIEW_SEED, Road, memory_of, shared_folder
from .label import Label
from .measuring import Entry, point_source, take_answers
from .report import save_arrays
from .train import Train, calibrate

log = logging.getLogger("pocketvit")

FEW = 500  # labelled images below which folds are made unasked
USUAL = 5
PATIENCE = 300.0  # seconds that folds may take unasked
_WORDS = {"accuracy": "accuracy", "auc": "AUC", "balanced_accuracy": "balanced accuracy", "kappa": "kappa"}
_FOLD: tuple[Stage, ...] = (Adapt(), Label(), Assist(), LabelAgain(), Train(), Baselines())


class Folds(Stage):
    """A student per fold, and what they answered, pooled."""

    name = "folds"
    reads = ("images", "teachers", "student")
    writes = ("folds",)

    def cost(self, walk: Walk) -> Cost:
        asked = walk.settings.folds
        if asked is None and (walk.images.synthetic or not fold_datasets(walk.settings, walk.road.dataset, None)):
            return Cost()
        count = USUAL if asked is None else asked
        if count < 2:
            return Cost()
        costs = [stage.cost(walk) for stage in _FOLD]
        seconds, size = (count * sum(getattr(cost, what) for cost in costs) for what in ("seconds", "bytes"))
        if asked is not None:
            return Cost(seconds, size)
        told = f"folds    {USUAL} students more, about {human_time(seconds)}"
        if seconds > PATIENCE:
            return Cost(told=(f"{told}: left out (--folds {USUAL}: with them)",))
        return Cost(seconds, size, (f"{told} (--folds 0: without)",))

    def beside(self, walk: Walk) -> float:
        others = sum(stage.cost(walk).seconds for stage in _FOLD if not stage.trains(walk))
        return (walk.settings.folds or 0) * others

    def trains(self, walk: Walk) -> int:
        return (walk.settings.folds or 0) * sum(stage.trains(walk) for stage in _FOLD)

    def run(self, walk: Walk) -> None:
        datasets = fold_datasets(walk.settings, walk.road.dataset, shared_folder(walk) / "checked")
        if datasets and affordable(walk):
            cross_validate(walk, datasets)


def labelled_images(dataset: Dataset) -> int:
    """Return how many images of all splits have a label; tiles of one image are one."""
    return sum(int(labelled(whole(source).targets).sum()) for source in dataset.splits.values())


def check_folds(settings: Settings, dataset: Dataset) -> None:
    """Refuse folds that were asked for and cannot be made, rather than after the student's training."""
    if isinstance(settings, Distill) and settings.folds:
        fold_datasets(settings, dataset, memory_of(settings))


def fold_datasets(settings: Any, dataset: Dataset, memory: Path | None) -> list[Dataset]:
    """Return a dataset per fold; none where they were neither asked for nor are of use, or cannot be made unasked.

    Args:
        settings: Of the run.
        dataset: Its images, opened.
        memory: Where is remembered what was found of the files.

    Raises:
        PocketError: They were asked for, and cannot be made.
    """
    given, count, asked = settings.images, labelled_images(dataset), settings.folds is not None
    if not task_named(dataset.task).pools:
        if asked and settings.folds:
            raise PocketError("--folds: boxes of several folds are not pooled yet. Leave it away.")
        return []
    if settings.val is not None or settings.test is not None:  # a split of their own
        if asked and settings.folds:
            raise PocketError("--folds divides the images anew, and --val and --test are a split: leave one away.")
        return []
    if settings.folds in (0, 1) or (not asked and (not 0 < count < FEW or isinstance(given, Dataset))):
        return []
    try:
        return open_folds(
            given, settings.folds if asked else USUAL,
            labels=settings.table, group=settings.group, window=settings.window, tile=settings.tile,
            unlabelled=getattr(settings, "unlabelled", None), progress=False,
            memory=memory,
        )  # fmt: skip
    except PocketError:
        if asked:
            raise
        return []  # a split of their own, a class of few images: what there is must do


def affordable(walk: Walk) -> bool:
    """Whether folds that nobody asked for take minutes, going by what the run itself took; decided once per run."""
    if walk.settings.folds is not None:
        return True
    who, choice = walk.road.processes, walk.folder / "folds" / "choice.json"
    if who.rank == 0 and not choice.is_file():
        seconds = walk.seconds(*(stage.name for stage in _FOLD))
        write_json(choice, {"seconds": seconds, "made": USUAL * seconds <= PATIENCE})
    decided: dict[str, Any] = from_rank_zero(read_json(choice) if who.rank == 0 else {}, who.world)
    if not decided["made"]:
        log.warning(
            "warning  so few test images say little. %d folds would take about %s more, so they were left out: ask for "
            "them with --folds %d",
            USUAL, human_time(USUAL * decided["seconds"]), USUAL,
        )  # fmt: skip
    return decided["made"]


def cross_validate(state: Walk, datasets: Sequence[Dataset]) -> None:
    """Train and test a student per fold, or read what is there, and pool what they answered.

    Into the run's folder go ``folds/N/``, and ``predictions.csv`` with the student's answers to images it never saw;
    into the walk rows and notes.
    """
    shared, who = state.road.shared, state.road.processes
    given = []
    for number, dataset in enumerate(datasets, 1):
        place = state.folder / "folds" / str(number)
        if not _made(place, state.config.train.seconds):
            log.info("%s", next(note for note in dataset.notes if note.startswith("fold ")))
            start = time.monotonic()
            packed = pack_dataset(dataset, shared / "packs", bound=bound_for(state.config.view.view_size))
            road = Road(packed, Views(packed.train, state.config.view, seed=VIEW_SEED), shared, who)
            fold = Walk(state.settings, state.config, place, dataset, state.specs, state.device, road)
            walk(_FOLD, fold, have=("images",))
            if who.rank > 0:
                continue
            learned = {"seconds": np.array(state.config.train.seconds)}  # with more of them the fold goes on
            save_arrays(place / "answers.npz", _answers(fold) | learned)
            log.info("         done in %s", human_time(time.monotonic() - start))
        if who.rank == 0:
            given.append(read_arrays(place / "answers.npz"))
    if who.rank == 0:
        _pool(state, given, datasets[0])


def _made(place: Path, seconds: float) -> bool:
    """Whether a fold is done, by networks that learned for so long; 0 where they go by epochs."""
    file = place / "answers.npz"
    return file.is_file() and (not seconds or float(read_arrays(file).get("seconds", seconds)) == seconds)


def _answers(fold: Walk) -> dict[str, np.ndarray]:
    """What everybody answered on a fold's test images, and the points chosen on validation."""
    road = fold.road
    source, judged = road.dataset.test, point_source(road)
    assert source is not None
    tested = whole(source)
    arrays: dict[str, np.ndarray] = {"names": np.array(tested.names), "targets": tested.targets}
    if tested.groups is not None:
        names = road.dataset.group_names
        arrays["groups"] = np.array([names[one] if one < len(names) else f"({one})" for one in tested.groups.tolist()])
    entries = list(fold.entries)
    for key in ("student", "alone"):
        if key not in fold.networks:
            continue
        model, side = fold.networks[key], fold.input
        arrays[f"calibrated-{key}"] = np.array(calibrate(model, road, side))
        entries.append(Entry(key, key, "other", side[0], network_answers(model, side, road.task)))
    take_answers(entries, road)
    for entry in entries:
        assert entry.probabilities is not None
        arrays[entry.key] = tested.per_image(entry.probabilities)
        if entry.role == "teacher":
            arrays[f"name-{entry.key}"] = np.array(entry.name)
        elif judged is not None and entry.validation is not None:
            seen = whole(judged)
            point = road.task.point(seen.per_image(entry.validation), seen.targets, source.classes)
            if point is not None:
                arrays[f"point-{entry.key}"] = np.array([point.positive, point.threshold])
                arrays[f"chosen-{entry.key}"] = np.array(point.chosen)
    return arrays


def _pool(state: Walk, folds: Sequence[dict[str, np.ndarray]], dataset: Dataset) -> None:
    """Pool the answers of all folds, a row for everyone who answered in each of them."""
    task = task_named(dataset.task)
    teachers = sorted(key for key in folds[0] if key.startswith("teacher-"))
    names = {key: str(folds[0][f"name-{key}"]) for key in teachers}
    student = "student, distilled" if state.teachers else state.config.network.name
    names |= {"student": student, "alone": "student without a teacher"}
    fold = np.concatenate([np.full(len(one["targets"]), number) for number, one in enumerate(folds, 1)])
    together = {key: np.concatenate([one[key] for one in folds]) for key in ("names", "targets")}
    groups = np.concatenate([one["groups"] for one in folds]) if "groups" in folds[0] else None
    given_weights = {teacher.fingerprint["weights"] for teacher in state.specs}
    ready = [teacher.fingerprint["weights"] in given_weights for teacher in state.teachers]
    for key in (*teachers, "student", "alone"):
        if not all(key in one for one in folds):
            continue
        probabilities = np.concatenate([one[key] for one in folds])
        given = OutOfFold(together["names"].tolist(), fold, together["targets"], probabilities, groups)
        points = {number: _point(one, key) for number, one in enumerate(folds, 1)}
        scores = pool_folds(given, dataset.classes, judge=task.judge, points=points)
        row: dict[str, Any] = {
            "key": f"{key}-folds",
            "name": f"{names[key]}, {len(folds)} folds pooled",
            "role": "other",
        }
        row |= {"status": "measured", "folds": len(folds), **scores.pooled.fields()}
        row["chance"] = task.chance(together["targets"])  # of all images, not of the test split's few
        row["note"] = "every image answered once, by a network that it was held out from"
        if key.startswith("teacher-") and ready[int(key.removeprefix("teacher-")) - 1]:
            row["note"] = "every image answered once; it was not made anew, and may have learned from these images"
        elif key == "student" and any(ready):
            row["note"] += "; its teacher was not made anew, and may have learned from it"
        row["calibrated"] = all(bool(one.get(f"calibrated-{key}", False)) for one in folds)
        row["by_fold"] = [{"fold": number, **one.fields()} for number, one in sorted(scores.folds.items())]
        state.fold_rows.append(row)
        if key == "student":
            answered = task.answered(probabilities)
            write_predictions(state.folder / "predictions.csv", given, dataset.classes, task.named, answered)
        if key in ("student", "alone"):
            state.notes.append(f"{names[key]}, fold by fold: {_spread(scores)}")
    state.notes.append(
        f"every image's answer by the student that never saw it stands in {state.folder.name}/predictions.csv; the "
        "student that ships was trained once more, on the split named above"
    )


def _point(fold: dict[str, np.ndarray], key: str) -> OperatingPoint | None:
    if f"point-{key}" not in fold:
        return None
    positive, threshold = fold[f"point-{key}"].tolist()
    return OperatingPoint(int(positive), threshold, str(fold[f"chosen-{key}"]))


def _spread(scores: FoldScores) -> str:
    parts = []
    for name, words in _WORDS.items():
        spread = scores.spread.get(name)
        if spread is not None:
            plain: dict[str, Any] = {"scale": 1.0, "digits": 3, "unit": ""} if name in ("auc", "kappa") else {}
            parts.append(f"{words} {spread.words(**plain)}")
    return "; ".join(parts)
