"""What a report shows of boxes: average precision by class and by size, and boxes side by side with the true ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from .results import Results
from .text import MISSING


def box_table(results: Results) -> dict[str, Any] | None:
    """Return each class's (and size's) average precision for every row that has them; None where no row has."""
    rows = [row for row in results.rows if row.by_class]
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name, _ in row.by_class))
    sizes = list(dict.fromkeys(name for row in rows for name, _ in row.by_size))
    return {
        "rows": [row.name for row in rows],
        "of": next((place for place, row in enumerate(rows) if row == results.shipped), -1),
        "n": rows[0].n,
        "boxes": rows[0].boxes,
        "lines": [
            *({"name": name, "cells": [_cell(dict(row.by_class), name) for row in rows]} for name in names),
            *({"name": f"{name} objects", "cells": [_cell(dict(row.by_size), name) for row in rows]} for name in sizes),
        ],
    }


def _cell(figures: dict[str, float | None], name: str) -> str:
    value = figures.get(name)
    return MISSING if value is None else f"{value:.3f}"


def seen(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the pictures of ``samples.npz`` with boxes on them: a dictionary each of name, and panels."""
    wanted = ("seen_pictures", "seen_titles", "seen_words", "seen_names")
    if any(name not in arrays for name in wanted):
        return []
    pictures, titles, words, names = (arrays[name] for name in wanted)
    return [
        {
            "name": str(name),
            "panels": [
                {"pixels": pixels, "title": str(title), "words": str(said)}
                for pixels, title, said in zip(panels, titles, told, strict=True)
            ],
        }
        for name, panels, told in zip(names, pictures, words, strict=True)
    ]
