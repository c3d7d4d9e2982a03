"""Whether a mirrored picture of one class is one of another, as b is d: flips are then left out unasked.

A small classifier learns some of the labelled images and is asked about the others, as they are and turned over. Where
the labels of two classes change places, so do its answers. Where objects merely look one way it is at a loss about
mirrored ones, which it has not seen the like of; where it cannot tell classes apart it says nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from scipy.stats import mannwhitneyu
from sklearn.kernel_ridge import KernelRidge

from ..config import ViewConfig
from ..sources import Dataset, Source
from ..sources.base import in_threads
from ..sources.decode import decode_at, read_bytes, to_rgb8
from ..sources.listing import FileSource
from ..sources.packing import much_larger
from ..sources.subset import Subset, balanced
from ..sources.targets import labelled, several
from ..training.distributed import from_rank_zero, join_processes
from .decide import decide_view

SIDE = 32  # pixels in which images are compared
_BOUND = 4 * SIDE  # shorter side to which large files are decoded
_MOST, _PIXELS = 1500, 2_000_000_000  # images that are looked at, and their pixels: seconds
_LEAST = 8  # images of a class, fewer of which say nothing
_FOLDS = 5
_SAY = 3  # pairs of classes that are named
_CELLS, _ANGLES = 4, 16  # of the histograms of gradients: cells a side, and bins of a full turn
_RIDGE, _WIDTH = 0.1, 0.25  # of the Gaussian kernel on four groups of features, each of variance 1 in all
# How far answers go over to the other class: 0 where mirroring changes nothing, 1 where the two change places. Drawn
# letters, arrows, gratings, chirps and dials: 0.65 to 1 in both classes; 60 animals a class that look left: 0.5.
_EITHER, _BOTH = 0.5, 0.75  # in each of two classes, and in their mean
_ERRORS = 1  # standard errors that a mean may be off
_CHANCE = 1e-3  # of a false sign among all pairs of classes

_ASKED = {  # by setting: the axis of [N, S, S, 3] that it turns over, what is said, and how images are then called
    "flip": (2, "no flips", "mirrored"),
    "vertical_flip": (1, "no vertical flips", "upside down"),
}


def with_safe_flips(settings: Any, dataset: Dataset) -> tuple[Any, list[str]]:
    """Return the settings without the flips that would change labels, as far as none were asked for; say which.

    Args:
        settings: With the group Views.
        dataset: Opened; its labelled training and validation images are looked at.
    """
    view = decide_view(settings, dataset, None)[1]
    asked = [name for name in _ASKED if getattr(settings, name) is None and getattr(view, name) > 0]
    sources = [source for source in (dataset.train, dataset.val) if source is not None]
    if not asked or dataset.synthetic or len(dataset.classes) < 2 or any(several(one.targets) for one in sources):
        return settings, []
    found = _changes(sources, [_ASKED[name][0] for name in asked], view)
    who = join_processes(settings.device or "auto")
    pairs = from_rank_zero(dict(zip(asked, found, strict=True)), who.world)
    pairs = {name: some for name, some in pairs.items() if some}
    notes = []
    for name, some in pairs.items():
        _, left_out, turned = _ASKED[name]
        shown = ", ".join(f"{dataset.classes[one]!r} for {dataset.classes[other]!r}" for one, other in some[:_SAY])
        more = f", in {len(some)} pairs of classes" if len(some) > _SAY else ""
        notes.append(
            f"views    {left_out}: {turned}, images would be taken for those of another class ({shown}{more}, and the "
            f"other way round). --{name.replace('_', '-')} brings them back"
        )
    return dataclasses.replace(settings, **dict.fromkeys(pairs, False)), notes


def _changes(sources: list[Source], axes: list[int], view: ViewConfig) -> list[list[tuple[int, int]]]:
    """Return for each axis the pairs of classes that change places when images are turned over, the surest first."""
    chosen = list(_some(sources))
    targets = np.concatenate([np.asarray(some.targets) for some in chosen]) if chosen else np.empty(0, np.int64)
    names, counts = np.unique(targets, return_counts=True)
    names = names[counts >= _LEAST]
    if len(names) < 2:
        return [[] for _ in axes]
    kept = np.isin(targets, names)
    pixels = np.concatenate([_pixels(some, view.fit) for some in chosen])[kept]
    targets = np.searchsorted(names, targets[kept])
    groups = features(pixels)
    mean, scale = _scale(groups)
    ways = [(np.concatenate(groups, 1) - mean) * scale]
    ways += [(np.concatenate(features(np.flip(pixels, axis)), 1) - mean) * scale for axis in axes]
    as_is, *turned = _held_out_scores(ways, targets)
    return [[(int(names[a]), int(names[b])) for a, b in swapped(as_is, one, targets)] for one in turned]


def _some(sources: list[Source]) -> list[Subset]:
    """Labelled images, the classes taking turns; the same every time."""
    rest, found = _MOST, []
    for source in sources:
        rows = np.flatnonzero(labelled(source.targets))
        if len(rows) and rest:
            sides = source.described()[0][:, :2] if source.size is None else np.array([source.size])
            most = min(rest, max(1, int(_PIXELS / np.median(sides.astype(np.int64).prod(1)))))
            found.append(Subset(source, rows[balanced(Subset(source, rows), most)]))
            rest -= len(found[-1])
    return found


def _pixels(some: Subset, fit: str) -> np.ndarray:
    """Return images as uint8 [N, SIDE, SIDE, 3], square as views are. Of large files little more is ever decoded."""
    whole = some.source
    large = set(much_larger(whole, _BOUND).tolist()) if isinstance(whole, FileSource) else set()

    def squared(position: int) -> np.ndarray:
        row = int(some.positions[position])
        if row in large and isinstance(whole, FileSource):
            sides = whole.findings.shapes[row, :2].astype(np.int64)
            height, width = (int(side) for side in sides * _BOUND // sides.min())
            data = read_bytes(whole.paths[row], whole.names[row])
            pixels = to_rgb8(decode_at(data, whole.names[row], height, width), whole.window)
        else:
            pixels = some.rgb(np.array([position]))[0]
        picture, square = Image.fromarray(pixels), (SIDE, SIDE)
        if fit == "stretch":
            return np.asarray(picture.resize(square, Image.Resampling.LANCZOS))
        return np.asarray((ImageOps.pad if fit == "pad" else ImageOps.fit)(picture, square, Image.Resampling.LANCZOS))

    return np.stack(in_threads(squared, range(len(some))))


def features(pixels: np.ndarray) -> list[np.ndarray]:
    """Return four groups of features [N, D] of images uint8 [N, SIDE, SIDE, 3].

    Directions of gradients in the whole image (wherever something stands) and in its cells (Dalal & Triggs, "Histograms
    of Oriented Gradients", CVPR 2005; here dark to light is another direction than light to dark), coarse colours, and
    brightness in small.
    """
    count, cell = len(pixels), SIDE // _CELLS
    colours = pixels.astype(np.float32) / 255
    grey = colours.mean(3)
    grey -= grey.mean((1, 2), keepdims=True)
    down, right = np.zeros_like(grey), np.zeros_like(grey)
    down[:, 1:-1], right[:, :, 1:-1] = grey[:, 2:] - grey[:, :-2], grey[:, :, 2:] - grey[:, :, :-2]
    strength, angle = np.hypot(right, down), np.arctan2(down, right) / (2 * np.pi) * _ANGLES % _ANGLES
    lower = np.floor(angle).astype(np.int64)
    above = angle - lower
    at = np.arange(SIDE) // cell
    place = (np.arange(count)[:, None, None] * _CELLS + at[None, :, None]) * _CELLS + at[None, None, :]
    cells = np.zeros((count, _CELLS**2, _ANGLES))
    for bins, share in ((lower, 1 - above), (lower + 1, above)):
        index = place * _ANGLES + bins % _ANGLES
        cells += np.bincount(index.ravel(), (share * strength).ravel(), cells.size).reshape(cells.shape)
    cells /= cells.sum((1, 2), keepdims=True) + 1e-6
    coarse = colours.reshape(count, 8, SIDE // 8, 8, SIDE // 8, 3).mean((2, 4)).reshape(count, -1)
    small = grey.reshape(count, SIDE // 2, 2, SIDE // 2, 2).mean((2, 4)).reshape(count, -1)
    small /= small.std(1, keepdims=True) + 1e-3
    return [np.sqrt(cells.sum(1)), np.sqrt(cells.reshape(count, -1)), coarse, small]


def _scale(groups: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and factor of each feature, so that every group has variance 1 in all."""
    spread = [(one.std(0) + 1e-3 * one.std() + 1e-8) * np.sqrt(one.shape[1]) for one in groups]
    return np.concatenate([one.mean(0) for one in groups]), 1 / np.concatenate(spread)


def _held_out_scores(ways: list[np.ndarray], targets: np.ndarray) -> list[np.ndarray]:
    """Return scores [N, C] of images in each way, by classifiers that learned others, as those are (``ways[0]``)."""
    classes = int(targets.max()) + 1
    order, fold = np.random.default_rng(0).permutation(len(targets)), np.empty(len(targets), np.int64)
    for label in range(classes):  # each class in equal parts
        members = order[targets[order] == label]
        fold[members] = np.arange(len(members)) % _FOLDS
    scores = [np.empty((len(targets), classes)) for _ in ways]
    wanted = np.eye(classes)[targets] - 1 / classes
    for number in range(_FOLDS):
        held = fold == number
        fitted = KernelRidge(alpha=_RIDGE, kernel="rbf", gamma=_WIDTH).fit(ways[0][~held], wanted[~held])
        for answers, way in zip(scores, ways, strict=True):
            answers[held] = fitted.predict(way[held])
    return scores


def swapped(as_is: np.ndarray, turned: np.ndarray, targets: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of classes that change places, the surest first.

    Args:
        as_is: Scores [N, C] of images as they are, by a classifier that has not seen them.
        turned: Of the same images turned over.
        targets: int [N].
    """
    classes = as_is.shape[1]

    def margins(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[A, B]: by how much images of A have a higher score for A than for B: the mean, and its standard error."""
        each = [scores[targets == label] for label in range(classes)]
        each = [own[:, [label]] - own for label, own in enumerate(each)]
        return np.stack([own.mean(0) for own in each]), np.stack([own.std(0) / np.sqrt(len(own)) for own in each])

    (before, _), (after, error) = margins(as_is), margins(turned)
    apart = np.maximum(before + before.T, 1e-6)
    over = (before - after) / apart  # [A, B]: how far A goes over to B
    surely = over - _ERRORS * error / apart
    least, mean = np.minimum(surely, surely.T), (over + over.T) / 2
    far = (before + before.T > 0) & (least >= _EITHER) & (mean >= _BOTH)
    chance = _CHANCE / max(1, classes * (classes - 1) // 2)

    def above(scores: np.ndarray, a: int, b: int) -> bool:
        """Whether images of ``a`` are more ``a`` than ``b`` in comparison with those of ``b``, beyond doubt."""
        more = scores[:, a] - scores[:, b]
        return bool(mannwhitneyu(more[targets == a], more[targets == b], alternative="greater").pvalue <= chance)

    pairs = [(int(a), int(b)) for a, b in np.argwhere(np.triu(far, 1))]
    sure = [pair for pair in pairs if above(as_is, *pair) and above(-turned, *pair)]
    return sorted(sure, key=lambda pair: -mean[pair])
