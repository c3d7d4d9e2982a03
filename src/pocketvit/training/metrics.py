"""``metrics.jsonl``: one line of JSON an epoch, cut back when a run is resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..files import storage_error, write_text


def append_metrics(path: Path, line: dict[str, Any]) -> None:
    """Append one line and make it durable."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise storage_error(error, path) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines; a last one that a kill left unfinished, and what is no line of ours, end them."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            break
        if not isinstance(line, dict) or not isinstance(line.get("epoch"), int):
            break
        lines.append(line)
    return lines


def cut_metrics(path: Path, epochs: int) -> None:
    """Keep the lines of the first ``epochs`` epochs: later ones will be written again."""
    lines = [line for line in read_metrics(path) if line["epoch"] <= epochs]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def stuck_terms(lines: list[dict[str, Any]]) -> list[str]:
    """Return a warning for each part of the loss that stayed zero or never moved, given at least three epochs."""
    if len(lines) < 3:
        return []
    warnings = []
    for name in lines[-1]["terms"]:
        values = [line["terms"][name] for line in lines if name in line["terms"]]
        if not any(values):
            warnings.append(f"the loss term {name} has been zero since the first epoch: it teaches nothing.")
        elif max(values) - min(values) <= 1e-4 * max(map(abs, values)):
            warnings.append(
                f"the loss term {name} has not moved from {values[-1]:.3g} in {len(values)} epochs: nothing is learned "
                "from it. Give it more weight or other layers, or leave it out."
            )
    return warnings
