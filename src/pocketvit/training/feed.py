"""What gives a training its batches: views, their targets and the teachers' stored (or live) outputs, in a keyed order.

Nothing here has a state that a resumed run would have to restore: batch ``b`` of epoch ``e`` is a function of the seed,
``e`` and ``b`` alone. One thread renders ahead of the step, because a view costs little beside a training step and is
cheapest in chunks of about a thousand images; another reads the labels of the next epoch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch

from ..errors import PocketError
from ..files import sha256_of
from ..labels import LabelStore
from ..labels.manifest import digest
from ..objectives.batch import Batch
from ..sources.base import Source
from ..sources.targets import image_level, labelled, targets_digest
from ..tasks import Task, task_named
from ..teachers import Teacher
from ..views import ViewBatch, Views
from ..views.ahead import Ahead
from ..views.streaming import chunks
from .features import LiveFeatures, StoredFeatures

CLASSIFICATION = task_named("classification")

_Key = tuple[int, int]
"""Epoch and step."""

_Stored = tuple[list[Any], np.ndarray | None]
"""Labels of an epoch, and the images (ascending) that their rows belong to; None for all images in order."""


class Feed:
    """Batches for each epoch, the same for any way of stopping and starting.

    Epoch ``e`` uses view ``e mod view_count`` (a fresh view each epoch without a count) and shows every image once, in
    an order keyed by (seed, epoch). Partners of a mixed view are shuffled together and never split. Batches are of
    nearly equal size: a remainder is spread over all of them, so that none is left with a few images.

    Args:
        views: Renders the training source.
        batch_size: Images of a batch over all ranks (the most; see above).
        labels: A soft-label store of these very images and views, or None.
        teachers: Their names in the store, in the order of the loss's terms.
        task: Says what kind of records its loss takes, and makes targets and live labels of a batch.
        view_count: Views to cycle through; None for a fresh view each epoch, or all that the store holds.
        live: Teachers to run on the very pixels of each batch (instead of a store).
        features: Where the teachers' features come from, which terms compare.
        hard: Epochs of the ground truth alone, each in a view of its own that no label is stored of.
        balance: Show the images of every class equally often instead of every image once (see `plan`).
        seed: Of the order of images.
        rank, world: This process and their number.
        device: Where batches are delivered.

    Raises:
        PocketError: The store was made of other images or views, or of another kind of outputs, or lacks a view; there
            are no images; the batch is too small for so many processes.
    """

    def __init__(
        self,
        views: Views,
        batch_size: int,
        *,
        labels: LabelStore | None = None,
        teachers: Sequence[str] = (),
        task: Task = CLASSIFICATION,
        view_count: int | None = None,
        live: Sequence[Teacher] | None = None,
        features: LiveFeatures | StoredFeatures | None = None,
        hard: range = range(0),
        balance: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.views = views
        self.source = cast(Source, views.source)
        self.mixes = views.config.mixes
        self.batch_size = batch_size
        self.labels = labels
        self.teachers = tuple(teachers)
        self.live = tuple(live or ())
        self.features = features
        self.hard = hard
        self.seed, self.rank, self.world = seed, rank, world
        self.device = torch.device(device)
        if labels is not None and (not self.teachers or live):
            raise ValueError("labels need the names of their teachers, and teachers are either stored or live")
        if hard and (live or features is not None):
            raise ValueError("epochs of the ground truth alone stand between those of stored labels, without features")
        self.view_count = view_count
        if labels is not None:
            labels.check(self.source, views)
            for name in self.teachers:
                labels.check_kind(name, task.kind)
            if view_count is None:
                self.view_count = _stored_views(labels, self.teachers)
        images = len(self.source)
        if images == 0:
            raise PocketError(f"there are no training images in {self.source.name!r}. Check the folder and its split.")
        self._group = 2 if self.mixes else 1  # images that stay together: a mixed pair
        units = -(-images // self._group)
        self.steps_per_epoch = -(-units // max(1, batch_size // self._group))
        if units // self.steps_per_epoch < world:
            raise PocketError(
                f"a batch of {batch_size} cannot be shared by {world} processes (there are {images} images). "
                "Use a larger batch or fewer processes."
            )
        self.task, self._targets = task, self.source.targets
        self._shares = class_shares(image_level(self._targets)) if balance else None
        self._ready: Ahead[list[tuple[_Key, Batch]]] | None = None
        self._batches: Iterator[tuple[_Key, Batch]] = iter(())
        self._stored: Ahead[_Stored] | None = None
        self._next: _Key | None = None  # what `_batches` gives next

    def fingerprint(self) -> str:
        """Hex digest of what decides the batches: a resumed run must see the same ones."""
        return sha256_of(
            {
                "source": self.source.fingerprint,
                "classes": list(self.source.classes),
                "targets": targets_digest(self._targets),
                "views": self.views.fingerprint,
                "view_count": self.view_count,
                "teachers": self.teachers or [digest(teacher.fingerprint) for teacher in self.live],
                "batch_size": self.batch_size,
                "seed": self.seed,
                **({"balance": True} if self._shares is not None else {}),
                **({"hard": [self.hard.start, self.hard.stop]} if self.hard else {}),
            }
        )

    def view(self, epoch: int) -> int:
        """The view that ``epoch`` shows."""
        if epoch in self.hard:
            return (self.view_count or 0) + epoch
        return epoch % self.view_count if self.view_count else epoch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's batches of ``epoch`` from ``start_step`` on.

        The thread goes on to prepare the beginning of the next epoch while this one's caller evaluates.
        """
        if self._next != (epoch, start_step):
            self._start(epoch, start_step)
        for step in range(start_step, self.steps_per_epoch):
            try:
                key, batch = next(self._batches)
            except BaseException:
                self.close()
                raise
            assert key == (epoch, step)
            self._next = (epoch, step + 1) if step + 1 < self.steps_per_epoch else (epoch + 1, 0)
            yield self._delivered(batch)

    def close(self) -> None:
        """Stop the threads that work ahead. The feed can be used again afterwards."""
        self._next = None
        for ahead in (self._ready, self._stored):
            if ahead is not None:
                ahead.close()
        self._ready = self._stored = None

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Return the positions (int64) of every batch of ``epoch``, over all ranks, one row a unit (-1: no partner).

        Balanced, a unit (an image, or a mixed pair) comes up by the mean share of its images (`class_shares`), by
        systematic sampling: as often as it should on average, rounded up or down by chance. Pairs of a rare and a
        common image bring the common class along: of 900 and 100 images .70 and .30 are shown, instead of half each.
        """
        order = np.asarray(self.views.order(self.view(epoch)), dtype=np.int64)
        units = np.full((-(-len(order) // self._group), self._group), -1, dtype=np.int64)
        units.reshape(-1)[: len(order)] = order
        # The raw stream of Philox is fixed for good; numpy's permutations are not.
        keys = np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64)).random_raw(2 * len(units) + 1)
        units = units[np.argsort(keys[: len(units)], kind="stable")]
        if self._shares is not None:
            shares = np.where(units >= 0, self._shares[units], 0).mean(1)
            ends = np.cumsum(shares) * (len(units) / shares.sum())
            start = float(keys[-1] >> np.uint64(11)) * 2.0**-53
            drawn = np.searchsorted(ends, np.arange(len(units)) + start, side="right").clip(max=len(units) - 1)
            units = units[drawn][np.argsort(keys[len(units) : -1], kind="stable")]
        return np.array_split(units, self.steps_per_epoch)

    def _mine(self, units: np.ndarray) -> np.ndarray:
        """This rank's positions of a batch of `plan`."""
        positions = units[self.rank :: self.world].reshape(-1)
        return positions[positions >= 0]

    def _start(self, epoch: int, start_step: int) -> None:
        self.close()
        # Both threads are started from this one: what they may take of the processor is counted from here.
        self._stored = Ahead(self._read_labels(number) for number in itertools.count(epoch))
        self._ready = Ahead(self._produce(epoch, start_step, self._stored))
        self._batches = itertools.chain.from_iterable(self._ready)
        self._next = (epoch, start_step)

    def _read_labels(self, epoch: int) -> _Stored:
        """Read what is stored for this rank's images of an epoch: one of each teacher, then of each layer."""
        if epoch in self.hard:
            return [], None
        wanted = [(self.labels, name) for name in self.teachers] if self.labels is not None else []
        if isinstance(self.features, StoredFeatures):
            wanted += [(self.features.store, key) for key in self.features.keys]
        rows = None
        if wanted and (self.world > 1 or self._shares is not None):
            rows = np.unique(np.concatenate([self._mine(units) for units in self.plan(epoch)]))
        return [cast(LabelStore, store).read(name, self.view(epoch), rows) for store, name in wanted], rows

    def _produce(self, epoch: int, start_step: int, stored: Iterator[_Stored]) -> Iterator[list[tuple[_Key, Batch]]]:
        """Yield this rank's batches in host memory, epoch after epoch, as many at once as are rendered together."""
        labels: dict[int, _Stored] = {}  # by epoch
        for chunk in chunks(self.views, self._requests(epoch, start_step)):
            batches = []
            for (positions, view, (number, step), total), seen in chunk:
                if number not in labels:
                    labels = {number: next(stored)}
                batches.append(((number, step), self._batch(seen, positions, view, total, labels[number])))
            yield batches

    def _requests(self, epoch: int, start_step: int) -> Iterator[Any]:
        for number in itertools.count(epoch):
            plan = self.plan(number)
            for step in range(start_step if number == epoch else 0, self.steps_per_epoch):
                yield self._mine(plan[step]), self.view(number), (number, step), int((plan[step] >= 0).sum())

    def _batch(self, seen: ViewBatch, positions: np.ndarray, view: int, total: int, stored: _Stored) -> Batch:
        labels, rows = stored
        places = torch.from_numpy(positions if rows is None else np.searchsorted(rows, positions))
        gathered = [one.index(places) for one in labels]
        targets = self.task.collate(self._targets, positions, self.views, view)
        mixed = self.mixes and not np.array_equal(positions, seen.partner)
        batch = Batch(
            pixels=seen.pixels,
            targets=targets,
            partner_targets=self.task.collate(self._targets, seen.partner, self.views, view) if mixed else targets,
            ratio=torch.from_numpy(np.ascontiguousarray(seen.ratio, dtype=np.float32)),
            soft=tuple(gathered[: len(self.teachers)]),
            positions=torch.from_numpy(positions),
            total=total,
            view=view,
        )
        if isinstance(self.features, StoredFeatures):
            batch.features = self.features.shaped(gathered[len(self.teachers) :])
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def _delivered(self, batch: Batch) -> Batch:
        batch = batch.to(self.device)
        if isinstance(self.features, LiveFeatures):
            soft, batch.features = self.features(batch)
            batch.soft = soft if self.live else batch.soft
        elif self.live:
            batch.soft = tuple(self.task.live(teacher, batch.pixels) for teacher in self.live)
        return batch


def class_shares(targets: np.ndarray) -> np.ndarray:
    """Return how often images [N] are to be shown, float64 [N] of sum 1: every target as often as another.

    Unlabelled ones, which a teacher labels, are shown as often as they would be without.
    """
    count, known = len(targets), labelled(targets)
    _, classes, counts = np.unique(targets[known], axis=0, return_inverse=True, return_counts=True)
    shares = np.full(count, 1 / count)
    shares[known] = known.mean() / (len(counts) * counts[classes.reshape(-1)]) if known.any() else 0
    return shares


def _stored_views(labels: LabelStore, teachers: Sequence[str]) -> int:
    """Return how many views, from the first on, are complete by all teachers."""
    held = set.intersection(*(set(labels.views(name)) for name in teachers))
    count = next(view for view in range(len(held) + 1) if view not in held)
    if count == 0:
        raise PocketError(f"{labels.folder} holds no complete view of all of {', '.join(teachers)}.")
    return count
