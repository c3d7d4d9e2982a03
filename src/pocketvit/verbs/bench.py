"""`pocketvit bench MODEL...`."""

from __future__ import annotations

from collections.abc import Sequence

from ..rundir import Outcome, speak


def bench(
    models: Sequence[str],
    *,
    images: str | None = None,
    labels: str | None = None,
    window: str | None = None,
    teacher: str | None = None,
    arch: str | None = None,
    input: int | None = None,
    norm: str | None = None,
    split: str = "test",
) -> Outcome:
    """Measure models or exported files side by side: accuracy, agreement, calibration, size, FLOPs, latency, memory.

    Latencies are taken in turns in one process, batch 1, one thread. Without images only the costs are measured.

    Args:
        models: run or student folders, .onnx files, timm names, weights files (with --arch)
        images: labelled images to score on: a folder, a .npz or .csv file, "digits"
        labels: CSV file of file names and labels of the images in a folder
        window: intensities LOW,HIGH that become black and white in images that are not 8-bit
        teacher: a model whose agreement with the others is measured
        arch: architecture of weights files
        input: side in pixels of what a model sees, where its file does not say
        norm: normalization where a model's file does not say: imagenet, half or none
        split: of the images: train, val or test
    """
    from pathlib import Path

    from ..config import ViewConfig
    from ..deployment.run import OnnxModel
    from ..errors import PocketError
    from ..reporting.results import Results, Row
    from ..reporting.table import Table
    from ..rundir import machine
    from ..sources import open_images
    from ..teachers import align, load_teacher
    from .measure import Entry, command_line, file_answers, measure_rows
    from .options import check_numbers, parse_window
    from .stages import probabilities_of, tell_dataset

    speak()
    check_numbers(input=input)
    source = None
    if images is not None:
        dataset = open_images(images, labels=labels, window=parse_window(window))
        tell_dataset(dataset)
        source = dataset.splits.get(split)
        if source is None or not len(source):
            raise PocketError(f"{images} has no {split} images; it has {', '.join(dataset.splits)} (--split).")
    entries = []
    named = [("model", model) for model in models] + ([("teacher", teacher)] if teacher else [])
    for number, (role, name) in enumerate(named):
        path, key = Path(name), f"{role}-{number}"
        if path.suffix == ".onnx":
            exported = OnnxModel(path)
            answers = None
            if source is not None:
                _same_classes(name, exported.classes, source.classes)
                if exported.signature.several and not source.multilabel:
                    raise PocketError(f"{name} answers several labels an image, and {images} has one class each.")
                answers = file_answers(path, source)
            entry = Entry(key, name, "other", exported.signature.input_size, file=path, probabilities=answers)
        else:
            loaded = load_teacher(name, arch=arch, input_size=input, norm=norm)
            view = ViewConfig(view_size=loaded.input_size)
            answers = None
            if source is not None:
                aligned = align(loaded, source.classes)
                if aligned is None:
                    raise PocketError(
                        f"{name} does not know the classes of {images}. Train it on them first: "
                        f"`pocketvit train {images} --model {name}`, or leave --images away to measure its costs."
                    )
                answers = probabilities_of(aligned, source, view)
            entry = Entry(
                key, name, "teacher" if role == "teacher" else "other", loaded.input_size, loaded.module,
                probabilities=answers,
            )  # fmt: skip
        entries.append(entry)
    rows, _ = measure_rows(source, entries, task=dataset.task if source is not None else "classification")
    results = Results(
        folder=None,
        rows=tuple(Row.read(row) for row in rows),
        command=command_line(),
        machine=machine() | {"threads": 1},
        dataset={"name": images, "scored_on": split, "task": dataset.task} if images else {},
    )
    return Outcome(str(Table.of(results)), {"rows": rows, "machine": machine()})


def _same_classes(name: str, known: Sequence[str], wanted: Sequence[str]) -> None:
    from ..errors import PocketError

    if tuple(known) != tuple(wanted):
        raise PocketError(
            f"{name} was exported for the classes {', '.join(known[:5])}..., but the images have "
            f"{', '.join(wanted[:5])}.... Score it on images with its own classes."
        )
