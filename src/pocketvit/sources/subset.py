"""Fewer images, or fewer labels, of a source: for demos, recipes and learning curves."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import Source
from .checks import digest_of
from .targets import forgotten, labelled, strata


class Subset(Source):
    """Some images of another source, in the given order; they keep their ids, so their views stay the same."""

    def __init__(self, source: Source, positions: np.ndarray) -> None:
        self.source, self.positions = source, np.asarray(positions, dtype=np.int64)
        self.bound = source.bound
        super().__init__(
            name=source.name,
            split=source.split,
            classes=source.classes,
            ids=source.ids[self.positions],
            targets=source.targets[self.positions],
            names=[source.names[i] for i in self.positions],
            window=source.window,
            size=source.size,
            groups=None if source.groups is None else source.groups[self.positions],
            parents=None if source.parents is None else source.parents[self.positions],
            fingerprint=hashlib.sha256(source.fingerprint.encode() + self.positions.tobytes()).hexdigest(),
        )

    def __getitem__(self, position: int) -> tuple[np.ndarray, Any]:
        return self.source[int(self.positions[position])][0], self.target(position)

    def described(self) -> tuple[np.ndarray, np.ndarray]:
        shapes, depths = self.source.described()
        return shapes[self.positions], depths[self.positions]

    def rgb(self, positions: np.ndarray) -> np.ndarray | list[np.ndarray]:
        return self.source.rgb(self.positions[positions])


def shared_images(source: Source, *others: Source) -> int:
    """Return how many images of ``source`` stand in one of the others, too: equal pixels, whatever the files."""
    found = all(hasattr(each, "findings") for each in (source, *others))  # by the checks, which looked at all of them
    there = {look for other in others for look in _looks(other, found)}
    return sum(look in there for look in _looks(source, found))


def _looks(source: Source, found: bool) -> Sequence[bytes]:
    """Return a hash of the pixels of each image."""
    if found:
        return source.findings.looks  # type: ignore[attr-defined]
    return [digest_of(source[position][0]) for position in range(len(source))]


def repeated(source: Source, positions: np.ndarray, count: int) -> Subset:
    """Return ``count`` images that take turns over ``positions``; every repetition has augmentations of its own."""
    turn, which = np.divmod(np.arange(count), len(positions))
    result = Subset(source, np.asarray(positions)[which])
    with np.errstate(over="ignore"):
        result.ids = result.ids + turn.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return result


def balanced(source: Source, count: int, seed: int = 0) -> np.ndarray:
    """Return ``count`` positions, the classes taking turns (fewer where a class runs out), in ascending order.

    Of several labels an image's rarest one counts.
    """
    drawn_by = strata(source.targets)
    order = np.random.default_rng(seed).permutation(len(source))
    turn = np.zeros(len(source), np.int64)
    for label in np.unique(drawn_by):
        members = order[drawn_by[order] == label]
        turn[members] = np.arange(len(members))
    return np.sort(order[np.argsort(turn[order], kind="stable")[:count]])


def few_labelled(source: Source, count: int) -> Source:
    """Return a source with all but ``count`` of its labels forgotten, the classes taking turns."""
    rows = np.flatnonzero(labelled(source.targets))
    return hide_labels(source, rows[balanced(Subset(source, rows), count)])


def hide_labels(source: Source, keep: np.ndarray) -> Source:
    """Return the same images with the labels of all but ``keep`` forgotten."""
    hidden = copy.copy(source)
    hidden.targets = forgotten(source.targets, keep)
    return hidden
