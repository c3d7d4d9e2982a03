"""Models and exported files measured side by side, on images or for their costs alone."""

from __future__ import annotations

import copy
import logging
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ViewConfig
from ..deployment.opening import is_exported, onnx_file, open_model, shipped_in
from ..deployment.remote import bench_there
from ..errors import PocketError
from ..files import human_bytes, write_json
from ..models import load_model
from ..reporting.device import Measured
from ..rundir import Run
from ..settings import Bench, listed
from ..sources import Dataset, for_test_alone, open_test_images
from ..sources.base import Source
from ..tasks import Task, task_named
from ..teachers import align, load_teacher
from .answering import answers, teacher_answers
from .images import open_dataset, tell_dataset
from .leaks import images_of, leak, run_folder
from .measuring import Entry, measure_rows

log = logging.getLogger("pocketvit")


def bench_models(settings: Bench) -> tuple[list[dict[str, Any]], Dataset | None]:
    """Return a row per model, and the images that they were scored on; None without.

    Every model sees the images as it was made to: size, aspect, kernel, window and tiles are its own.
    """
    dataset, source = None, None
    if settings.images is not None:
        dataset = _as_split(settings) or _opened(settings)
        tell_dataset(dataset)
        source = dataset.splits.get(settings.split)
        if source is None or not len(source):
            splits = ", ".join(dataset.splits)
            raise PocketError(f"{settings.images} has no {settings.split} images; it has {splits} (--split).")
    models = measurable(listed(settings.models))
    if source is not None:
        source = completed(models, source)
    there = [] if settings.on is None else measure_there(models, settings.on)  # a device that is off says so at once
    named = [("model", model) for model in models]
    named += [("teacher", settings.teacher)] if settings.teacher else []
    task = task_named(dataset.task if dataset is not None else "classification")
    numbers = {} if dataset is None else dataset.numbers
    entries = [_entry(settings, role, number, what, source, task, numbers) for number, (role, what) in enumerate(named)]
    rows, _ = measure_rows(entries, task, source=source)
    rows += [
        found.row(row, row["name"]) | {"key": f"device-{number}"}
        for number, (found, row) in enumerate(zip(there, rows, strict=False))  # a teacher's row stands behind them
    ]
    return rows, dataset


def _opened(settings: Any) -> Dataset:
    """Open the images; those of a test alone, of which nothing could be learned, are scored all the same."""
    if settings.table is None and settings.split == "test" and for_test_alone(settings.images):
        return open_test_images(settings.images, window=settings.window)
    return open_dataset(settings)


def _as_split(settings: Bench) -> Dataset | None:
    """Return the images as the first run of these very images has them split; None where no run is of them.

    A split of its own would put images to the test that the run has learned from.
    """
    for model in listed(settings.models):
        folder = run_folder(model)
        origin = None if folder is None else Run(folder).settings
        own = getattr(origin, "images", None)
        if getattr(origin, "val", None) is not None or getattr(origin, "test", None) is not None:
            continue  # what is asked for are other images than these
        if isinstance(own, str) and isinstance(settings.images, str | Path) and _same_place(own, settings.images):
            dataset = images_of(folder)
            if dataset is not None:
                log.info("images   split as in %s", folder)
                return dataset
    return None


def _same_place(one: Any, other: Any) -> bool:
    return str(one) == str(other) or Path(str(one)).expanduser().resolve() == Path(str(other)).expanduser().resolve()


def completed(models: Sequence[Any], source: Source) -> Source:
    """Return a split in the classes of the models, where all of ours know the same and it has no images of some."""
    names = [str(model.folder if isinstance(model, Run) else model) for model in models]
    lists = [open_model(name).classes for name in names if _is_ours(name)]
    classes = lists[0] if lists and all(set(one) == set(lists[0]) for one in lists) else ()
    columns = isinstance(source.targets, np.ndarray) and source.targets.ndim > 1  # of several labels, one each
    if not set(source.classes) < set(classes) or columns:
        return source
    missing = tuple(name for name in classes if name not in source.classes)
    log.info("         no images of %s, which the models know", ", ".join(missing))
    result = copy.copy(source)
    result.classes = (*source.classes, *missing)
    return result


def measure_there(models: Sequence[Any], host: str) -> list[Measured]:
    """Return the figures of models on a device; those of a run are kept in its folder too.

    Raises:
        PocketError: One of them is no ONNX file and has none, or the device does not do it.
    """
    folders = [model.folder if isinstance(model, Run) else model for model in models]
    files = [onnx_file(folder) if isinstance(folder, str | Path) else None for folder in folders]
    for folder, file in zip(folders, files, strict=True):
        if file is None:
            raise PocketError(f"--on takes runs and ONNX files, and {folder} is neither. `pocketvit export` makes one.")
    measured = []
    for folder, file in zip(map(Path, folders), filter(None, files), strict=True):
        log.info("device   %s: copies %s (%s) and runs bench.py", host, file, human_bytes(file.stat().st_size))
        found = {"device": host, **bench_there(host, file)}
        measured.append(Measured.read(found, f"what {host} printed"))
        if (folder / "results.json").is_file():
            name = re.sub(r"[^\w.@-]+", "-", host)
            kept = folder / f"device-{name}.json"
            write_json(kept, found)
            into = shlex.join(["pocketvit", "report", str(folder), "--device", str(kept)])
            log.info("         kept; into its report: %s", into)
    return measured


def measurable(models: Sequence[Any]) -> list[Any]:
    """Return what can be measured of models as ``runs/*`` names them: not what runs share, nor unfinished ones.

    Where nothing is left, all are, so that they say themselves what is wrong with them.
    """
    models = list(models)
    kept = [model for model in models if not _empty(model)]
    if not kept:
        return models
    for model in models:
        if _empty(model):
            log.warning("left out %s: no finished run, and no model", model)
    return kept


def _empty(model: Any) -> bool:
    """Whether a folder holds no model: neither files nor a student."""
    if not isinstance(model, str | os.PathLike) or not Path(model).is_dir():
        return False
    path = Path(model)
    return shipped_in(path) is None and not (path / "config.json").exists()


def _entry(
    settings: Bench, role: str, number: int, model: Any, source: Source | None, task: Task, numbers: Mapping[str, int]
) -> Entry:
    name, role = str(model.folder if isinstance(model, Run) else model), "teacher" if role == "teacher" else "other"
    key = f"{role}-{number}"
    if isinstance(model, Run) or _is_ours(name):
        opened = open_model(name)
        given, note = None, ""
        inside = getattr(getattr(opened, "signature", None), "source_size", None)
        if inside and source is not None:
            note = f"not scored: it takes whole pictures of {inside[1]}x{inside[0]} pixels"
        elif source is not None:
            _check_same(name, opened.classes, opened.task, source, task)
            told = leak(name, model, source)
            if told is not None:
                log.warning(told)
                note = told.removeprefix("warning: ")
            view = opened.preprocessing.view
            given = answers({"": opened.probabilities}, source, view, task)[""]
            given = task.reordered(given, np.array([source.classes.index(one) for one in opened.classes]))
        side, file = opened.preprocessing.input_size, getattr(opened, "path", None)
        module = getattr(opened, "module", None)
        if file is not None and Path(name).is_dir():  # of a run: its file is measured, its student counted
            module = load_model(Path(name) / "student").module if (Path(name) / "student").is_dir() else None
            name = f"{name}: {file.name}"
        return Entry(
            key, name, role, side, model=module, file=file, probabilities=given, note=note, task=opened.task
        )  # fmt: skip
    loaded = load_teacher(
        model, arch=settings.arch, weights=settings.weights, input_size=settings.input_size, norm=settings.norm
    )
    for note in loaded.notes:
        log.info("%s", note)
    given = None
    if source is not None:
        aligned = align(loaded, source.classes, numbers)
        if aligned is None:
            train = shlex.join(["pocketvit", "train", str(settings.images), "--model", name])
            raise PocketError(
                f"{name} does not know the classes of {settings.images}. Train it on them first: `{train}`, or leave "
                "--images away to measure its costs."
            )
        view = task.view(ViewConfig(view_size=loaded.input_size))
        given = answers({"": teacher_answers(aligned, task)}, source, view, task)[""]
    return Entry(key, name, role, loaded.input_size, model=loaded.module, probabilities=given)


def _is_ours(name: str) -> bool:
    """Whether a path is an exported file, a run or a student folder, which says itself how it is fed."""
    path = Path(name)
    if is_exported(path):
        return True
    return path.is_dir() and (shipped_in(path) is not None or (path / "config.json").exists())


def _check_same(name: str, classes: Sequence[str], made_for: Task, source: Source, task: Task) -> None:
    if made_for.kind != task.kind:
        raise PocketError(f"{name} answers a {made_for.name} task, and the images are a {task.name} set.")
    if sorted(classes) != sorted(source.classes):
        advice = "Score it on images with its own classes."
        if len(classes) == len(source.classes) and tuple(classes) == tuple(f"class {n}" for n in range(len(classes))):
            named = shlex.join(["pocketvit", "export", name, "--classes", ",".join(source.classes), "--out", "named"])
            advice = f"If these are they, in this order, name them first: `{named}`, and score what that writes."
        raise PocketError(
            f"{name} was made for the classes {_some(classes)}, but the images have {_some(source.classes)}. {advice}"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
