"""What labelling will cost, before anything is written: bytes, time, shards and batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PocketError
from ..files import human_bytes, human_time
from .record import Layout, choose_k

MAX_ROWS = 65_536
SHARD_SECONDS = 300.0  # what a killed run loses at most
_PROBE_IMAGES = 64
_FILE_OVERHEAD = 2048  # header and description of a shard


@dataclass(frozen=True)
class LabelPlan:
    """What a call to `write_labels` will do.

    Attributes:
        images: Images in the source.
        views: Views of each.
        teachers: Names, in the order of ``layouts``.
        layouts: What a record of each teacher is made of.
        batch: Images a teacher sees at once. Rows of a shard are a multiple of it, so that the stored bytes depend on
            neither shards, processes nor interruptions.
        rows_per_shard: At most 65,536 and about five minutes' work.
        images_per_second: Through all teachers, measured; None when not.
        missing: Records that each teacher still has to label.
    """

    images: int
    views: int
    teachers: tuple[str, ...]
    layouts: tuple[Layout, ...]
    batch: int
    rows_per_shard: int
    images_per_second: float | None
    missing: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes still to write."""
        shards = -(-self.images // self.rows_per_shard) * self.views * len(self.layouts)
        return sum(rows * layout.bytes_per_record for rows, layout in zip(self.missing, self.layouts, strict=True)) + (
            shards * _FILE_OVERHEAD if any(self.missing) else 0
        )

    @property
    def seconds(self) -> float | None:
        """Time still needed on this machine; None when it was not measured."""
        return None if self.images_per_second is None else max(self.missing, default=0) / self.images_per_second

    def text(self) -> str:
        """The plan in a few lines."""
        lines = [
            f"labels: {self.images:,} images x {self.views} views x {len(self.teachers)} "
            f"{'teacher' if len(self.teachers) == 1 else 'teachers'}"
        ]
        for name, layout, rows in zip(self.teachers, self.layouts, self.missing, strict=True):
            held = f"top {layout.k} of {layout.num_classes} logits" if layout.k else f"all {layout.num_classes} logits"
            whole = rows == self.images * self.views
            state = "to label" if whole else f"{rows:,} records to label, the rest is there" if rows else "complete"
            lines.append(f"  {name}: {held}, {layout.bytes_per_record} bytes a record, {state}")
        if any(self.missing):
            speed = (
                f", about {human_time(self.seconds)} at {self.images_per_second:,.0f} images/s"
                if self.seconds is not None
                else ""
            )
            lines.append(
                f"  {human_bytes(self.bytes)} in shards of {self.rows_per_shard:,} rows, batches of {self.batch}{speed}"
            )
        return "\n".join(lines)


def plan_labels(
    n: int,
    teachers: Sequence[Any],
    views: Any,
    count: int,
    *,
    k: int | None = None,
    batch_size: int | None = None,
    rows_per_shard: int | None = None,
    missing: Sequence[int] | None = None,
    probe: bool = True,
) -> LabelPlan:
    """Plan the labelling of ``count`` views of ``n`` images, after timing the teachers on one batch.

    Args:
        n: Images in the source.
        teachers: Live teachers.
        views: The ``Views`` to be labelled.
        count: Number of views an image.
        k: None for all logits up to 256 classes and the top 100 above; 0 for all; else the number to keep.
        batch_size: Images a teacher sees at once; None chooses by the view's size and the device.
        rows_per_shard: None chooses by the measured speed.
        missing: Records that each teacher still has to label; None for all.
        probe: Measure the speed (a few seconds).
    """
    if count < 1:
        raise PocketError(f"labels need at least one view an image, not {count}.")
    if not teachers:
        raise PocketError("labels need at least one teacher: name one with --teacher.")
    if k is not None and (k < 0 or k == 1):
        raise PocketError(f"k must be 0 (all logits) or at least 2 (the true classes of a mixed pair), not {k}.")
    ordered = not views.config.mixes
    layouts = tuple(Layout(t.num_outputs, choose_k(t.num_outputs, k), ordered) for t in teachers)
    batch = min(batch_size or default_batch(views.config.view_size, teachers), n + n % 2)
    if batch % 2 and not ordered:
        raise PocketError(f"mixed views come in pairs: choose an even batch size, not {batch}.")
    missing = tuple(missing) if missing is not None else (n * count,) * len(teachers)
    busy = [teacher for teacher, left in zip(teachers, missing, strict=True) if left]
    speed = probe_speed(busy, views, batch) if probe and busy else None
    if rows_per_shard is None:
        rows_per_shard = MAX_ROWS
        while speed is not None and rows_per_shard > batch and rows_per_shard > SHARD_SECONDS * speed:
            rows_per_shard //= 2
    rows_per_shard = max(batch, min(rows_per_shard, MAX_ROWS) // batch * batch)
    names = tuple(teacher.name for teacher in teachers)
    return LabelPlan(n, count, names, layouts, batch, rows_per_shard, speed, missing)


def default_batch(view_size: int, teachers: Sequence[Any]) -> int:
    """Images a teacher sees at once: a rule, not a measurement, because stored bytes depend on it."""
    accelerated = any(teacher.device.type != "cpu" for teacher in teachers)
    side = max(view_size, *(teacher.input_size for teacher in teachers))
    pixels, most = (1 << 24, 4096) if accelerated else (1 << 18, 256)
    return max(16, min(most, 1 << max(pixels // side**2, 1).bit_length() - 1))


def probe_speed(teachers: Sequence[Any], views: Any, batch: int) -> float:
    """Return images per second through the views and all teachers, from part of a batch after a few to warm up."""
    order = views.order(0)
    size = min(4, len(order))
    for _ in range(2):
        seconds = _timed(teachers, views, order[:size])
    if seconds < 1:
        size = min(batch, _PROBE_IMAGES, len(order))
        seconds = _timed(teachers, views, order[:size])
    return size / max(seconds, 1e-9)


def _timed(teachers: Sequence[Any], views: Any, positions: Any) -> float:
    start = time.perf_counter()
    pixels = views.render(positions, 0).pixels
    for teacher in teachers:
        teacher.logits(pixels).cpu()
    return time.perf_counter() - start
