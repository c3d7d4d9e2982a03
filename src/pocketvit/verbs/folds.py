"""Cross-validation of a run: a student a fold, each answering the images that it never saw.

The student that ships is the run's own. Its folds say what such a student is worth when a test split would be too small
to tell: everything that learned from labels (adapted teachers, soft labels, student, baseline, temperature, operating
point) is made anew in each fold.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import RunConfig
from ..errors import PocketError
from ..files import human_time, read_json, write_json
from ..sources import Dataset, open_folds, pack_dataset
from ..sources.targets import labelled
from ..sources.tiles import whole
from ..tasks.folds import FoldScores, OutOfFold, pool_folds, write_predictions
from ..tasks.screening import OperatingPoint, choose_point, positive_class
from ..training.distributed import Processes, from_rank_zero
from ..views import Views
from .companions import train_alone
from .measure import answers, point_source, save_arrays
from .stages import VIEW_SEED, Road, calibrate, check_served, label_road, probabilities_of, train_student
from .teach import ready_teachers

log = logging.getLogger("pocketvit")

FEW = 500  # labelled images below which folds are made unasked
USUAL = 5
PATIENCE = 300.0  # seconds that folds may take unasked
_WORDS = {"accuracy": "accuracy", "auc": "AUC", "balanced_accuracy": "balanced accuracy", "kappa": "kappa"}


@dataclass
class CrossValidation:
    """What the folds say: rows for the table, and sentences."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def labelled_images(dataset: Dataset) -> int:
    """Return how many images of all splits have a label; tiles of one image are one."""
    return sum(int(labelled(whole(source).targets).sum()) for source in dataset.splits.values())


def fold_datasets(config: RunConfig, images: Any, dataset: Dataset) -> list[Dataset]:
    """Return a dataset a fold; none where they were neither asked for nor are of use, or cannot be made unasked."""
    count = labelled_images(dataset)
    asked = config.folds is not None
    if config.folds in (0, 1) or (not asked and (not 0 < count < FEW or isinstance(images, Dataset))):
        return []
    try:
        return open_folds(
            images, USUAL if config.folds is None else config.folds,
            labels=config.labels, group=config.group, window=config.window, tile=config.tile, progress=False,
        )  # fmt: skip
    except PocketError:
        if asked:
            raise
        return []  # a split of their own, a class of few images: what there is must do


def affordable(folder: Path, config: RunConfig, seconds: float, who: Processes) -> bool:
    """Whether folds that nobody asked for take minutes, going by what the run itself took; decided once a run."""
    if config.folds is not None:
        return True
    choice = folder / "folds" / "choice.json"
    if who.rank == 0 and not choice.is_file():
        write_json(choice, {"seconds": seconds, "made": USUAL * seconds <= PATIENCE})
    decided: dict[str, Any] = from_rank_zero(read_json(choice) if who.rank == 0 else {}, who.world)
    if not decided["made"]:
        log.warning(
            "warning  so few test images say little. %d folds would take about %s more, so they were left out: ask for "
            "them with --folds %d",
            USUAL, human_time(USUAL * decided["seconds"]), USUAL,
        )  # fmt: skip
    return decided["made"]


def cross_validate(
    folder: Path, datasets: Sequence[Dataset], config: RunConfig, specs: Sequence[Any], shared: Path, who: Processes
) -> CrossValidation:
    """Train and test a student a fold, or read what is there, and pool what they answered.

    Into the run's folder go ``folds/N/``, and ``predictions.csv`` with the student's answers to images it never saw.
    """
    given = []
    for number, dataset in enumerate(datasets, 1):
        place = folder / "folds" / str(number)
        if not (place / "answers.npz").is_file():
            log.info("%s", next(note for note in dataset.notes if note.startswith("fold ")))
            start = time.monotonic()
            packed = pack_dataset(dataset, shared / "packs")
            road = Road(packed, Views(packed.train, config.view, seed=VIEW_SEED), shared, who)
            arrays = _fold(road, config, specs, place)
            if who.rank > 0:
                continue
            save_arrays(place / "answers.npz", arrays)
            log.info("         done in %s", human_time(time.monotonic() - start))
        if who.rank == 0:
            with np.load(place / "answers.npz", allow_pickle=False) as file:
                given.append({name: file[name] for name in file.files})
    return _pooled(folder, given, datasets[0]) if who.rank == 0 else CrossValidation()


def _fold(road: Road, config: RunConfig, specs: Sequence[Any], place: Path) -> dict[str, np.ndarray]:
    """Walk one fold; return what everybody answered on its test images, and the thresholds chosen on validation."""
    teachers = ready_teachers(road, config, specs)
    store = label_road(road, teachers, config)
    check_served(store, teachers, config)
    student = train_student(road, config, place, teachers=teachers, store=store, resume=True)
    alone = train_alone(road, config, place / "alone")
    source, judged = road.dataset.test, point_source(road)
    assert source is not None
    tested = whole(source)
    arrays: dict[str, np.ndarray] = {"names": np.array(tested.names), "targets": tested.targets}
    if tested.groups is not None:
        known = road.dataset.group_names
        arrays["groups"] = np.array([known[one] if one < len(known) else f"({one})" for one in tested.groups.tolist()])
    for number, teacher in enumerate(teachers, 1):
        arrays[f"teacher-{number}"] = tested.per_image(probabilities_of(teacher, source, road.view))
        arrays[f"name-{number}"] = np.array(teacher.name)
    for key, model in (("student", student), ("alone", alone)):
        if model is None:
            continue
        calibrate(model, road)
        given = answers(model, source, road.view, road.input)
        assert given is not None
        arrays[key] = tested.per_image(given)
        if judged is not None:
            checked = answers(model, judged, road.view, road.input)
            assert checked is not None
            seen = whole(judged)
            point = choose_point(seen.per_image(checked), seen.targets, positive_class(source.classes))
            if point is not None:
                arrays[f"point-{key}"] = np.array([point.positive, point.threshold])
                arrays[f"chosen-{key}"] = np.array(point.chosen)
    return arrays


def _pooled(folder: Path, folds: Sequence[dict[str, np.ndarray]], dataset: Dataset) -> CrossValidation:
    """Pool the answers of all folds, a row for everyone who answered in each of them."""
    result = CrossValidation()
    teachers = sorted(key for key in folds[0] if key.startswith("teacher-"))
    names = {key: f"teacher: {folds[0][key.replace('teacher', 'name')]}" for key in teachers}
    names |= {"student": "student, distilled", "alone": "student without a teacher"}
    fold = np.concatenate([np.full(len(one["targets"]), number) for number, one in enumerate(folds, 1)])
    together = {key: np.concatenate([one[key] for one in folds]) for key in ("names", "targets")}
    groups = np.concatenate([one["groups"] for one in folds]) if "groups" in folds[0] else None
    for key in (*teachers, "student", "alone"):
        if not all(key in one for one in folds):
            continue
        given = OutOfFold(
            together["names"].tolist(), fold, together["targets"], np.concatenate([one[key] for one in folds]), groups
        )
        points = {number: _point(one, key) for number, one in enumerate(folds, 1)}
        scores = pool_folds(given, dataset.classes, task=dataset.task, points=points)
        row: dict[str, Any] = {
            "key": f"{key}-folds",
            "name": f"{names[key]}, {len(folds)} folds pooled",
            "role": "other",
        }
        row |= {"status": "measured", "folds": len(folds), **scores.pooled.fields()}
        row["note"] = "every image answered once, by a network that it was held out from"
        row["calibrated"] = not key.startswith("teacher")
        row["by_fold"] = [{"fold": number, **one.fields()} for number, one in sorted(scores.folds.items())]
        result.rows.append(row)
        if key == "student":
            write_predictions(folder / "predictions.csv", given, dataset.classes)
        if key in ("student", "alone"):
            result.notes.append(f"{names[key]}, fold by fold: {_spread(scores)}")
    result.notes.append(
        f"every image's answer by the student that never saw it stands in {folder.name}/predictions.csv; the student "
        "that ships was trained once more, on the split named above"
    )
    return result


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
            plain = {"scale": 1.0, "digits": 3, "unit": ""} if name in ("auc", "kappa") else {}
            parts.append(f"{words} {spread.words(**plain)}")  # type: ignore[arg-type]
    return "; ".join(parts)
