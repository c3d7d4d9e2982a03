"""What a report shows of `compress --fit`: the ways that were tried, what each costs, and how well it answered."""

from __future__ import annotations

from typing import Any

from ..files import human_bytes
from .results import Results, Row
from .style import looks
from .text import human_count, milliseconds, percent


def tried_rows(results: Results) -> tuple[Row, ...]:
    """Return the file before and each way that was tried, to be plotted; () without a search.

    Accuracies are those on the images that chose, after the brief recovery; the way that went on is the student.
    """
    ways = results.tried.get("ways")
    found = [results.tried.get("before"), *(ways if isinstance(ways, list) else ())]
    return tuple(
        Row.read(
            {
                "key": f"tried-{number}", "name": one.get("name"), "accuracy": one.get("score"),
                "role": "student" if one.get("chosen") is True else "other", "parameters": one.get("parameters"),
                "bytes": one.get("bytes"), "latency_ms": {"p50": one.get("ms")}, "note": one.get("note"),
            }
        )
        for number, one in enumerate(found)
        if isinstance(one, dict)
    )  # fmt: skip


def tried_table(results: Results) -> dict[str, Any] | None:
    """Return a line for each way (name, cells, why it was not scored), what chose, and whether they were recovered.

    None without a search.
    """
    rows = tried_rows(results)
    look = looks(rows)
    lines = [
        {
            "name": row.name,
            "look": look[row.key] if row.accuracy is not None else None,  # as the plots draw it
            "chosen": row.role == "student",
            "cells": (
                human_count(row.parameters), human_bytes(row.bytes) if row.bytes else "–",
                milliseconds(row.latency_p50), percent(row.accuracy),
            ),
            "note": row.note,
        }
        for row in rows
    ]  # fmt: skip
    told = {"on": str(results.tried.get("on") or "validation images")}
    return {"lines": lines, **told, "recovered": results.tried.get("recovered") is not False} if lines else None
