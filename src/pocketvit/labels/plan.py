"""What labelling will cost, before anything is written: bytes, time, shards and batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import PocketError
from ..files import counted, human_bytes, human_time
from .ragged import OFFSETS
from .record import Record, label, record_of

MAX_ROWS = 65_536
MAX_BYTES = 128 << 20  # of a shard, which is held in memory until it is written
SHARD_SECONDS = 300.0  # what a killed run loses at most
_PROBE_IMAGES = 64
_FILE_OVERHEAD = 2048  # header and description of a shard


@dataclass(frozen=True)
class LabelPlan:
    """What a call to `write_labels` will do.

    Attributes:
        images: Images in the source.
        views: Views of each.
        teachers: Names, in the order of ``records``.
        records: What is kept of each teacher.
        record_bytes: Of each on disk; where records are ragged, as it was on the images that were looked at.
        batch: Images a teacher sees at once. Rows of a shard are a multiple of it, so that the stored bytes depend on
            neither shards, processes nor interruptions.
        rows_per_shard: At most 65,536, 128 MB and about five minutes' work.
        images_per_second: Through all teachers, measured; None when not.
        missing: Records that each teacher still has to label.
    """

    images: int
    views: int
    teachers: tuple[str, ...]
    records: tuple[Record, ...]
    record_bytes: tuple[float, ...]
    batch: int
    rows_per_shard: int
    images_per_second: float | None
    missing: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes still to write."""
        shards = -(-self.images // self.rows_per_shard) * self.views * len(self.records)
        labels = sum(rows * size for rows, size in zip(self.missing, self.record_bytes, strict=True))
        return int(labels) + (shards * _FILE_OVERHEAD if any(self.missing) else 0)

    @property
    def seconds(self) -> float | None:
        """Time still needed on this machine; None when it was not measured."""
        return None if self.images_per_second is None else max(self.missing, default=0) / self.images_per_second

    def text(self) -> str:
        """The plan in a few lines."""
        layers = sum(record.kind == "layer" for record in self.records)
        numbers = {"teacher": len(self.records) - layers, "layer": layers}
        whom = [counted(many, what) for what, many in numbers.items() if many]
        lines = [f"labels: {self.images:,} images x {counted(self.views, 'view')} x {' and '.join(whom)}"]
        held = zip(self.teachers, self.records, self.record_bytes, self.missing, strict=True)
        for name, record, size, rows in held:
            whole = rows == self.images * self.views
            state = "to label" if whole else f"{rows:,} records to label, the rest is there" if rows else "complete"
            about = "about " if record.ragged else ""
            lines.append(f"  {name}: {record.text()}, {about}{size:.0f} bytes per record, {state}")
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
    records: Sequence[Record] | None = None,
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
        count: Number of views per image.
        k: How much of each output is kept; None leaves it to the kind of record (all logits up to 256 classes and the
            top 100 above), 0 is all.
        records: What the teachers' records are where they exist already.
        batch_size: Images a teacher sees at once; None chooses by the view's size and the device.
        rows_per_shard: None chooses by the measured speed.
        missing: Records that each teacher still has to label; None for all.
        probe: Measure the speed (a few seconds).
    """
    if count < 1:
        raise PocketError(f"labels need at least one view per image, not {count}.")
    if not teachers:
        raise PocketError("labels need at least one teacher: name one with --teacher.")
    records = tuple(records or (record_of(teacher, k) for teacher in teachers))
    batch = min(batch_size or default_batch(views.config.view_size, teachers), n + n % 2)
    if batch % 2 and views.config.mixes:
        raise PocketError(f"mixed views come in pairs: choose an even batch size, not {batch}.")
    missing = tuple(missing) if missing is not None else (n * count,) * len(teachers)
    busy = [(teacher, record) for teacher, record, left in zip(teachers, records, missing, strict=True) if left]
    speed, items = None, dict.fromkeys(records, 0.0)
    if probe and busy:
        speed, found = probe_speed(busy, views, batch)
        items |= dict(zip((record for _, record in busy), found, strict=True))
    sizes = [
        record.bytes_per_image + 4 * views.config.mixes + (items[record] or record.k) * record.bytes_per_item
        for record in records
    ]
    if rows_per_shard is None:
        rows_per_shard = min(MAX_ROWS, int(MAX_BYTES / max(sizes)))
        while speed is not None and rows_per_shard > batch and rows_per_shard > SHARD_SECONDS * speed:
            rows_per_shard //= 2
    rows_per_shard = max(batch, min(rows_per_shard, MAX_ROWS) // batch * batch)
    names = tuple(teacher.name for teacher in teachers)
    return LabelPlan(n, count, names, records, tuple(sizes), batch, rows_per_shard, speed, missing)


def default_batch(view_size: int, teachers: Sequence[Any]) -> int:
    """Images a teacher sees at once: a rule, not a measurement, because stored bytes depend on it."""
    accelerated = any(teacher.device.type != "cpu" for teacher in teachers)
    side = max(view_size, *(teacher.input_size for teacher in teachers))
    pixels, most = (1 << 24, 4096) if accelerated else (1 << 18, 256)
    return max(16, min(most, 1 << max(pixels // side**2, 1).bit_length() - 1))


def probe_speed(teachers: Sequence[tuple[Any, Record]], views: Any, batch: int) -> tuple[float, list[float]]:
    """Time part of a batch, after a few images to warm up.

    Returns:
        Images per second through the views and all teachers, and how many items an image has by each of them (0 where
        records are not ragged).
    """
    order = views.order(0)
    size = min(4, len(order))
    for _ in range(2):
        seconds, items = _timed(teachers, views, order[:size])
    if seconds < 1:
        size = min(batch, _PROBE_IMAGES, len(order))
        seconds, items = _timed(teachers, views, order[:size])
    return size / max(seconds, 1e-9), items


def _timed(teachers: Sequence[tuple[Any, Record]], views: Any, positions: Any) -> tuple[float, list[float]]:
    start = time.perf_counter()
    pixels = views.render(positions, 0).pixels
    unknown = torch.full((len(pixels), 2), -1)
    where = (views, positions, 0)
    encoded = [label(teacher, record, pixels, unknown, where) for teacher, record in teachers]
    seconds = time.perf_counter() - start
    return seconds, [float(arrays[OFFSETS][-1]) / len(pixels) if OFFSETS in arrays else 0.0 for arrays in encoded]
