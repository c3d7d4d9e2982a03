"""The honest table: for the terminal, for a notebook, and in markdown.

    print(Table(rows))                       # box-free aligned columns, as many blocks as the width asks for
    Table(rows)                              # in a notebook
    Table(rows).markdown()                   # for a README

What was left out reads "not run", an accuracy without test images "unknown", and any other missing figure "–".
"""

from __future__ import annotations

import html
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..files import human_bytes
from ..tasks import Task, task_named
from .results import Results, Row, parse_results, with_company
from .text import (
    MISSING,
    accuracy_text,
    auc_text,
    columns_of,
    describe_machine,
    escape_markdown,
    figure_text,
    human_count,
    interval_text,
    map_text,
    milliseconds,
    padded,
    percent,
    printable,
    share_text,
    shortened,
)
from .verdict import Verdict, verdict

_MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
_COMMAND = "command: "


@dataclass(frozen=True)
class Column:
    """One column: its title, what a cell says of a row, and what the figure means (a tooltip in HTML)."""

    title: str
    cell: Callable[[Row], str]
    meaning: str
    group: str = "worth"  # "worth" or "cost": where the columns are split when they do not fit side by side
    numeric: bool = True


class Table:
    """Rows of results with the columns that at least one of them can fill.

    A student among the rows is joined by "not run" rows for the companions it lacks (see `with_company`).

    Args:
        rows: `Row` objects or entries of ``results.json``.
        scored_on: what the accuracies were counted on, in words: "the test split of photos".
        task: says what an accuracy counts; one class per image by default.
        verdict: what the rows come to, printed above them.
        group: what the images are grouped by ("patient"), where intervals are over groups.
        machine: ``{"cpu", "cores", "threads", "torch", "os"}``, printed under the table.
        command: the command that made the figures.
        lead: a sentence that stands before the verdict.
    """

    def __init__(
        self,
        rows: Iterable[Row | Mapping[str, Any]],
        *,
        scored_on: str = "",
        task: Task | None = None,
        group: str = "",
        machine: Mapping[str, Any] | None = None,
        command: str = "",
        verdict: Verdict | None = None,
        lead: str = "",
    ):
        self.rows = with_company(rows)
        self.scored_on = scored_on
        self.task = task or task_named("classification")
        self.verdict, self.lead = verdict, lead
        self.group = group
        self.machine = machine or {}
        self.command = command
        self.columns = _columns(self.rows)

    @classmethod
    def of(cls, results: Results | Mapping[str, Any]) -> Table:
        """The table of a run (its `Results`, or what ``results.json`` holds), with its machine and command."""
        if not isinstance(results, Results):
            results = parse_results(results)
        name = results.dataset.get("scored_name") or results.dataset.get("name")
        scored_on = f"the {results.scored_on} split of {name}" if name else f"the {results.scored_on} split"
        return cls(
            results.rows,
            scored_on=scored_on,
            task=results.task,
            group=str(results.dataset.get("group") or ""),
            machine=results.machine,
            command=results.command,
            verdict=None if results.comparison else verdict(results.rows, results.task, results.chance),
            lead=results.lead,
        )

    def __str__(self) -> str:
        return self.text()

    def above(self) -> tuple[str, ...]:
        """The sentences that stand first: what a compressed file is against the one before, then the verdict."""
        return (*([self.lead] if self.lead else ()), *(self.verdict.lines if self.verdict else ()))

    def text(self, width: int | None = None) -> str:
        """Return aligned columns, split into blocks of at most ``width`` characters (default: the terminal's)."""
        width = width or shutil.get_terminal_size((100, 24)).columns
        names = [shortened(f"{printable(row.name)}{mark}", max(16, width // 2)) for row, mark in self.marked()]
        name_width = max(map(columns_of, names), default=0)
        blocks = []
        for columns in self._blocks(width - name_width):
            cells = [[column.title, *(printable(column.cell(row)) for row in self.rows)] for column in columns]
            widths = [max(map(columns_of, cell)) for cell in cells]
            lines = []
            for index, name in enumerate(["", *names]):
                line = padded(name, name_width)
                for column, cell, size in zip(columns, cells, widths, strict=True):
                    line += "  " + padded(cell[index], size, right=column.numeric)
                lines.append(line.rstrip())
            blocks.append("\n".join(lines))
        above, below = (
            "\n".join(_wrapped(printable(line), width) for line in lines) for lines in (self.above(), self.footer())
        )
        return "\n\n".join([*([above] if above else []), *blocks, below]).rstrip()

    def markdown(self) -> str:
        """Return a GitHub table and its footer; text that others wrote is escaped."""
        head = ["", *(column.title for column in self.columns)]
        rule = ["---", *("---:" if column.numeric else "---" for column in self.columns)]
        lines = [head, rule]
        for row, mark in self.marked():
            name = escape_markdown(row.name) + mark
            name = f"**{name}**" if self.ships(row) else name
            lines.append([name, *(escape_markdown(column.cell(row)) for column in self.columns)])
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        above, below = ("  \n".join(map(escape_markdown, lines)) for lines in (self.above(), self.footer()))
        return (above + "\n\n" if above else "") + table + "\n\n" + below

    def _repr_html_(self) -> str:
        """Return the table for a notebook: it takes the colours of the page that it stands in."""
        cell = "padding:.3em .8em;text-align:{};white-space:nowrap;border:0;background:none"
        left, right = cell.format("left"), cell.format("right")
        head = "".join(
            f'<th style="{right if column.numeric else left};font-weight:600" title="{html.escape(column.meaning)}">'
            f"{html.escape(column.title)}</th>"
            for column in self.columns
        )
        body = ""
        for row, mark in self.marked():
            weight = ";font-weight:600" if self.ships(row) else ""
            faint = ";opacity:.6" if not row.measured else ""
            cells = "".join(
                f'<td style="{right if column.numeric else left}">{html.escape(column.cell(row))}</td>'
                for column in self.columns
            )
            body += (
                f'<tr style="border-top:1px solid rgba(128,128,128,.3);background:none{faint}">'
                f'<td style="{left}{weight}">{html.escape(row.name)}{mark}</td>{cells}</tr>'
            )
        footer = "<br>".join(html.escape(line) for line in self.footer())
        above = "".join(f"<p>{html.escape(line)}</p>" for line in self.above())
        return (
            f'<div style="overflow-x:auto">{above}'
            '<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
            f'<thead><tr style="background:none"><th style="{left}"></th>{head}</tr></thead>'
            f'<tbody>{body}</tbody></table><p style="opacity:.7;font-size:.85em;margin:.6em 0">{footer}</p></div>'
        )

    def footer(self) -> list[str]:
        """Return the lines under the table: what n and the interval are, footnotes, the machine, the command."""
        lines = []
        if any(row.accuracy is not None for row in self.rows):
            where = f"{self.scored_on} (n images)" if self.scored_on else "n test images"
            rule = f" ({self.task.decided})" if self.task.decided else ""
            lines.append(f"accuracy: share of {self.task.counted(where)} that is right{rule}, with its 95 % interval")
        if any(row.map is not None for row in self.rows):
            where = f"{self.scored_on} (n images)" if self.scored_on else "n test images"
            lines.append(
                f"mAP: COCO's mean average precision over overlaps of .50 to .95, on {where}, with its 95 % interval "
                "(groups of images left out in turns); AP50: at an overlap of .50"
            )
        lines += self._explained()
        if any(row.ece is not None and not row.calibrated for row in self.rows):
            lines.append("* uncalibrated: no temperature was fitted on labels")
        lines += list(dict.fromkeys(f"{mark.strip()} {row.note}" for row, mark in self.marked() if mark))
        machine = describe_machine(self.machine)
        if machine:
            lines.append(f"machine: {machine}")
        if self.command:
            lines.append(f"{_COMMAND}{self.command}")
        return lines

    def _explained(self) -> list[str]:
        """Say what AUC, both kinds of error and intervals over groups are, where a row has them."""
        lines = []
        if any(row.auc is not None for row in self.rows):
            over = "classes of one against the rest" if self.task.exclusive else self.task.unit
            lines.append(f"AUC: area under the ROC curve, mean over {over} (0.5: chance)")
        if any(row.kappa is not None for row in self.rows):
            lines.append("kappa: agreement of grades beyond chance, quadratic weights; MAE: mean error in grades")
        points = list(dict.fromkeys((row.positive, row.chosen) for row in self.rows if row.threshold is not None))
        lines += [
            f"sensitivity, specificity: of {positive}, at each row's own threshold, by {chosen}"
            for positive, chosen in points
        ]
        groups = sorted({row.groups for row in self.rows if row.groups})
        if groups:
            of = f" ({self.group})" if self.group else ""
            counts = " or ".join(f"{one:,}" for one in groups)
            lines.append(f"intervals are over {counts} groups{of}: images of one group are not independent")
        return lines

    def ships(self, row: Row) -> bool:
        """Whether this is the row to ship, which is set in bold; without a verdict that is the student."""
        return row.key == self.verdict.ship if self.verdict else row.role in ("student", "model", "int8")

    def marked(self) -> list[tuple[Row, str]]:
        """Rows with the superscript of their footnote, "" where there is none; equal notes share one mark."""
        notes = list(dict.fromkeys(row.note for row in self.rows if row.note))
        marks = {note: _MARKS[i] if i < len(_MARKS) else f" ({i + 1})" for i, note in enumerate(notes)}
        return [(row, marks.get(row.note, "")) for row in self.rows]

    def _blocks(self, room: int) -> list[list[Column]]:
        """Split the columns into blocks of ``room`` characters, worth above cost where that takes no more blocks."""
        sizes = {
            column.title: 2 + max(columns_of(printable(text)) for text in (column.title, *map(column.cell, self.rows)))
            for column in self.columns
        }

        def fill(columns: list[Column]) -> list[list[Column]]:
            blocks: list[list[Column]] = []
            free = 0
            for column in columns:
                if not blocks or sizes[column.title] > free:
                    blocks.append([])
                    free = room
                blocks[-1].append(column)
                free -= sizes[column.title]
            return blocks

        together = fill(self.columns)
        if len(together) == 1:
            return together
        apart = [block for group in ("worth", "cost") for block in fill([c for c in self.columns if c.group == group])]
        return apart if len(apart) <= len(together) else together


def _wrapped(line: str, width: int) -> str:
    """Break a line at spaces; not a command, which would no longer paste."""
    if line.startswith(_COMMAND):
        return line
    return textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False)


def _columns(rows: tuple[Row, ...]) -> list[Column]:
    columns = [
        Column("accuracy", accuracy_text, "share of the images that the model gets right"),
        Column("mAP", map_text, "COCO's mean average precision of boxes, and its 95 % interval"),
        Column("AP50", lambda row: figure_text(row.map_50, None), "average precision at an overlap of .5"),
        Column("interval", interval_text, "95 % interval: where the accuracy on further images of this kind may lie"),
        Column("n", lambda row: MISSING if row.n is None else f"{row.n:,}", "images that were scored"),
        Column(
            "AUC",
            auc_text,
            "area under the ROC curve, one class against the rest, and its 95 % interval: 0.5 is chance",
        ),
        Column(
            "balanced",
            lambda row: percent(row.balanced_accuracy),
            "balanced accuracy: the mean of the classes' accuracies",
        ),
        Column("kappa", _kappa, "quadratic weighted kappa, with its 95 % interval: 0 is chance, 1 every grade right"),
        Column("MAE", lambda row: MISSING if row.mae is None else f"{row.mae:.2f}", "mean error in grades"),
        Column("seeds", lambda row: str(row.seeds) if row.measured else MISSING, "trainings behind the row"),
        Column(
            "agrees",
            lambda row: percent(row.agreement),
            "share of the answers that are those of the teachers; of a teacher's own file, of that teacher",
        ),
        Column("ECE", _ece, "expected calibration error: 0 is perfectly calibrated"),
        Column("worst class", _worst_class, "the class with the lowest figure", numeric=False),
        Column(
            "sensitivity", lambda row: share_text(row.sensitivity, row.sensitivity_interval), "positives that are found"
        ),
        Column(
            "specificity",
            lambda row: share_text(row.specificity, row.specificity_interval),
            "others that are left alone",
        ),
        Column("parameters", lambda row: human_count(row.parameters), "numbers that were learned", "cost"),
        Column("FLOPs", lambda row: human_count(row.flops), "floating-point operations for one image", "cost"),
        Column("file", lambda row: MISSING if row.bytes is None else human_bytes(row.bytes), "file size", "cost"),
        Column("p50 / p90 ms", _latency, "latency of one image: median and 90th percentile", "cost"),
        Column("memory", _memory, "peak memory of a fresh process, above what its libraries take", "cost"),
    ]
    empty = {MISSING, f"{MISSING} / {MISSING}"}
    if not rows:
        return []
    several = any(row.seeds > 1 for row in rows)
    if all(percent(row.balanced_accuracy or row.accuracy) == percent(row.accuracy) for row in rows):
        columns = [column for column in columns if column.title != "balanced"]  # classes of one size: it says the same
    first = "mAP" if any(row.map is not None for row in rows) else "accuracy"
    both = first == "mAP" and any(row.accuracy is not None for row in rows)  # of runs of several tasks
    columns = [column for column in columns if both or column.title == first or column.title not in ("mAP", "accuracy")]
    return [
        column
        for column in columns
        if column.title == first
        or (both and column.title == "accuracy")
        or (column.title == "seeds" and several)
        or (column.title != "seeds" and any(column.cell(row) not in empty for row in rows))
    ]


def _ece(row: Row) -> str:
    return MISSING if row.ece is None else f"{row.ece:.3f}{'' if row.calibrated else '*'}"


def _worst_class(row: Row) -> str:
    found = [(value, name) for name, value in row.by_class if value is not None]
    if len(found) > 1:
        return f"{min(found)[1]}: {min(found)[0]:.3f}"
    return MISSING if row.min_class is None else f"{row.min_class[0]}: {percent(row.min_class[1])}"


def _kappa(row: Row) -> str:
    return figure_text(row.kappa, row.kappa_interval)


def _latency(row: Row) -> str:
    if row.latency_p50 is None:
        return MISSING
    return f"{milliseconds(row.latency_p50)} / {milliseconds(row.latency_p90)}"


def _memory(row: Row) -> str:
    return MISSING if row.memory_mb is None else f"{row.memory_mb:.0f} MB"
