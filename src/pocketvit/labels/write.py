"""Labelling: every view is rendered once, every teacher looks at it, and its outputs are written in shards.

A killed run loses at most the shard it was in; the next call with the same arguments goes on with what is missing and
ends with the same bytes. Several processes share the shards by their number; runs of which none knows of the others
may use one store as well, and at worst do the same work twice.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import PocketError
from ..files import require_space
from ..progress import Bar
from ..sources.targets import image_level
from ..views.ahead import Ahead
from ..views.streaming import chunks
from .manifest import MANIFEST, check_same_images, digest, manifest_record, new_manifest, read_manifest
from .plan import LabelPlan, plan_labels
from .ragged import OFFSETS, concatenate
from .record import Record, label, record_of
from .shard import POSITION, ShardInfo, shard_name, write_shard
from .sharing import at_work, wait_for
from .store import LabelStore, missing_rows, view_folder


@dataclass
class _Writer:
    """One teacher of a run: its live network and how its part of the store is laid out."""

    teacher: Any
    folder: Path
    record: Record
    ordered: bool
    batch: int
    rows_per_shard: int
    digests: dict[str, str]  # of the three fingerprints


@dataclass
class _Task:
    """Consecutive rows of a view that some teachers still have to label."""

    view: int
    start: int
    rows: int
    writers: list[_Writer]


def write_labels(
    folder: Path | str,
    source: Any,
    views: Any,
    teachers: Sequence[Any],
    count: int,
    *,
    k: int | None = None,
    progress: bool = True,
    batch_size: int | None = None,
    rows_per_shard: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> LabelStore:
    """Label views 0 to ``count`` - 1 of every image with every teacher, or what is still missing of that.

    Args:
        folder: The store; made when absent, added to when there.
        source: Images of one split.
        views: ``Views`` of that source.
        teachers: Live teachers; each has its own folder in the store. The kind that one names decides what is kept.
        count: Number of views per image.
        k: How much of each output is kept; None leaves it to the kind of record (all logits up to 256 classes and the
            top 100 above), 0 is all.
        progress: Print the plan and show a progress bar.
        batch_size: Images a teacher sees at once; None chooses. An existing part of the store keeps its own.
        rows_per_shard: None chooses by the measured speed, at most five minutes' work.
        rank, world: This process and their number.

    Returns:
        The store, complete for these teachers and views.

    Raises:
        PocketError: The store is of other images, views or k; the disk is full or read-only; logits are not finite;
            a teacher changed while it labelled; the other processes stopped. Finished shards stay.
    """
    folder = Path(folder)
    _check_request(folder, source, views, teachers, k)
    with contextlib.ExitStack() as stack:
        if rank == 0:
            plan = _plan(folder, source, views, teachers, count, k, batch_size, rows_per_shard)
            if progress:
                print(plan.text(), file=sys.stderr, flush=True)  # standard output is for results
            require_space(folder, plan.bytes, f"labelling into {folder}")
        places = [folder / teacher_key(teacher) for teacher in teachers]
        if rank > 0:
            wait_for([place / MANIFEST for place in places])
        for number, (place, teacher) in enumerate(zip(places, teachers, strict=True)):
            manifest = None if rank > 0 else new_manifest(source, views, teacher, plan, number)
            stack.enter_context(at_work(place, manifest))
        writers = [_writer(place, teacher) for place, teacher in zip(places, teachers, strict=True)]
        tasks = _tasks(LabelStore(folder), writers, count)
        mine = [task for task in tasks[rank::world] if task.writers]
        try:
            _run(mine, views, source, progress=progress and rank == 0)
        except PocketError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            left = sum(not _path(writer, task).exists() for task in mine for writer in task.writers)
            raise PocketError(
                f"{error} Finished shards stay in {folder}; {left} are missing, and running `label` again with the "
                "same options makes only those."
            ) from error
        wait_for([_path(writer, task) for task in tasks for writer in task.writers])
    return LabelStore(folder)


def is_complete(folder: Path | str, teachers: Sequence[Any], views: int) -> bool:
    """Whether a store holds these views by these teachers."""
    try:
        store = LabelStore(folder)
        return all(set(range(views)) <= set(store.views(store.key(teacher))) for teacher in teachers)
    except PocketError:
        return False


def teacher_key(teacher: Any) -> str:
    """Name of a teacher's folder in a store: readable, and different for different weights."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", teacher.name).strip("-.")[-60:] or "teacher"
    return f"{name}-{digest(teacher.fingerprint)[:8]}"


def _check_request(folder: Path, source: Any, views: Any, teachers: Sequence[Any], k: int | None) -> None:
    if len(source) == 0:
        raise PocketError(f"there are no images to label in {source.name!r}.")
    keys = [teacher_key(teacher) for teacher in teachers]
    for key in keys:
        if keys.count(key) > 1:
            raise PocketError(f"the teacher {key} is named twice: give each teacher once.")
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        check_same_images(folder, read_manifest(path), source, views)
    for teacher, key in zip(teachers, keys, strict=True):
        record = record_of(teacher, k)
        if record.per_class and len(source.classes) > record.num_classes:
            raise PocketError(
                f"the teacher {teacher.name} has {record.num_classes} outputs, but {source.name} has "
                f"{len(source.classes)} classes. Fine-tune it on these classes with `train` first."
            )
        path = folder / key / MANIFEST
        if path.exists() and k is not None:
            stored = manifest_record(read_manifest(path))
            if record != stored:
                raise PocketError(
                    f"the labels by {key} in {folder} hold {stored.text()}, not {record.text()}. Leave out --top-k, or "
                    "label into another folder."
                )


def _plan(
    folder: Path,
    source: Any,
    views: Any,
    teachers: Sequence[Any],
    count: int,
    k: int | None,
    batch_size: int | None,
    rows_per_shard: int | None,
) -> LabelPlan:
    """Plan what is missing, with the batch, shard size and records that the store already has."""
    store = LabelStore(folder) if any(folder.glob(f"*/{MANIFEST}")) else None
    known = {} if store is None else store.manifest
    keys = [teacher_key(teacher) for teacher in teachers]
    missing, records = [], []
    for key, teacher in zip(keys, teachers, strict=True):
        left, record = len(source) * count, record_of(teacher, k)
        if store is not None and key in known:
            pieces = ([(info.start, info.rows) for _, info in store.shards(key, view)] for view in range(count))
            left, record = sum(missing_rows(piece, len(source)) for piece in pieces), store.record(key)
        missing.append(left)
        records.append(record)
    like = next((known[key] for key in keys if key in known), next(iter(known.values()), None))
    if like is not None:
        batch_size, rows_per_shard = like["batch"], like["rows_per_shard"]
    return plan_labels(
        len(source), teachers, views, count, records=records,
        batch_size=batch_size, rows_per_shard=rows_per_shard, missing=missing,
    )  # fmt: skip


def _writer(place: Path, teacher: Any) -> _Writer:
    manifest = read_manifest(place / MANIFEST)
    digests = {part: digest(manifest[part]["fingerprint"]) for part in ("teacher", "source", "views")}
    record = manifest_record(manifest)
    return _Writer(teacher, place, record, manifest["ordered"], manifest["batch"], manifest["rows_per_shard"], digests)


def _tasks(store: LabelStore, writers: list[_Writer], count: int) -> list[_Task]:
    """All tasks of the plan in a fixed order, each with the teachers that have not done it.

    Teachers whose parts have the same batch and shard size (all, unless stores were merged) share the rendering.
    """
    images, tasks = store.num_images(), []
    for batch, rows in dict.fromkeys((writer.batch, writer.rows_per_shard) for writer in writers):
        group = [writer for writer in writers if (writer.batch, writer.rows_per_shard) == (batch, rows)]
        for view in range(count):
            pieces = [[(i.start, i.rows) for _, i in store.shards(writer.folder.name, view)] for writer in group]
            for start in range(0, images, rows):
                stop = min(images, start + rows)
                missing = [w for w, there in zip(group, pieces, strict=True) if missing_rows(there, stop, start)]
                tasks.append(_Task(view, start, stop - start, missing))
    return tasks


def _run(tasks: Sequence[_Task], views: Any, source: Any, progress: bool) -> None:
    """Render, label and write; the next views are rendered and the last shard is written meanwhile."""
    total = sum(task.rows for task in tasks)
    targets = torch.from_numpy(np.ascontiguousarray(image_level(source.targets)))
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(Bar(total, "labelling", shown=progress))
        disk = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="shards"))
        ready = stack.enter_context(Ahead(chunks(views, _batches(tasks, views))))
        pending: list[Future[None]] = []
        parts: list[list[dict[str, np.ndarray]]] = []  # of each teacher, a batch each
        for (positions, view, task, first), seen in itertools.chain.from_iterable(ready):
            if first == 0:
                parts = [[] for _ in task.writers]
            classes = torch.stack([targets[positions], targets[np.asarray(seen.partner, np.int64)]], 1)
            for writer, part in zip(task.writers, parts, strict=True):
                part.append(_label(writer, seen.pixels, classes, (views, positions, view), source))
            bar.update(len(positions))
            if first + len(positions) == task.rows:
                _finish(pending)  # at most one shard per teacher waits in memory
                for writer, part in zip(task.writers, parts, strict=True):
                    writer.teacher.check_unchanged()
                    arrays = concatenate(part)
                    pending.append(disk.submit(write_shard, _path(writer, task), _info(writer, task), arrays))
        _finish(pending)


def _finish(pending: list[Future[None]]) -> None:
    while pending:
        pending.pop(0).result()


def _batches(tasks: Sequence[_Task], views: Any) -> Iterator[tuple[np.ndarray, int, _Task, int]]:
    """Yield what a teacher sees at once: (positions, view, task, first row within the task)."""
    order, ordered_view = np.empty(0, np.int64), None
    for task in tasks:
        if ordered_view != task.view:
            order, ordered_view = np.asarray(views.order(task.view), dtype=np.int64), task.view
        rows = order[task.start : task.start + task.rows]
        batch = task.writers[0].batch
        for first in range(0, task.rows, batch):
            yield rows[first : first + batch], task.view, task, first


def _label(
    writer: _Writer, pixels: torch.Tensor, classes: torch.Tensor, where: tuple[Any, np.ndarray, int], source: Any
) -> dict[str, np.ndarray]:
    """Run one teacher over a batch: the arrays of a shard's next rows."""
    teacher, (_, positions, view) = writer.teacher, where
    try:
        arrays = label(teacher, writer.record, pixels, classes, where)
    except torch.OutOfMemoryError as error:
        raise PocketError(
            f"the memory of {teacher.device} is too small for {teacher.name} with batches of {writer.batch}. "
            "Choose a smaller --batch-size, into a new folder."
        ) from error
    except PocketError as error:
        first, last = (source.names[int(positions[end])] for end in (0, -1))
        raise PocketError(
            f"{error} This was in view {view}, images {first} to {last}. Finished shards stay in {writer.folder}."
        ) from error
    bad = _not_finite(writer.record, arrays, len(positions))
    if len(bad):
        precision = teacher.fingerprint.get("precision", "its precision")
        raise PocketError(
            f"the teacher {teacher.name} gave logits that are not finite (or beyond fp16's 65,504) for {len(bad)} "
            f"images of a batch, first {source.names[int(positions[bad[0]])]}, view {view}. Check its weights and "
            f"normalization, or run it in fp32 (it runs in {precision}). Finished shards stay in {writer.folder}."
        )
    if not writer.ordered:
        arrays[POSITION] = positions.astype(np.uint32)
    return arrays


def _not_finite(record: Record, arrays: dict[str, np.ndarray], images: int) -> np.ndarray:
    """Return which of a batch's images have a number that is not finite."""
    bad = np.zeros(images, bool)
    for name, field in record.fields().items():
        array = arrays[name]
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            wrong = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(1))
            bad[np.searchsorted(arrays[OFFSETS], wrong, side="right") - 1 if field.ragged else wrong] = True
    return np.flatnonzero(bad)


def _path(writer: _Writer, task: _Task) -> Path:
    return writer.folder / view_folder(task.view) / shard_name(task.start)


def _info(writer: _Writer, task: _Task) -> ShardInfo:
    record = writer.record
    return ShardInfo(
        teacher=writer.digests["teacher"],
        source=writer.digests["source"],
        views=writer.digests["views"],
        view=task.view,
        start=task.start,
        rows=task.rows,
        num_classes=record.num_classes,
        k=record.k,
        ordered=writer.ordered,
        kind=record.kind,
        format=record.format,
        more=record.more(),
    )
