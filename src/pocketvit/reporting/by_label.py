"""What a report shows of several labels per image: each label's AUC, and how often it is there."""

from __future__ import annotations

from typing import Any

from . import evidence
from .results import Results, Row


def label_table(results: Results) -> dict[str, Any] | None:
    """Return each label's AUC for every row that has them, the rarest label first; None where an image has one
    answer.

    ``absent`` is the share of labels that would be right if none were ever named, which an accuracy has to be compared
    with; it and the counts are None without predictions.
    """
    rows = [row for row in results.rows if row.class_auc]
    if results.task.exclusive or not rows:
        return None
    counts, n = evidence.label_counts(results)
    count = min(len(row.class_auc) for row in rows)
    order = sorted(range(count), key=lambda index: (counts[index] if counts else index, index))
    lines = [
        {
            "name": evidence.class_name(results.classes, index),
            "count": counts[index] if counts else None,
            "aucs": [row.class_auc[index] for row in rows],
        }
        for index in order
    ]
    return {
        "rows": [row.name for row in rows],
        "of": _shown(results, rows),
        "n": n,
        "lines": lines,
        "absent": 1 - sum(counts) / (len(counts) * n) if counts and n else None,
    }


def _shown(results: Results, rows: list[Row]) -> int:
    """Which of the rows ships, to stand out."""
    return next((place for place, row in enumerate(rows) if row == results.shipped), -1)
