"""The report: one HTML page that holds everything it shows, opens without a network and runs no script."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from ..errors import PocketError
from ..files import human_bytes, write_text
from ..training.metrics import read_metrics
from ..views.drawing import COLOURS
from . import evidence, plots, words
from .by_box import box_table
from .by_label import label_table
from .comparison import compared_words, difference_plot
from .results import Results, Row, load_results
from .style import DARK, FONT, LIGHT, Look, inline_svg, looks
from .table import Table
from .text import interval_text, percent, share_text
from .tried import tried_rows, tried_table

_NAMED = 28  # classes whose colours are told, of which there are seven
HEAT_SIDE = 112  # pixels at least of a picture with its heat map


@dataclass(frozen=True)
class Run:
    """One run as the template shows it: everything is computed, nothing is marked up."""

    results: Results
    table: Table
    looks: dict[str, Any]
    parts: dict[str, Any]
    anchor: str


def write_report(
    folders: Path | str | Iterable[Path | str], out: Path | str | None = None, *, images: bool = True
) -> Path:
    """Write the report of one run folder, or of several side by side, and return its path.

    Args:
        folders: run folders, each with a ``results.json``.
        out: the file to write (default: ``report.html`` in the folder, or beside the first of several folders).
        images: False leaves out every pixel of the data, and the file names of single images.

    Raises:
        PocketError: a folder is no finished run, or the page cannot be written.
    """
    places = [Path(folders)] if isinstance(folders, (str, Path)) else [Path(folder) for folder in folders]
    if not places:
        raise PocketError("report needs at least one run folder: name one or more folders under runs/.")
    if out is None:
        out = places[0] / "report.html" if len(places) == 1 else places[0].absolute().parent / "report.html"
    runs = [_gather(load_results(place), images, f"run-{number}") for number, place in enumerate(places, 1)]
    environment = Environment(
        loader=PackageLoader("pocketvit.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["whole"] = _whole
    page = environment.get_template("report.html").render(
        runs=runs,
        images=images,
        light=LIGHT,
        dark=DARK,
        font=Markup(FONT),
        percent=percent,
        interval=interval_text,
        share=share_text,
        research=words.RESEARCH,
        created=words.moment,
        overview=_overview(runs),
    )
    write_text(out, page)
    return Path(out)


def _whole(text: str) -> str:
    """Keep numbers and their units on one line."""
    return re.sub(r"(?<=\d) (?=(?:%|B|kB|MB|GB|ms)(?!\w))", "\N{NO-BREAK SPACE}", text)


def _gather(results: Results, images: bool, anchor: str) -> Run:
    look = looks(results.rows)
    predictions, why = evidence.load_predictions(results)
    samples = evidence.load_samples(results) if images else None
    missing = [why] if why else []
    rows, name = _plotted(results)
    title = {"accuracy": "Accuracy"}.get(name, name)
    ways = tried_rows(results)
    parts: dict[str, Any] = {
        "headline": compared_words(results.comparison) or words.headline(results),
        "tiles": [] if results.comparison else words.tiles(results),
        "curve_of": _curve_of(results),
        "differences": words.differences(results),
        "size": _svg(plots.accuracy_against(rows, "bytes", name), f"{anchor}-size", f"{title} against file size"),
        "latency": _svg(
            plots.accuracy_against(rows, "latency_p50", name), f"{anchor}-latency", f"{title} against latency"
        ),
        "comparison": _svg(
            difference_plot(results.comparison), f"{anchor}-comparison", "Differences to the baseline, and their cost"
        ),
        "bars": _svg(plots.bars(rows, name=name), f"{anchor}-bars", f"{title} and file size of each row"),
        "tried": tried_table(results),
        "tried_plots": [
            drawing
            for cost, cost_words in (("bytes", "file size"), ("latency_p50", "latency"))
            if (
                drawing := _svg(
                    plots.accuracy_against(ways, cost, "score"),
                    f"{anchor}-tried-{cost}",
                    f"Ways that were tried: score against {cost_words}",
                )
            )
        ],
        "plotted": {row.key for row in rows if row.accuracy is not None and (row.bytes or row.latency_p50)},
        "curves": _curves(results, anchor),
        "confusion": None,
        "errors": None,
        "labels": label_table(results),
        "boxes": box_table(results),
        "precision": _svg(plots.precision_recall(results.rows), f"{anchor}-precision", "Precision against recall"),
        "with_curve": {row.key for row in results.rows if row.curve},
        "seen": [],
        "reliability": _svg(
            plots.reliability_curves(results.reliability),
            f"{anchor}-reliability",
            f"Accuracy against confidence of {_curve_of(results)}",
        ),
        "heat": [],
        "disagreements": None,
        "views": [],
        "counts": _counts(results.dataset),
        "provenance": _provenance(results),
    }
    if samples is not None and len(samples.views):
        parts["views"] = [
            {"uri": _data_uri(view), "label": label, "side": view.shape[1]}
            for view, label in zip(samples.views, samples.view_labels, strict=False)
        ]
    if samples is not None:
        parts["heat"] = [_heat(results, heat) for heat in samples.heat]
        parts["seen"] = [
            {**one, "panels": [{**panel, "uri": _data_uri(panel["pixels"])} for panel in one["panels"]]}
            for one in samples.seen
        ]
        names = results.dataset.get("classes") or ()
        parts["colours"] = [(name, COLOURS[number % len(COLOURS)]) for number, name in enumerate(list(names)[:_NAMED])]
    if predictions is not None:
        parts["errors"] = _errors(results, predictions, look, anchor)
        parts["confusion"] = _confusion(results, predictions, anchor)
        parts["disagreements"] = _disagreements(results, predictions, samples)
        if parts["confusion"] is None:
            missing.append("confusion matrix: the predictions hold no truths, or not those of the student")
        if parts["disagreements"] is None:
            missing.append("where student and teachers disagree: the predictions of both are needed")
    if images and not parts["views"]:
        missing.append("images as the student sees them: none were stored with the run")
    parts["missing"] = words.not_measured(results, tuple(line[:1].upper() + line[1:] + "." for line in missing))
    return Run(results, Table.of(results), look, parts, anchor)


def _plotted(results: Results) -> tuple[tuple[Row, ...], str]:
    """Return the rows with the task's figure in the accuracy's place, and what that is called."""
    if not any(row.map is not None for row in results.rows):
        return results.rows, "accuracy"
    return tuple(replace(row, accuracy=row.map, interval=row.map_interval) for row in results.rows), "mAP"


def _curves(results: Results, anchor: str) -> dict[str, Any] | None:
    folder = results.folder or Path()
    curves = {key: read_metrics(folder / path) for key, path in results.curves.items()}
    found = any("val_accuracy" in line for lines in curves.values() for line in lines)
    score = "val_accuracy" if found else results.task.score
    drawings = {
        ("loss" if what == "loss" else "score"): _svg(
            plots.learning_curves(results.rows, curves, what), f"{anchor}-{what}", title
        )
        for what, title in ((score, "The validation split over training"), ("loss", "Training loss over training"))
    }
    shown = [key for key, metrics in curves.items() if metrics]
    smaller = [line.get("epoch") for lines in curves.values() for line in lines if line.get("smaller")]
    return {**drawings, "keys": shown, "smaller": smaller[-1:]} if any(drawings.values()) else None


def _confusion(results: Results, predictions: evidence.Predictions, anchor: str) -> dict[str, Any] | None:
    candidates = [row for row in (results.shipped, results.student, *results.rows) if row is not None and row.measured]
    row = next((row for row in candidates if row.key in predictions.probabilities), None)
    counts = evidence.confusion(predictions, row.key) if row is not None else None
    if row is None or counts is None:
        return None
    names = [evidence.class_name(results.classes, index) for index in range(len(counts))]
    return {
        "of": row.name,
        "n": int(counts.sum()),
        "svg": _svg(plots.confusion_matrix(counts, names), f"{anchor}-confusion", f"Confusion matrix of {row.name}"),
        "frequent": evidence.frequent_confusions(counts, results.classes, 6),
        "weakest": evidence.weakest_classes(counts, results.classes, 6),
    }


def _errors(
    results: Results, predictions: evidence.Predictions, look: Mapping[str, Look], anchor: str
) -> dict[str, Any] | None:
    """Return the ROC curve of the file that ships and both kinds of error of every row; None but for two classes."""
    rows = [row for row in results.rows if row.sensitivity is not None and row.specificity is not None]
    row = next((row for row in (results.shipped, results.student, *rows) if row is not None and row in rows), None)
    given = predictions.probabilities.get(row.key) if row is not None else None
    if row is None or given is None or given.shape[1] != 2 or row.positive not in results.classes:
        return None
    positive = results.classes.index(row.positive)
    known = predictions.targets >= 0
    drawing = plots.roc(predictions.targets[known] == positive, given[known, positive], row, look[row.key].role)
    return {
        "of": row.name,
        "positive": row.positive,
        "chosen": row.chosen,
        "svg": _svg(drawing, f"{anchor}-roc", f"ROC curve of {row.name}"),
        "rows": rows,
    }


def _curve_of(results: Results) -> str:
    """Return the row whose confidence is plotted against the truth: the student in fp32, as it was trained."""
    return results.student.name if results.student is not None else "the model"


def _heat(results: Results, heat: evidence.Heat) -> dict[str, Any]:
    """Return one image with the maps over it, and what was answered."""
    pictures = [("image", _overlay(heat.image, None))]
    if heat.rollout is not None:
        pictures.append(("attention rollout", _overlay(heat.image, heat.rollout)))
    pictures.append(("gradient", _overlay(heat.image, heat.gradient)))
    return {
        "pictures": [{"uri": _data_uri(pixels), "label": label} for label, pixels in pictures],
        "answer": evidence.class_name(results.classes, heat.answer),
        "truth": evidence.class_name(results.classes, heat.truth),
        "right": heat.truth == heat.answer if heat.truth >= 0 else None,
        "name": heat.name,
    }


def _overlay(image: np.ndarray, heat: np.ndarray | None) -> np.ndarray:
    """Lay a heat map (0 to 1) over uint8 pixels [S, S, 3], the hotter the more opaque; small images are enlarged."""
    times = max(1, round(HEAT_SIDE / max(image.shape[:2])))
    pixels = np.ascontiguousarray(image, dtype=np.uint8).repeat(times, 0).repeat(times, 1)
    if heat is None:
        return pixels
    grey = Image.fromarray(np.asarray(heat, np.float32)).resize(pixels.shape[1::-1], Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(grey), 0, 1)[..., None]
    colours = 255 * colormaps["inferno"](strength[..., 0])[..., :3]
    weight = 0.25 + 0.55 * strength  # cold places are dimmed, so that dark images show where the map is low too
    return (pixels * (1 - weight) + colours * weight).round().astype(np.uint8)


def _disagreements(
    results: Results, predictions: evidence.Predictions, samples: evidence.Samples | None
) -> dict[str, Any] | None:
    found = evidence.disagreements(results, predictions)
    if found is None:
        return None
    thumbnails = samples.test if samples is not None else {}
    cards = [
        {
            "uri": _data_uri(thumbnails[item.position]) if item.position in thumbnails else "",
            "side": thumbnails[item.position].shape[1] if item.position in thumbnails else 0,
            "name": item.name if samples is not None else f"image {item.position}",
            "truth": item.truth,
            "guesses": item.guesses,
        }
        for item in found.items[: evidence.MAX_DISAGREEMENTS]
    ]
    summary = words.disagreement_summary(
        found.n, len(found.items), found.student_right, found.teachers_right, found.neither
    )
    if not found.judged:
        summary = f"They differ on {len(found.items):,} of {found.n:,} images; no truths are known."
    return {
        "student": found.student.name,
        "teachers": [row.name for row in found.teachers],
        "summary": summary,
        "cards": cards,
        "total": len(found.items),
    }


def _counts(dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = dataset.get("counts") or {}
    return [(str(split), f"{count:,}" if isinstance(count, int) else str(count)) for split, count in counts.items()]


def _provenance(results: Results) -> dict[str, Any]:
    """Return who made what: the command, the date, the configuration, and the files with their hashes."""
    folder = results.folder or Path()
    config = folder / "config.yaml"
    files = []
    names = ["results.json", results.predictions, "config.yaml", "model.onnx", "model-int8.onnx", "device.zip"]
    for path in [*(folder / name for name in names), *sorted((folder / "student").glob("*"))]:
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files.append((path.relative_to(folder).as_posix(), human_bytes(path.stat().st_size), digest))
    return {
        "config": config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        "files": files,
        "more": [(str(key), str(value)) for key, value in results.provenance.items()],
    }


def _overview(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return one table over several runs, and the run's title by the key of its first row."""
    if len(runs) < 2:
        return None
    rows: list[Row] = []
    groups = {}
    for run in runs:
        own = [replace(row, key=f"{run.anchor}-{row.key}") for row in run.results.rows]
        if own:
            groups[own[0].key] = run.results.title
        rows += own
    return {"table": Table(rows), "groups": groups}


def _svg(drawing: Figure | None, name: str, title: str) -> Markup | None:
    """Mark an SVG as safe: matplotlib escapes every text in it, and `inline_svg` its title."""
    return None if drawing is None else Markup(inline_svg(drawing, name, title))


def _data_uri(pixels: np.ndarray) -> str:
    """Return uint8 pixels [H, W, 3] or [H, W] as an image inside the page: small ones exactly, large ones as JPEG."""
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))
    target = io.BytesIO()
    kind = "png" if max(image.size) <= 96 else "jpeg"
    image.save(target, kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    return f"data:image/{kind};base64,{base64.b64encode(target.getvalue()).decode()}"
