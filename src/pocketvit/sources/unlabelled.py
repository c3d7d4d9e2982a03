"""Images that nobody labelled, as a set of a task: what is asked of them is what a teacher answers."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np

from .base import Dataset, Source
from .boxes import Boxes
from .targets import Targets, labelled
from .tiles import sides_of


def unlabelled_as(dataset: Dataset, task: str, classes: int) -> Dataset:
    """Return a set whose splits without labels are splits of a task.

    Args:
        dataset: Its labelled splits stay as they are.
        task: "classification", "ordinal", "multilabel" or "detection".
        classes: How many a teacher answers, which the targets of several labels have a column for each of.
    """
    splits: dict[str, Source] = {}
    for split, source in dataset.splits.items():
        splits[split] = source
        if not labelled(source.targets).any():
            splits[split] = copy.copy(source)
            splits[split].targets = _unknown(source, task, classes)
    return dataclasses.replace(dataset, task=task, **splits)  # type: ignore[arg-type]


def _unknown(source: Source, task: str, classes: int) -> Targets:
    if task == "detection":
        return Boxes.nobody_looked(sides_of(source).astype(np.int32))
    return np.full((len(source), classes) if task == "multilabel" else len(source), -1, np.int64)
