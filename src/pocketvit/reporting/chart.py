"""The chart for a README: accuracy and file size of each row, as an SVG that follows light and dark, and as a PNG.

<img src="docs/demo.svg" alt="..." width="720">
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import PocketError
from ..files import atomic, write_text
from . import plots
from .results import Results, Row, load_results, with_company
from .style import LIGHT, SENTINELS, png, standalone_svg


def write_chart(
    source: Path | str | Results | Iterable[Row | Mapping[str, Any]], out: Path | str, caption: str = ""
) -> tuple[Path, Path]:
    """Draw the bars of a run and return the paths of the SVG and the PNG.

    Args:
        source: a run folder, its results, or rows.
        out: path of the files; its suffix is replaced by ``.svg`` and ``.png``.
        caption: the line under the bars (default, for a run: what it was scored on).

    Raises:
        PocketError: no row has an accuracy, so that there is nothing to draw.
    """
    if isinstance(source, (str, Path)):
        source = load_results(source)
    if isinstance(source, Results):
        rows, caption = source.rows, caption or _caption(source)
    else:
        rows = with_company(source)
    drawing = plots.bars(rows, SENTINELS, caption=caption)
    picture = plots.bars(rows, LIGHT, LIGHT["card"], caption=caption)
    if drawing is None or picture is None:
        raise PocketError("there is no chart to draw: no row has an accuracy. Score the run on images with labels.")
    svg, bitmap = Path(out).with_suffix(".svg"), Path(out).with_suffix(".png")
    write_text(svg, standalone_svg(drawing, "chart", f"Accuracy and file size: {', '.join(row.name for row in rows)}"))
    with atomic(bitmap) as temporary:
        temporary.write_bytes(png(picture))
    return svg, bitmap


def _caption(results: Results) -> str:
    counts = {row.n for row in results.rows if row.n}
    count = f"{counts.pop():,} " if len(counts) == 1 else ""
    name = f" of {results.dataset['name']}" if results.dataset.get("name") else ""
    command = f" Made by: {results.command}" if len(results.command) in range(1, 40) else ""
    return f"Counted on {count}{results.scored_on} images{name}; lines are 95 % intervals.{command}"
