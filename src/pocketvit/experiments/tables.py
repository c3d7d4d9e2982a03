"""One table, one plot and one report of an experiment's arms, with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import counted, write_text
from ..metrics import Difference, paired_difference
from ..reporting.comparison import difference_plot
from ..reporting.page import write_report
from ..reporting.style import standalone_svg
from ..road.answering import probabilities_of
from ..road.images import Road
from ..road.report import write_results
from ..rundir import machine
from ..sources.tiles import whole
from ..teachers import Teacher
from .arms import Arm


def table(arms: Sequence[Arm], found: Mapping[str, Sequence[dict[str, Any]]], against: str) -> str:
    """Return a Markdown table: mean and deviation over seeds, the paired difference to ``against``, cost."""
    columns: list[tuple[str, Callable[[Arm], str | None]]] = [
        ("arm", lambda arm: arm.name),
        ("accuracy, %", lambda arm: _spread([record["accuracy"] for record in found[arm.key]])),
        (
            f"minus *{against}*, points (95 % interval, paired over seeds)",
            lambda arm: "-" if arm.key == against else _short(_difference(found[arm.key], found[against])),
        ),
        ("AUC", lambda arm: _mean(found[arm.key], "auc", "{:.4f}")),
        ("agrees with the teacher, %", lambda arm: _mean(found[arm.key], "agreement", "{:.1f}", 100)),
        ("ECE", lambda arm: _mean(found[arm.key], "ece", "{:.3f}")),
        ("parameters, k", lambda arm: _mean(found[arm.key], "parameters", "{:.0f}", 1e-3)),
        ("MFLOPs", lambda arm: _mean(found[arm.key], "flops", "{:.1f}", 1e-6)),
        ("ms per step", lambda arm: _mean(found[arm.key], "step_ms", "{:.3g}")),
        ("seconds", lambda arm: _mean(found[arm.key], "seconds", "{:.0f}")),
    ]
    cells = [[title, *(cell(arm) for arm in arms)] for title, cell in columns]
    alike = {title for title, *texts in cells if title in ("parameters, k", "MFLOPs") and len(set(texts)) == 1}
    filled = [column for column in cells if any(column[1:]) and column[0] not in alike]
    head, *rows = zip(*filled, strict=True)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join("-" if text is None else text for text in line) + " |" for line in lines)


def _spread(scores: Sequence[float]) -> str:
    deviation = f" ± {100 * np.std(scores, ddof=1):.2f}" if len(scores) > 1 else ""
    return f"{100 * np.mean(scores):.2f}{deviation}"


def _mean(records: Sequence[dict[str, Any]], key: str, text: str, scale: float = 1) -> str | None:
    """The mean over the seeds as text; None where a record lacks the figure."""
    value = _average(records, key)
    return None if value is None else text.format(scale * value)


def report_arms(
    road: Road,
    arms: Sequence[Arm],
    found: Mapping[str, Sequence[dict[str, Any]]],
    folder: Path,
    *,
    against: str,
    title: str,
    teachers: Sequence[Teacher] = (),
    notes: Sequence[str] = (),
    images: bool = True,
) -> str:
    """Write ``table.md``, ``differences.svg``, ``results.json`` and the report; return the table with its teachers.

    Args:
        road: What was scored.
        arms: In the order of the table.
        found: What `run_arms` returned.
        folder: Of the experiment.
        against: Key of the arm that the others are compared with.
        title: Of the report.
        teachers: Judged beside the arms.
        notes: Sentences under the table.
        images: Whether the report shows pictures of the data.
    """
    source = road.scored
    assert source is not None
    tested = whole(source)
    judged = {}
    for teacher in teachers:
        given = tested.per_image(probabilities_of(teacher, road, source))
        judged[teacher.name] = road.task.judge(given, tested.targets, tested.classes, groups=tested.groups).scores
    lines = [table(arms, found, against), ""]
    rows: list[dict[str, Any]] = []
    for name, scores in judged.items():
        assert scores.accuracy is not None
        span = "no interval: one group of images"  # or groups with equal shares, of which drawing them says nothing
        if scores.interval is not None:
            span = f"{100 * scores.interval[0]:.2f} to {100 * scores.interval[1]:.2f}"
        lines.append(f"Teacher {name}: {100 * scores.accuracy:.2f} % ({span}, n = {scores.n:,}).")
        rows.append(
            {"key": name, "name": f"teacher: {name}", "role": "teacher", "accuracy": scores.accuracy,
             "interval": list(scores.interval) if scores.interval else None, "n": scores.n, "ece": scores.ece,
             "calibrated": False}
        )  # fmt: skip
    seeds = len(found[against])
    here = machine()
    lines.append(
        f"Scored on {found[against][0]['n']:,} {source.split} images after the last epoch, {counted(seeds, 'seed')}, "
        f"{len(road.dataset.train):,} training images; {here['cpu']}, {counted(torch.get_num_threads(), 'thread')}, "
        f"torch {here['torch']}, {here['date']}."
    )
    if seeds == 1:
        lines.append("One seed: there is no interval, and no difference can be claimed.")
    lines += notes
    for arm in arms:
        scores_of = [record["accuracy"] for record in found[arm.key]]
        # No interval: that of other rows is over images, and what seeds differ by stands in the table above.
        rows.append(
            {"key": arm.key, "name": arm.name, "role": "student" if arm.teachers else "baseline",
             "accuracy": float(np.mean(scores_of)), "interval": None, "n": found[arm.key][0]["n"],
             "auc": _average(found[arm.key], "auc"), "ece": _average(found[arm.key], "ece"),
             "calibrated": all(record.get("calibrated", True) for record in found[arm.key]),
             "seeds": len(scores_of), "agreement": _average(found[arm.key], "agreement")}
        )  # fmt: skip
    compared = comparison(arms, found, against)
    differences = [
        f"{arm.name} minus {against}: {_difference(found[arm.key], found[against]).words()}"
        for arm in arms
        if arm.key != against
    ]
    curves = {arm.key: folder / arm.key / "seed-0" / "metrics.jsonl" for arm in arms}
    write_results(
        folder, road, rows, {}, title=title, curves=curves, differences=differences, notes=lines[2:],
        extra={"comparison": compared},
    )  # fmt: skip
    drawing = difference_plot(compared)
    if drawing is not None:
        names = ", ".join(arm.name for arm in arms)
        write_text(folder / "differences.svg", standalone_svg(drawing, "differences", f"Differences between {names}"))
    text = "\n".join(lines)
    write_text(folder / "table.md", text + "\n")
    write_report(folder, images=images)
    return text


def comparison(
    arms: Sequence[Arm], found: Mapping[str, Sequence[dict[str, Any]]], against: str
) -> list[dict[str, Any]]:
    """Return what ``results.json`` keeps of each arm for the plot: figures as shares, None where there are none."""
    result = []
    for arm in arms:
        records = found[arm.key]
        entry: dict[str, Any] = {"key": arm.key, "name": arm.name, "accuracies": [one["accuracy"] for one in records]}
        entry |= {key: _average(records, key) for key in ("accuracy", "agreement", "ece", "step_ms")}
        entry |= {"difference": None, "differences": [], "interval": None, "seen": False, "words": "baseline"}
        if arm.key != against:
            seen = _difference(records, found[against])
            pairs = zip(entry["accuracies"], (one["accuracy"] for one in found[against]), strict=False)
            entry |= {"difference": seen.mean, "differences": [a - b for a, b in pairs], "seen": seen.seen}
            entry |= {"interval": list(seen.interval) if seen.interval else None, "words": seen.words()}
        result.append(entry)
    return result


def _average(records: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [record.get(key) for record in records]
    return None if None in values else float(np.mean(values))  # type: ignore[arg-type]


def _difference(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> Difference:
    """Accuracies of the seeds that both have, paired."""
    pairs = list(zip(one, other, strict=False))
    return paired_difference([a["accuracy"] for a, _ in pairs], [b["accuracy"] for _, b in pairs])


def _short(difference: Difference) -> str:
    if difference.interval is None:
        return f"{100 * difference.mean:+.2f} ({'one seed' if difference.seeds == 1 else 'the same in all seeds'})"
    low, high = difference.interval
    seen = "" if difference.seen else "; no difference seen" if low <= 0 <= high else "; two seeds cannot claim one"
    return f"{100 * difference.mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}{seen})"
