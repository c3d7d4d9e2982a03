"""A sheet of a bank's pictures, a row a class, and the page that shows it with what the bank was made from."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import atomic, write_text
from .bank import Bank

_GAP = 2  # pixels between pictures
_ROWS = 20  # classes shown, at most
_ACROSS = 12  # pictures of each


def gallery(bank: Bank, path: Path | str, sentences: Sequence[str] = ()) -> Path:
    """Write a PNG with twelve random pictures of every class, or of twenty classes spread over all.

    Args:
        bank: Finished.
        path: Of the PNG; the page lies beside it, with the ending .html.
        sentences: What the page says of the bank.

    Returns:
        The page.
    """
    path = Path(path)
    answers = bank.logits.argmax(1)
    present = np.unique(answers)
    shown = present if len(present) <= _ROWS else present[np.linspace(0, len(present) - 1, _ROWS).round().astype(int)]
    side = bank.images.shape[1]
    scale = max(1, 64 // side)
    cell = side * scale + _GAP
    sheet = np.full((len(shown) * cell + _GAP, _ACROSS * cell + _GAP, 3), 255, np.uint8)
    random = np.random.Generator(np.random.Philox(0))
    for row, label in enumerate(shown):
        members = np.flatnonzero(answers == label)
        for column, member in enumerate(random.permutation(members)[:_ACROSS]):
            top, left = row * cell + _GAP, column * cell + _GAP
            picture = bank.images[member].repeat(scale, 0).repeat(scale, 1)
            sheet[top : top + side * scale, left : left + side * scale] = picture
    with atomic(path) as temporary:
        Image.fromarray(sheet).save(temporary, "PNG")
    page = path.with_suffix(".html")
    write_text(page, _page(bank, path, sentences, shown, cell))
    return page


def _page(bank: Bank, sheet: Path, sentences: Sequence[str], shown: np.ndarray, cell: int) -> str:
    """The page, with the sheet inside it."""
    names = [bank.classes[label] if bank.classes else f"class {label}" for label in shown]
    counts = np.bincount(bank.logits.argmax(1), minlength=bank.logits.shape[1])
    rows = "".join(
        f'<div style="height:{cell}px;line-height:{cell}px">{html.escape(name)} <small>{counts[label]:,}</small></div>'
        for name, label in zip(names, shown, strict=True)
    )
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    picture = base64.b64encode(sheet.read_bytes()).decode()
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(bank.folder.name)}</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "small{color:#666}img{image-rendering:pixelated;display:block}main{display:flex;gap:1rem;overflow:auto}"
        "main div div{white-space:nowrap}</style>"
        f"<h1>Synthetic images</h1><ul>{said}</ul><p>Random pictures by the class that the teacher sees in them.</p>"
        f'<main><div style="padding-top:{_GAP}px">{rows}</div>'
        f'<img alt="A row of pictures for each class" src="data:image/png;base64,{picture}"></main></html>\n'
    )
