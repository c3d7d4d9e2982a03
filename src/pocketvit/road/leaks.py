"""Images that a network has learned from, among those that it is scored on: a figure made of these flatters it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import PocketError
from ..reporting.results import load_results
from ..rundir import Run
from ..sources import Dataset
from ..sources.base import Source
from ..sources.subset import shared_images
from .reopen import reopen

MOST = 50_000  # images beyond which nobody waits for their pixels to be compared


def images_of(model: Any) -> Dataset | None:
    """Return the images of a run, in its own splits; None of what is no finished run, or where they are gone.

    Args:
        model: A run, its folder, or the student in it, as teachers and models are named.
    """
    folder = run_folder(model)
    if folder is None:
        return None
    try:
        return reopen(folder).dataset
    except PocketError:
        return None


def run_folder(model: Any) -> Path | None:
    """Return the folder of the run that a model is named by; None where it is none."""
    if not isinstance(model, str | Path | Run):
        return None
    folder = Path(model.folder if isinstance(model, Run) else str(model).removeprefix("local-dir:")).expanduser()
    folder = folder.parent if folder.name == "student" else folder
    return folder if (folder / "config.yaml").is_file() and (folder / "results.json").is_file() else None


def learned_from(dataset: Dataset, scored: Source) -> int:
    """Return how many of some images stand in the training or validation split of others: equal pixels."""
    learned = [source for source in (dataset.train, dataset.val) if source is not None]
    if sum(map(len, (*learned, scored))) > MOST:
        return 0
    return shared_images(scored, *learned)


def leak(name: str, model: Any, scored: Source) -> str | None:
    """Say that a model is scored on images that it learned from; None where it is not, or nobody knows."""
    folder = run_folder(model)
    try:
        if folder is None or sum(load_results(folder).dataset["counts"].values()) > MOST:
            return None
    except (PocketError, TypeError):  # a broken record is no matter of the student beside it
        return None
    dataset = images_of(folder)
    count = 0 if dataset is None else learned_from(dataset, scored)
    if not count:
        return None
    seen = f"{count:,} of the {len(scored):,} {scored.split} images"
    return f"warning: {name} learned from {seen}: its figures here are too good"
