"""A sheet of a bank's pictures, a row a class, for the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..files import atomic
from .bank import Bank

_GAP = 2  # pixels between pictures
_ROWS = 20  # classes shown, at most


def gallery(bank: Bank, path: Path | str, *, across: int = 12, seed: int = 0) -> tuple[int, ...]:
    """Write a PNG with ``across`` random pictures of every class, or of twenty classes spread over all.

    Returns:
        The classes of its rows, from the top.
    """
    answers = bank.logits.argmax(1)
    present = np.unique(answers)
    shown = present if len(present) <= _ROWS else present[np.linspace(0, len(present) - 1, _ROWS).round().astype(int)]
    side = bank.images.shape[1]
    scale = max(1, 64 // side)
    cell = side * scale + _GAP
    sheet = np.full((len(shown) * cell + _GAP, across * cell + _GAP, 3), 255, np.uint8)
    random = np.random.Generator(np.random.Philox(seed))
    for row, label in enumerate(shown):
        members = np.flatnonzero(answers == label)
        for column, member in enumerate(random.permutation(members)[:across]):
            top, left = row * cell + _GAP, column * cell + _GAP
            picture = bank.images[member].repeat(scale, 0).repeat(scale, 1)
            sheet[top : top + side * scale, left : left + side * scale] = picture
    with atomic(path) as temporary:
        Image.fromarray(sheet).save(temporary, "PNG")
    return tuple(int(label) for label in shown)
