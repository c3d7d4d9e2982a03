"""`pocketvit bench MODEL...`."""

from __future__ import annotations

from ..rundir import Outcome
from ..settings import Bench, verb


@verb(Bench)
def bench(settings: Bench) -> Outcome:
    """Measure models or exported files side by side: accuracy, agreement, calibration, size, FLOPs, latency, memory.

    Latencies are taken in turns in one process, batch 1, one thread. Without images only the costs are measured. --on
    copies device.zip to a device by ssh, runs its bench.py there and adds a row; nothing is left there.
    """
    from ..reporting.results import Results, Row
    from ..reporting.table import Table
    from ..road.bench import bench_models
    from ..road.report import command_line
    from ..rundir import machine

    rows, dataset = bench_models(settings)
    about = {"name": str(settings.images), "scored_on": settings.split, "task": dataset.task} if dataset else {}
    results = Results(
        folder=None,
        rows=tuple(Row.read(row) for row in rows),
        command=command_line(),
        machine=machine() | {"threads": 1},
        dataset=about,
    )
    return Outcome(str(Table.of(results)), {"rows": rows, "machine": machine()})
