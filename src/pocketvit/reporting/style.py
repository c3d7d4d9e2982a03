"""Colours, markers and the step from a matplotlib figure to an SVG that follows the page's light or dark theme.

Figures for a page are drawn in placeholder colours (`SENTINELS`), which `inline_svg` replaces by CSS variables: one
drawing serves the light page and the dark one.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from .results import Row

LIGHT = {
    "page": "#f6f6f3",
    "card": "#ffffff",
    "ink": "#1c2127",
    "muted": "#656d78",
    "grid": "#e4e6e9",
    "teacher": "#b0560a",
    "teacher-int8": "#a07a10",
    "student": "#1d5fd1",
    "model": "#1d5fd1",
    "int8": "#0a7f86",
    "baseline": "#767e89",
    "against": "#a83260",
    "ceiling": "#3a7d3c",
    "other": "#8449ad",
}
DARK = {
    "page": "#101214",
    "card": "#181b1f",
    "ink": "#e7e9ec",
    "muted": "#9aa3ae",
    "grid": "#2c3137",
    "teacher": "#f0a05a",
    "teacher-int8": "#dcc25c",
    "student": "#74a5ff",
    "model": "#74a5ff",
    "int8": "#45c9c4",
    "baseline": "#a2aab4",
    "against": "#f08cb0",
    "ceiling": "#7fc77f",
    "other": "#c796ec",
}
SENTINELS = {name: f"#{0xFE0100 + index:06x}" for index, name in enumerate(LIGHT)}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

# matplotlib's marker, and the same shape in a 12 x 12 box for the legend of the page
MARKERS = {
    "o": "M6 1.2a4.8 4.8 0 1 0 .01 0z",
    "s": "M1.8 1.8h8.4v8.4h-8.4z",
    "D": "M6 .6 11.4 6 6 11.4 .6 6z",
    "^": "M6 1 11 10.5H1z",
    "v": "M6 11 1 1.5h10z",
    "P": "M4.2 1h3.6v3.2H11v3.6H7.8V11H4.2V7.8H1V4.2h3.2z",
    "X": "M3.3 1 6 3.7 8.7 1 11 3.3 8.3 6 11 8.7 8.7 11 6 8.3 3.3 11 1 8.7 3.7 6 1 3.3z",
}
_FIRST = {
    **{"teacher": "s", "teacher-int8": "D", "student": "o", "model": "o", "int8": "D", "baseline": "^"},
    **{"against": "X", "ceiling": "v", "other": "P"},
}
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


@dataclass(frozen=True)
class Look:
    """How one row is drawn everywhere: the colour is its role's, marker and dashes tell rows of a role apart."""

    role: str
    marker: str
    dashes: str | tuple

    @property
    def path(self) -> str:
        """The marker as an SVG path in a 12 x 12 box."""
        return MARKERS[self.marker]


def looks(rows: Sequence[Row]) -> dict[str, Look]:
    """Return the look of each row by its key."""
    seen: dict[str, int] = {}
    order = list(MARKERS)
    result = {}
    for row in rows:
        count = seen.get(row.role, 0)
        seen[row.role] = count + 1
        marker = order[(order.index(_FIRST[row.role]) + count * 2) % len(order)]
        result[row.key] = Look(row.role, marker, _DASHES[count % len(_DASHES)])
    return result


@contextmanager
def figure(width: float, height: float, name: str) -> Iterator[Figure]:
    """Yield an empty figure of ``width`` x ``height`` CSS pixels, to be drawn on in our own settings."""
    with _settings(name):
        yield Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained", facecolor="none")


@contextmanager
def _settings(name: str) -> Iterator[None]:
    """Set matplotlib's parameters while we draw or render, and put them back: pyplot's state is never touched.

    Text stays text (never mathematics: a class may be called ``$x$``), and the same data gives the same bytes.
    """
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 11.5,
        "text.color": SENTINELS["ink"],
        "axes.labelcolor": SENTINELS["muted"],
        "axes.edgecolor": SENTINELS["grid"],
        "axes.facecolor": "none",
        "xtick.color": SENTINELS["muted"],
        "ytick.color": SENTINELS["muted"],
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid.axis": "y",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": SENTINELS["grid"],
        "grid.linewidth": 1.0,
        "lines.solid_capstyle": "round",
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the fonts that we lack
        yield


def inline_svg(drawing: Figure, name: str, title: str) -> str:
    """Return a figure as an ``<svg>`` element for a page that has ``--ink``, ``--student``, ... as CSS variables."""
    variables = {colour: f"var(--{role})" for role, colour in SENTINELS.items()}
    svg = _raw_svg(drawing, name, title)
    return re.sub(r"#fe01[0-9a-f]{2}", lambda colour: variables.get(colour[0], colour[0]), svg)


def standalone_svg(drawing: Figure, name: str, title: str) -> str:
    """Return a figure as an SVG file that follows the reader's light or dark theme, on a card of its own.

    The card is opaque, so that the picture stays legible where a page and the reader's system disagree.
    """

    def variables(palette: Mapping[str, str]) -> str:
        return ";".join(f"--{role}:{colour}" for role, colour in palette.items())

    svg = inline_svg(drawing, name, title)
    style = (
        f"<style>svg{{{variables(LIGHT)}}}@media (prefers-color-scheme: dark){{svg{{{variables(DARK)}}}}}</style>"
        '<rect x="0.5" y="0.5" width="99.9%" height="99.7%" rx="10" style="fill: var(--card); stroke: var(--grid)"/>'
    )
    width, height = (round(float(side) * 72) for side in drawing.get_size_inches())
    head, body = svg.split(">", 1)
    head = head.replace("<svg", f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"', 1)
    title_end = body.index("</title>") + len("</title>")
    return f"{head}>{body[:title_end]}{style}{body[title_end:]}\n"


def _raw_svg(drawing: Figure, name: str, title: str) -> str:
    """Render, then strip what a page does not need: the XML head, metadata, fixed size and ids that would collide."""
    target = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _settings(name):
        FigureCanvasSVG(drawing).print_svg(target, metadata=metadata)
    svg = re.sub(r"[\x00-\x08\x0b-\x1f]", "", target.getvalue())  # not allowed in XML, but in a file name
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)  # matplotlib repeats each text as a comment
    view_box = re.search(r'viewBox="([^"]+)"', svg)
    assert view_box is not None
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r"font: ([\d.]+)px [^;\"]+", rf"font: \1px {FONT}".replace("'", "&apos;"), body)
    body = re.sub(r"\s*<g id=\"(?:figure|axes|matplotlib\.axis|xtick|ytick|text|patch|line2d)_\d+\"", "\n<g", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'href="#', f'href="#{name}-', body).replace("xlink:href", "href")
    body = re.sub(r">\s+<", "><", body)
    safe = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    label = safe.replace('"', "&quot;")
    return f'<svg viewBox="{view_box[1]}" role="img" aria-label="{label}"><title>{safe}</title>{body.strip()}'
