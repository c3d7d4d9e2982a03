"""Labelling: every view is rendered once, every teacher looks at it, and its outputs are written in shards.

A killed run loses at most the shard it was in; the next call with the same arguments goes on with what is missing and
ends with the same bytes. Under ``torchrun`` the processes share the shards by their number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .. import __version__
from ..errors import PocketError
from ..files import read_json, require_space, write_json
from .ahead import ahead
from .fingerprint import describe_source, digest, environment
from .plan import LabelPlan, plan_labels
from .record import Layout, choose_k
from .shard import FORMAT, ShardInfo, shard_name, write_shard
from .store import MANIFEST, LabelStore, check_same_images, missing_rows, view_folder

_CHUNK_IMAGES = 1024  # rendered at once
_CHUNK_BYTES = 64 << 20  # ... as long as that many views stay small in memory
_WAIT_SECONDS = 0.2


@dataclass
class _Writer:
    """One teacher of a run: its live network and how its part of the store is laid out."""

    teacher: Any
    folder: Path
    layout: Layout
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


@dataclass
class _Chunk:
    """A few teacher batches of a task, rendered."""

    task: _Task
    first: int  # row within the task
    positions: np.ndarray  # int64 [B]
    pixels: torch.Tensor  # uint8 [B, 3, S, S]
    classes: torch.Tensor  # int64 [B, 2]: of the image and of its partner, -1 where unknown


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
) -> LabelStore:
    """Label views 0 to ``count`` - 1 of every image with every teacher, or what is still missing of that.

    Args:
        folder: The store; made when absent, added to when there.
        source: Images of one split.
        views: ``Views`` of that source.
        teachers: Live teachers; each has its own folder in the store.
        count: Number of views an image.
        k: None for all logits up to 256 classes and the top 100 above; 0 for all; else how many to keep.
        progress: Print the plan and show a progress bar.
        batch_size: Images a teacher sees at once; None chooses. An existing part of the store keeps its own.
        rows_per_shard: None chooses by the measured speed, at most five minutes' work.

    Returns:
        The store, complete for these teachers and views.

    Raises:
        PocketError: The store is of other images, views or k; the disk is full or read-only; logits are not finite;
            a teacher changed while it labelled. Finished shards stay.
    """
    folder = Path(folder)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    _check_request(folder, source, views, teachers, k)
    if rank == 0:
        plan = _plan(folder, source, views, teachers, count, k, batch_size, rows_per_shard)
        if progress:
            print(plan.text(), file=sys.stderr, flush=True)  # standard output is for results
        require_space(folder, plan.bytes, f"labelling into {folder}")
        _write_manifests(folder, source, views, teachers, plan)
    writers = _writers(folder, teachers, wait=rank > 0)
    tasks = _tasks(LabelStore(folder), writers, count)
    mine = [task for task in tasks[rank::world] if task.writers]
    for task in mine:
        _remove_leftovers(task)
    try:
        _run(mine, views, source, progress=progress and rank == 0)
    except PocketError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        left = sum(not _path(writer, task).exists() for task in mine for writer in task.writers)
        raise PocketError(
            f"{error} Finished shards stay in {folder}; {left} are missing, and running `label` again with the same "
            "options makes only those."
        ) from error
    _wait_for_others(tasks)
    return LabelStore(folder)


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
        check_same_images(folder, read_json(path), source, views)
    highest = int(source.targets.max(initial=-1)) if source.targets.ndim == 1 else source.targets.shape[1] - 1
    for teacher, key in zip(teachers, keys, strict=True):
        if getattr(teacher, "kind", "softmax") == "sigmoid" and choose_k(teacher.num_outputs, k):
            raise PocketError(
                f"the {teacher.num_outputs} labels of {teacher.name} are independent of each other: the largest logits "
                "say nothing of the others. Store all of them, with --top-k 0."
            )
        if highest >= teacher.num_outputs:
            raise PocketError(
                f"the teacher {teacher.name} has {teacher.num_outputs} outputs, but {source.name} has classes up to "
                f"number {highest}. Fine-tune it on these classes with `train` first."
            )
        path = folder / key / MANIFEST
        if path.exists() and k is not None:
            stored = read_json(path)["k"]
            if choose_k(teacher.num_outputs, k) != stored:
                raise PocketError(
                    f"the labels by {key} in {folder} hold {f'the top {stored}' if stored else 'all'} logits, not "
                    f"{f'the top {k}' if k else 'all'}. Leave out --k, or label into another folder."
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
    """Plan what is missing, with the batch, shard size and layouts that the store already has."""
    store = LabelStore(folder) if any(folder.glob(f"*/{MANIFEST}")) else None
    known = {} if store is None else {key: store.manifest[key] for key in store.teachers()}
    missing = []
    for key in map(teacher_key, teachers):
        left = len(source) * count
        if store is not None and key in known:
            pieces = ([(info.start, info.rows) for _, info in store.shards(key, view)] for view in range(count))
            left = sum(missing_rows(piece, len(source)) for piece in pieces)
        missing.append(left)
    like = next((known[key] for key in map(teacher_key, teachers) if key in known), next(iter(known.values()), None))
    if like is not None:
        batch_size, rows_per_shard = like["batch"], like["rows_per_shard"]
    plan = plan_labels(
        len(source), teachers, views, count, k=k, batch_size=batch_size, rows_per_shard=rows_per_shard, missing=missing
    )
    layouts = [
        store.layout(key) if store is not None and key in known else layout
        for key, layout in zip(map(teacher_key, teachers), plan.layouts, strict=True)
    ]
    return dataclasses.replace(plan, layouts=tuple(layouts))


def _write_manifests(folder: Path, source: Any, views: Any, teachers: Sequence[Any], plan: LabelPlan) -> None:
    for teacher, layout in zip(teachers, plan.layouts, strict=True):
        path = folder / teacher_key(teacher) / MANIFEST
        if path.exists():
            continue
        write_json(
            path,
            {
                "format": FORMAT,
                "kind": getattr(teacher, "kind", "softmax"),
                "teacher": {
                    "name": teacher.name,
                    "outputs": teacher.num_outputs,
                    "fingerprint": teacher.fingerprint,
                },
                "source": describe_source(source),
                "views": {"fingerprint": views.fingerprint},
                "k": layout.k,
                "ordered": layout.ordered,
                "batch": plan.batch,
                "rows_per_shard": plan.rows_per_shard,
                "environment": {"pocketvit": __version__, **environment(teacher.device.type)},
            },
        )


def _writers(folder: Path, teachers: Sequence[Any], wait: bool) -> list[_Writer]:
    writers = []
    for teacher in teachers:
        place = folder / teacher_key(teacher)
        while wait and not (place / MANIFEST).exists():  # written by rank 0; torchrun ends us if that one dies
            time.sleep(_WAIT_SECONDS)
        manifest = read_json(place / MANIFEST)
        digests = {part: digest(manifest[part]["fingerprint"]) for part in ("teacher", "source", "views")}
        layout = Layout(teacher.num_outputs, manifest["k"], manifest["ordered"])
        writers.append(_Writer(teacher, place, layout, manifest["batch"], manifest["rows_per_shard"], digests))
    return writers


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
    with contextlib.ExitStack() as stack:
        shown = None if progress and total else True  # None: only where standard error is a terminal
        bar = stack.enter_context(tqdm(total=total, desc="labelling", unit="img", disable=shown))
        disk = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="shards"))
        chunks = stack.enter_context(ahead(_rendered(tasks, views, source)))
        pending: list[Future[None]] = []
        arrays: list[dict[str, np.ndarray]] = []
        for chunk in chunks:
            task = chunk.task
            if chunk.first == 0:
                arrays = [writer.layout.empty(task.rows) for writer in task.writers]
            for writer, out in zip(task.writers, arrays, strict=True):
                _label(writer, chunk, out, source)
            bar.update(len(chunk.positions))
            if chunk.first + len(chunk.positions) == task.rows:
                _finish(pending)  # at most one shard a teacher waits in memory
                for writer, out in zip(task.writers, arrays, strict=True):
                    writer.teacher.check_unchanged()
                    pending.append(disk.submit(write_shard, _path(writer, task), _info(writer, task), out))
        _finish(pending)


def _finish(pending: list[Future[None]]) -> None:
    while pending:
        pending.pop(0).result()


def _rendered(tasks: Sequence[_Task], views: Any, source: Any) -> Iterator[_Chunk]:
    """Render the tasks in chunks of whole teacher batches."""
    side = views.config.view_size
    targets = torch.from_numpy(np.ascontiguousarray(source.targets, dtype=np.int64))
    order, ordered_view = np.empty(0, np.int64), None
    for task in tasks:
        if ordered_view != task.view:
            order, ordered_view = np.asarray(views.order(task.view), dtype=np.int64), task.view
        batch = task.writers[0].batch
        step = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // (3 * side * side)) // batch) * batch
        for first in range(0, task.rows, step):
            positions = order[task.start + first : task.start + min(first + step, task.rows)]
            rendered = views.render(positions, task.view)
            classes = torch.stack([targets[positions], targets[np.asarray(rendered.partner, dtype=np.int64)]], 1)
            yield _Chunk(task, first, positions, rendered.pixels, classes)


def _label(writer: _Writer, chunk: _Chunk, out: dict[str, np.ndarray], source: Any) -> None:
    """Run one teacher over a chunk, batch by batch, into the arrays of its shard."""
    teacher = writer.teacher
    for start in range(0, len(chunk.positions), writer.batch):
        rows = slice(start, min(start + writer.batch, len(chunk.positions)))
        place = slice(chunk.first + rows.start, chunk.first + rows.stop)
        try:
            logits = teacher.logits(chunk.pixels[rows])
        except torch.OutOfMemoryError as error:
            raise PocketError(
                f"the memory of {teacher.device} is too small for {teacher.name} with batches of {writer.batch}. "
                "Choose a smaller --batch-size, into a new folder."
            ) from error
        except PocketError as error:
            first, last = (source.names[int(chunk.positions[rows][end])] for end in (0, -1))
            raise PocketError(
                f"{error} This was in view {chunk.task.view}, images {first} to {last}. Finished shards stay in "
                f"{writer.folder}."
            ) from error
        if logits.shape != (rows.stop - rows.start, writer.layout.num_classes):
            raise PocketError(
                f"the teacher {teacher.name} returned an output of shape {tuple(logits.shape)}, not "
                f"({rows.stop - rows.start}, {writer.layout.num_classes}). It must return one row of logits an image."
            )
        encoded = writer.layout.encode(logits, chunk.classes[rows])
        finite = all(np.isfinite(a).all() for n, a in encoded.items() if a.dtype.kind == "f" and n != "lse_rest")
        if not finite:
            raise _not_finite(writer, logits, chunk, rows, source)
        for name, array in encoded.items():
            out[name][place] = array
        if "position" in out:
            out["position"][place] = chunk.positions[rows]


def _not_finite(writer: _Writer, logits: torch.Tensor, chunk: _Chunk, rows: slice, source: Any) -> PocketError:
    bad = (~torch.isfinite(logits.half())).any(1).nonzero()[:, 0].cpu().tolist()
    which = source.names[int(chunk.positions[rows][bad[0]])] if bad else "an image"
    precision = writer.teacher.fingerprint.get("precision", "its precision")
    return PocketError(
        f"the teacher {writer.teacher.name} gave logits that are not finite (or beyond fp16's 65,504) for {len(bad)} "
        f"images of a batch, first {which}, view {chunk.task.view}. Check its weights and normalization, or run it in "
        f"fp32 (it runs in {precision}). Finished shards stay in {writer.folder}."
    )


def _path(writer: _Writer, task: _Task) -> Path:
    return writer.folder / view_folder(task.view) / shard_name(task.start)


def _remove_leftovers(task: _Task) -> None:
    """Delete the half-written temporary files that a killed run left of this task's shards."""
    for writer in task.writers:
        path = _path(writer, task)
        for leftover in path.parent.glob(f".{path.name}.*.part"):
            leftover.unlink(missing_ok=True)


def _info(writer: _Writer, task: _Task) -> ShardInfo:
    layout = writer.layout
    return ShardInfo(
        teacher=writer.digests["teacher"],
        source=writer.digests["source"],
        views=writer.digests["views"],
        view=task.view,
        start=task.start,
        rows=task.rows,
        num_classes=layout.num_classes,
        k=layout.k,
        ordered=layout.ordered,
        kind=getattr(writer.teacher, "kind", "softmax"),
    )


def _wait_for_others(tasks: Sequence[_Task]) -> None:
    """Return when the shards of all processes are in place; torchrun ends this one if another fails."""
    for task in tasks:
        for writer in task.writers:
            while not _path(writer, task).exists():
                time.sleep(_WAIT_SECONDS)
