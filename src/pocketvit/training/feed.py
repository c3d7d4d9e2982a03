"""What a training step eats: views, their targets and the teachers' stored (or live) outputs, in a keyed order.

Nothing here has a state that a resumed run would have to restore: batch ``b`` of epoch ``e`` is a function of the seed,
``e`` and ``b`` alone. One thread renders ahead of the step, because a view costs little beside a training step and is
cheapest in chunks of about a thousand images.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ..errors import PocketError
from ..files import sha256_of
from ..sources.base import Source
from ..views import Views
from ..views.parallel import start_beside

if TYPE_CHECKING:
    from ..labels import LabelStore, SoftLabels
    from ..teachers import Teacher

_CHUNK_IMAGES = 1024  # rendered at once: enough to spread the cost of a call over many images
_CHUNK_BYTES = 64 << 20  # ... as long as that many views stay small in memory


@dataclass
class Batch:
    """One rank's share of a batch, on the training device.

    Attributes:
        pixels: uint8 [B, 3, S, S] views.
        targets: int64 [B] classes of the images, -1 where unknown; of several labels an image int64 [B, C] of 0 and 1,
            a row of -1 where unknown.
        partner_targets: Likewise, of the images they are mixed with (the own ones when unmixed).
        ratio: float32 [B] weight of the own class in (0, 1].
        soft: One record a teacher, rows as in ``pixels``.
        positions: int64 [B] positions in the source.
        total: Images of this batch over all ranks.
        view: Of the images.
        features: One dictionary a teacher, layer -> its output for ``pixels``; only where terms compare features.
        average: Logits of every head of the student's weight average; only where a term looks at them.
        progress: Share of the training that was done before this batch, 0 to 1.
    """

    pixels: torch.Tensor
    targets: torch.Tensor
    partner_targets: torch.Tensor
    ratio: torch.Tensor
    soft: tuple[SoftLabels, ...]
    positions: torch.Tensor
    total: int = 0
    view: int = 0
    features: tuple[dict[str, torch.Tensor], ...] = ()
    average: tuple[torch.Tensor, ...] = ()
    progress: float = 0.0

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``; copies from pinned memory do not wait."""
        if device.type == "cpu":
            return self
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("pixels", "targets", "partner_targets", "ratio", "positions")
        }
        return dataclasses.replace(self, **moved, soft=tuple(soft.to(device) for soft in self.soft))


Features = Callable[[Batch], "tuple[tuple[SoftLabels, ...], tuple[dict[str, torch.Tensor], ...]]"]
"""From a delivered batch to its teachers' labels (for a live feed) and features: a dictionary a teacher, by layer."""


class Feed:
    """Batches for each epoch, the same for any way of stopping and starting.

    Epoch ``e`` uses view ``e mod view_count`` (a fresh view each epoch without a count) and shows every image once, in
    an order keyed by (seed, epoch). Partners of a mixed view are shuffled together and never split. Batches are of
    nearly equal size: a remainder is spread over all of them, so that no batch is a few images short of nothing.

    Args:
        views: Renders the training source.
        batch_size: Images of a batch over all ranks (the most; see above).
        labels: A soft-label store of these views, or None.
        teachers: Their names in the store, in the order of the loss's terms.
        view_count: Views to cycle through; None for a fresh view each epoch, or all that the store holds.
        live: Teachers to run on the very pixels of each batch (instead of a store).
        features: Gives a delivered batch its teachers' features, and a live one its labels (see `training.features`).
        balance: Show the images of every class equally often instead of every image once (see `plan`).
        seed: Of the order of images.
        rank, world: This process and their number.
        device: Where batches are delivered.
    """

    def __init__(
        self,
        views: Views,
        batch_size: int,
        *,
        labels: LabelStore | None = None,
        teachers: Sequence[str] = (),
        view_count: int | None = None,
        live: Sequence[Teacher] | None = None,
        features: Features | None = None,
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
        if labels is not None and (not self.teachers or live):
            raise ValueError("labels need the names of their teachers, and teachers are either stored or live")
        if labels is not None and view_count is None:
            held = set.intersection(*(set(labels.views(name)) for name in self.teachers))
            view_count = next(view for view in range(len(held) + 1) if view not in held)
            if view_count == 0:
                raise PocketError(f"{labels.folder} holds no complete view of all of {', '.join(teachers)}.")
        self.view_count = view_count
        self.live = tuple(live or ())
        self.features = features
        self.seed, self.rank, self.world = seed, rank, world
        self.device = torch.device(device)
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
        targets = np.ascontiguousarray(self.source.targets, dtype=np.int64)
        self._targets = targets
        if labels is not None:
            wanted = "sigmoid" if targets.ndim == 2 else "softmax"
            for name in self.teachers:
                labels.check_kind(name, wanted)
        self._shares = _class_shares(targets) if balance else None
        self._worker: _Worker | None = None

    def fingerprint(self) -> str:
        """Hex digest of what decides the batches: a resumed run must see the same ones."""
        return sha256_of(
            {
                "source": self.source.fingerprint,
                "views": self.views.fingerprint,
                "view_count": self.view_count,
                "teachers": self.teachers or len(self.live),
                "batch_size": self.batch_size,
                "seed": self.seed,
                **({"balance": True} if self._shares is not None else {}),
            }
        )

    def view(self, epoch: int) -> int:
        """The view that ``epoch`` shows."""
        return epoch % self.view_count if self.view_count else epoch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's batches of ``epoch`` from ``start_step`` on.

        The thread goes on to prepare the beginning of the next epoch while this one's caller evaluates.
        """
        worker = self._worker
        if worker is None or worker.upcoming != (epoch, start_step):
            self.close()
            worker = self._worker = _Worker(self, epoch, start_step)
        for step in range(start_step, self.steps_per_epoch):
            try:
                batch = worker.take()
            except BaseException:
                self.close()
                raise
            last = step + 1 == self.steps_per_epoch
            worker.upcoming = (epoch + 1, 0) if last else (epoch, step + 1)
            batch = batch.to(self.device)
            if self.features is not None:
                soft, batch.features = self.features(batch)
                batch.soft = soft if self.live else batch.soft
            elif self.live:
                batch.soft = tuple(_live_labels(teacher, batch.pixels) for teacher in self.live)
            yield batch

    def close(self) -> None:
        """Stop the thread that renders ahead. The feed can be used again afterwards."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Return the positions (int64) of every batch of ``epoch``, over all ranks, one row a unit (-1: no partner).

        Balanced, a unit (an image, or a mixed pair) comes up in proportion to one over the size of its class, by
        systematic sampling: as often as it should on average, rounded up or down by chance.
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

    def produce(self, epoch: int, start_step: int, hurried: bool) -> Iterator[Batch]:
        """Yield this rank's batches in host memory, rendered in chunks; the first soon if hurried."""
        view = self.view(epoch)
        plan = self.plan(epoch)
        soft = []
        if self.labels is not None:
            soft = [self.labels.read(name, view) for name in self.teachers]
            for name in self.teachers:
                self.labels.prefetch(name, self.view(epoch + 1))
        side = self.views.config.view_size
        chunk_images = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // (3 * side * side)))
        most = max(1, chunk_images * self.world // self.batch_size)
        step, length = start_step, 1 if hurried else most
        while step < self.steps_per_epoch:
            chunk = plan[step : step + length]
            mine = [units[self.rank :: self.world].reshape(-1) for units in chunk]
            mine = [positions[positions >= 0] for positions in mine]
            rendered = self.views.render(np.concatenate(mine), view)
            start = 0
            for units, positions in zip(chunk, mine, strict=True):
                stop = start + len(positions)
                total = int((units >= 0).sum())
                yield self._batch(rendered, slice(start, stop), positions, soft, total, view)
                start = stop
            step += length
            length = min(2 * length, most)

    def _batch(
        self, rendered, rows: slice, positions: np.ndarray, soft: list[SoftLabels], total: int, view: int
    ) -> Batch:
        batch = Batch(
            pixels=rendered.pixels[rows],
            targets=torch.from_numpy(self._targets[positions]),
            partner_targets=torch.from_numpy(self._targets[rendered.partner[rows]]),
            ratio=torch.from_numpy(np.ascontiguousarray(rendered.ratio[rows], dtype=np.float32)),
            soft=tuple(labels.index(torch.from_numpy(positions)) for labels in soft),
            positions=torch.from_numpy(positions),
            total=total,
            view=view,
        )
        if self.device.type == "cuda":
            for name in ("pixels", "targets", "partner_targets", "ratio", "positions"):
                setattr(batch, name, getattr(batch, name).pin_memory())
        return batch


def _class_shares(targets: np.ndarray) -> np.ndarray:
    """Return one over the size of each image's class, float64 [N]; images of unknown class count as one class.

    Raises:
        PocketError: Images have several labels: showing those with a rare one more often also changes all others.
    """
    if targets.ndim == 2:
        raise PocketError("--balance sampling is for one class an image; these have several labels. Leave it away.")
    _, classes, counts = np.unique(targets, return_inverse=True, return_counts=True)
    return 1.0 / counts[classes]


def _live_labels(teacher: Teacher, pixels: torch.Tensor) -> SoftLabels:
    """The teacher's outputs for a batch, as the store would hold them for up to 256 classes, without its rounding."""
    from ..labels import SoftLabels

    logits = teacher.logits(pixels)
    return SoftLabels(logits=logits, num_classes=logits.shape[1])


class _Worker:
    """A thread that keeps about one chunk of batches ready, from one epoch into the next."""

    def __init__(self, feed: Feed, epoch: int, start_step: int) -> None:
        self.upcoming = (epoch, start_step)  # what `take` returns next
        ahead = max(2, _CHUNK_IMAGES * feed.world // feed.batch_size)
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=ahead)
        self._stopping = threading.Event()
        self._thread = start_beside(lambda: self._run(feed, epoch, start_step))

    def take(self) -> Batch:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self, feed: Feed, epoch: int, start_step: int) -> None:
        hurried = True
        try:
            while not self._stopping.is_set():
                for batch in feed.produce(epoch, start_step, hurried):
                    if not self._put(batch):
                        return
                epoch, start_step, hurried = epoch + 1, 0, False
        except BaseException as error:  # raised again where the batch is asked for
            self._put(error)

    def _put(self, item: Batch | BaseException) -> bool:
        while not self._stopping.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
