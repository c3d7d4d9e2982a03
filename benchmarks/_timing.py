"""Timing side by side: candidates take turns in one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


def alternate(candidates: Mapping[str, Callable[[], Any]], seconds: float, least: int = 3) -> dict[str, float]:
    """Return each candidate's median duration of a call, in seconds.

    Every candidate is called once to warm up; then all are called in turn, in alternating direction, until
    ``seconds`` have passed and each has run ``least`` times.
    """
    for call in candidates.values():
        call()
    durations: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < least or time.perf_counter() < end:
        for name in names if rounds % 2 == 0 else reversed(names):
            start = time.perf_counter()
            candidates[name]()
            durations[name].append(time.perf_counter() - start)
        rounds += 1
    return {name: statistics.median(values) for name, values in durations.items()}


def machine() -> dict[str, Any]:
    """Name the machine as a benchmark's reader needs it: processor, cores, threads, versions."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next(
                (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), processor
            )
    except OSError:
        pass
    return {
        "cpu": processor,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()}",
    }


def load() -> float | None:
    """Return the load average of the last minute, or None where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print columns: text to the left, numbers (three significant digits) to the right."""

    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    cells = [list(header), *([text(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    for index, row in enumerate(cells):
        pairs = zip(row, widths, numeric, strict=True)
        print("  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in pairs).rstrip())
        if index == 0:
            print("  ".join("-" * width for width in widths))


def run(measure: Callable[[argparse.Namespace], dict[str, Any]], description: str | None, **flags: float | str) -> None:
    """Be a benchmark's command line.

    ``measure`` prints its table and returns the keys of the JSON line. Around it stand the machine, and the load
    before and after (a busy machine makes even alternated timings doubtful).

    Args:
        measure: takes the parsed flags.
        description: shown by ``--help``.
        **flags: names and default values of further flags, numbers or text.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    for name, default in flags.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = parser.parse_args()
    named = machine()
    print(", ".join(f"{key} {value}" for key, value in named.items()))
    before = load()
    result = measure(arguments)
    after = load()
    if before is not None and after is not None:
        busy = before > 0.5 * named["cores"]
        print(f"load average {before:.2f} before, {after:.2f} after{': the machine was busy' if busy else ''}")
    if arguments.json:
        print(json.dumps({**result, "machine": named, "load_before": before, "load_after": after}))
