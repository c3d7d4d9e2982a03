"""What ``predictions.npz`` and ``samples.npz`` show: confusions, weak classes, where student and teachers disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from ..errors import PocketError
from ..files import read_arrays
from ..tasks import Task
from .by_box import seen
from .results import Results, Row

MAX_DISAGREEMENTS = 24  # images on which student and teachers differ that a report shows


@dataclass(frozen=True)
class Predictions:
    """Probabilities of each row's model on the scored images.

    Attributes:
        targets: int64 [n], -1 where the truth is not known.
        names: the n file names.
        probabilities: row key -> float32 [n, C], as the table's figures were made of them.
    """

    targets: np.ndarray
    names: tuple[str, ...]
    probabilities: dict[str, np.ndarray]


@dataclass(frozen=True)
class Samples:
    """Pictures for the page: what the student was shown, and scored images by position.

    Attributes:
        views: uint8 [m, S, S, 3] with their ``view_labels`` (class indices or words).
        test: scored position -> uint8 [S, S, 3].
        heat: scored images with maps of where the student looks.
        seen: scored images with boxes on them, see `by_box.seen`.
    """

    views: np.ndarray
    view_labels: tuple[str, ...]
    test: dict[int, np.ndarray]
    heat: tuple[Heat, ...] = ()
    seen: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Heat:
    """Where the student looks in one scored image.

    Attributes:
        name: Of the file.
        image: uint8 [S, S, 3].
        truth: Index of its class, -1 where unknown.
        answer: Index of the student's class.
        gradient: floating [S', S'], 0 to 1.
        rollout: floating [h, w], 0 to 1; None where the student has no attention.
    """

    name: str
    image: np.ndarray
    truth: int
    answer: int
    gradient: np.ndarray
    rollout: np.ndarray | None


@dataclass(frozen=True)
class Guess:
    """What one model says of one image."""

    who: str
    says: str
    probability: float
    right: bool | None  # None: the truth is not known


@dataclass(frozen=True)
class Disagreement:
    """A scored image on which the student's answer is not the teachers'."""

    position: int
    name: str
    truth: str
    guesses: tuple[Guess, ...]  # the student's first


@dataclass(frozen=True)
class Disagreements:
    """The images on which student and teachers differ, most confident first, and how often who was right."""

    student: Row
    teachers: tuple[Row, ...]
    n: int
    items: tuple[Disagreement, ...]
    student_right: int
    teachers_right: int
    neither: int
    judged: bool  # False: no truths are known, so nobody can be called right


def load_predictions(results: Results) -> tuple[Predictions | None, str]:
    """Read the predictions of a run: (predictions, "") or (None, why there are none)."""
    arrays, why = _arrays(results, results.predictions)
    if arrays is None:
        return None, f"no predictions of single images: {why}"
    targets = arrays.get("targets")
    if not results.task.exclusive:
        return None, f"what is taken for what, image by image: {results.task.decided}"
    if targets is None or targets.ndim != 1 or len(targets) == 0:
        return None, f"no predictions of single images: {results.predictions} holds no targets"
    count = len(targets)
    names = arrays.get("names")
    words = tuple(map(str, names)) if names is not None and len(names) == count else tuple(map(str, range(count)))
    probabilities = {
        key: array.astype(np.float32)
        for key, array in arrays.items()
        if key not in ("targets", "names") and array.ndim == 2 and len(array) == count and array.shape[1] > 1
    }
    return Predictions(targets.astype(np.int64), words, probabilities), ""


def load_samples(results: Results) -> Samples:
    """Read the pictures of a run; without the file there are none."""
    arrays, _ = _arrays(results, results.samples)
    arrays = arrays or {}
    views = arrays.get("views", np.zeros((0, 1, 1, 3), np.uint8))
    labels = arrays.get("labels", np.zeros(0, np.int64))
    words = [_label_words(results, label) for label in labels]
    images = arrays.get("test_images", np.zeros((0, 1, 1, 3), np.uint8))
    positions = arrays.get("test_positions", np.arange(len(images)))
    test = {int(position): image for position, image in zip(positions, images, strict=False)}
    return Samples(views, (*words, *[""] * (len(views) - len(words))), test, _heat(arrays), tuple(seen(arrays)))


def _label_words(results: Results, label: Any) -> str:
    """Return a target in words, or words that were stored as such."""
    label = np.asarray(label)
    if label.dtype.kind not in "iu":
        return str(label)
    if (label < 0).any():
        return "unknown"
    names = [class_name(results.classes, index) for index in range(max(label.max() + 1, label.size))]
    return results.task.named(label, names) or "none"


def label_counts(results: Results) -> tuple[list[int], int]:
    """Return on how many scored images each of several labels is there, and of how many; empty without predictions."""
    arrays, _ = _arrays(results, results.predictions)
    targets = (arrays or {}).get("targets")
    if targets is None or results.task.exclusive or targets.ndim != 2:
        return [], 0
    known = targets[(targets >= 0).all(1)]
    return [int(count) for count in (known == 1).sum(0)], len(known)


def _heat(arrays: dict[str, np.ndarray]) -> tuple[Heat, ...]:
    names = ("heat_names", "heat_images", "heat_targets", "heat_answers", "heat_gradient")
    if any(name not in arrays for name in names):
        return ()
    rollouts = arrays.get("heat_rollout", [None] * len(arrays["heat_names"]))
    columns = zip(*(arrays[name] for name in names), rollouts, strict=False)
    return tuple(
        Heat(str(name), image, int(truth), int(answer), gradient, rollout)
        for name, image, truth, answer, gradient, rollout in columns
    )


def class_name(classes: Sequence[str], index: int) -> str:
    """Return the name of a class, its number where it has none, and "unknown" for -1."""
    index = int(index)
    if index < 0:
        return "unknown"
    return classes[index] if index < len(classes) else str(index)


def confusion(predictions: Predictions, key: str) -> np.ndarray | None:
    """Return the confusion matrix int [C, C] (rows: truth) of one row over the images whose truth is known."""
    probabilities = predictions.probabilities.get(key)
    known = predictions.targets >= 0
    if probabilities is None or not known.any():
        return None
    count = max(probabilities.shape[1], int(predictions.targets.max()) + 1)
    return confusion_matrix(predictions.targets[known], probabilities[known].argmax(1), labels=range(count))


def frequent_confusions(counts: np.ndarray, classes: Sequence[str], limit: int) -> list[tuple[str, str, int, int]]:
    """Return (truth, prediction, times, images of the true class), the most frequent confusions first."""
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind="stable")[:limit]
    pairs = [tuple(int(i) for i in np.unravel_index(place, errors.shape)) for place in order]
    return [
        (class_name(classes, truth), class_name(classes, guess), int(errors[truth, guess]), int(counts[truth].sum()))
        for truth, guess in pairs
        if errors[truth, guess] > 0
    ]


def weakest_classes(counts: np.ndarray, classes: Sequence[str], limit: int) -> list[tuple[str, float, int]]:
    """Return (class, accuracy, images), the lowest accuracy first; classes without images are left out."""
    totals = counts.sum(axis=1)
    present = np.flatnonzero(totals)
    accuracy = counts.diagonal()[present] / totals[present]
    order = np.argsort(accuracy, kind="stable")[:limit]
    return [(class_name(classes, present[i]), float(accuracy[i]), int(totals[present[i]])) for i in order]


def disagreements(results: Results, predictions: Predictions) -> Disagreements | None:
    """Find the images where the student's first answer is not that of the teachers' mean probability.

    The student is the file that ships where its predictions are stored. Returns None where the student's or the
    teachers' predictions are missing.
    """
    stored = predictions.probabilities
    student = next((row for row in (results.shipped, results.student) if row is not None and row.key in stored), None)
    teachers = tuple(row for row in results.teacher_rows if row.key in stored)
    if student is None or not teachers:
        return None
    ours = stored[student.key]
    theirs = [stored[row.key] for row in teachers]
    if any(array.shape != ours.shape for array in theirs):
        return None
    together = np.mean(theirs, axis=0)
    answer, teachers_answer = ours.argmax(1), together.argmax(1)
    differing = _differing(ours, together)
    items = []
    for position in differing:
        truth = int(predictions.targets[position])
        guesses = tuple(
            Guess(
                row.name,
                class_name(results.classes, array[position].argmax()),
                float(array[position].max()),
                None if truth < 0 else bool(array[position].argmax() == truth),
            )
            for row, array in zip((student, *teachers), (ours, *theirs), strict=True)
        )
        name = predictions.names[position]
        items.append(Disagreement(int(position), name, class_name(results.classes, truth), guesses))
    truths = predictions.targets[differing]
    known = truths >= 0
    student_right = int((known & (answer[differing] == truths)).sum())
    teachers_right = int((known & (teachers_answer[differing] == truths)).sum())
    neither = int(known.sum()) - student_right - teachers_right
    judged = bool((predictions.targets >= 0).any())
    return Disagreements(student, teachers, len(answer), tuple(items), student_right, teachers_right, neither, judged)


def shown_positions(
    rows: Iterable[Row | Mapping[str, Any]], arrays: Mapping[str, np.ndarray], task: Task
) -> np.ndarray:
    """Return int64 positions of the scored images that a report shows: those that `disagreements` lists first.

    Whoever writes ``samples.npz`` stores these as ``test_images``, and no others.

    Args:
        rows: Of the honest table.
        arrays: Of ``predictions.npz``.
        task: Of the images.
    """
    given = [row for row in map(Row.read, rows) if row.key in arrays]
    theirs = [arrays[row.key] for row in given if row.role == "teacher"]
    ours = next((arrays[row.key] for role in ("int8", "student") for row in given if row.role == role), None)
    if ours is None or not theirs or not task.exclusive:
        return np.zeros(0, np.int64)
    return _differing(ours, np.mean(theirs, axis=0))[:MAX_DISAGREEMENTS]


def _differing(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return int64 positions of the images that are answered otherwise, those that both are surest of first."""
    differing = np.flatnonzero(ours.argmax(1) != theirs.argmax(1))
    confidence = ours.max(1)[differing] * theirs.max(1)[differing]
    return differing[np.argsort(-confidence, kind="stable")]


def _arrays(results: Results, name: str) -> tuple[dict[str, np.ndarray] | None, str]:
    path = (results.folder or Path()) / name
    if not path.is_file():
        return None, f"{name} is not in the run folder"
    try:
        return read_arrays(path), ""
    except PocketError as error:
        return None, f"{name} could not be read ({error})"
