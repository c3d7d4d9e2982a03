"""Arms of an experiment over paired seeds: trained one after the other, resumable, compared with intervals."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import RunConfig
from ..files import human_time, read_json, write_json, write_text
from ..labels import LabelStore
from ..reporting.page import write_report
from ..rundir import machine
from ..tasks.classification import Difference, evaluate, paired_difference
from ..teachers import Teacher
from .measure import answers, write_results
from .stages import Road, calibrate, probabilities_of, train_student

log = logging.getLogger("pocketvit")


@dataclass(frozen=True)
class Arm:
    """One way of training the same student.

    Attributes:
        key: Short name of its folder.
        name: As the table shows it.
        config: Its choices; the seed is replaced.
        teachers: Whose labels it learns.
        store: Where these are; None with live teachers or none.
        live: Run the teachers on every batch.
    """

    key: str
    name: str
    config: RunConfig
    teachers: tuple[Teacher, ...] = ()
    store: LabelStore | None = None
    live: bool = False


def run_arms(road: Road, arms: Sequence[Arm], seeds: Sequence[int], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Train every arm with every seed, or read what is there; return {arm: [accuracy, seconds, ... a seed]}.

    Seeds are the outer loop, so that an interrupted experiment has whole sets of arms.
    """
    found: dict[str, list[dict[str, Any]]] = {arm.key: [] for arm in arms}
    for seed in seeds:
        for arm in arms:
            place = folder / arm.key / f"seed-{seed}"
            result = place / "result.json"
            if not result.is_file():
                write_json(result, _train(road, arm, seed, place))
            record = read_json(result)
            found[arm.key].append(record)
            log.info(
                "%s, seed %d: %.2f %% (%s)", arm.name, seed, 100 * record["accuracy"], human_time(record["seconds"])
            )
    return found


def _train(road: Road, arm: Arm, seed: int, place: Path) -> dict[str, Any]:
    train = dataclasses.replace(arm.config.train, seed=seed)
    config = dataclasses.replace(arm.config, train=train)
    start = time.monotonic()
    model = train_student(road, config, place, teachers=arm.teachers, store=arm.store, live=arm.live, resume=True)
    seconds = time.monotonic() - start
    calibrate(model, road)
    source = road.scored
    assert source is not None
    given = answers(model, source, road.view, road.input)
    scores = evaluate(given, source.targets)
    return {
        "accuracy": scores.accuracy,
        "n": scores.n,
        "ece": scores.ece,
        "min_class": scores.min_class[1] if scores.min_class else None,
        "seconds": seconds,
        "steps": train.epochs * -(-len(road.dataset.train) // train.batch_size),
    }


def table(arms: Sequence[Arm], found: Mapping[str, Sequence[dict[str, Any]]], against: str) -> str:
    """Return a Markdown table: mean and deviation over seeds, the paired difference to ``against``, cost."""
    lines = [
        f"| arm | accuracy, % | minus *{against}*, points (95 % interval, paired over seeds) | ECE | seconds |",
        "|---|---|---|---|---|",
    ]
    for arm in arms:
        records = found[arm.key]
        scores = np.array([record["accuracy"] for record in records])
        deviation = scores.std(ddof=1) if len(scores) > 1 else 0.0
        words = "-" if arm.key == against else _short(_difference(records, found[against]))
        ece = np.mean([record["ece"] for record in records])
        seconds = np.mean([record["seconds"] for record in records])
        lines.append(
            f"| {arm.name} | {100 * scores.mean():.2f} ± {100 * deviation:.2f} | {words} | {ece:.3f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def report_arms(
    road: Road,
    arms: Sequence[Arm],
    found: Mapping[str, Sequence[dict[str, Any]]],
    folder: Path,
    *,
    against: str,
    title: str,
    teachers: Sequence[Teacher] = (),
) -> str:
    """Write ``table.md``, ``results.json`` and the report of an experiment; return the table with its teachers."""
    source = road.scored
    assert source is not None
    judged = {
        teacher.name: evaluate(probabilities_of(teacher, source, road.view), source.targets) for teacher in teachers
    }
    lines = [table(arms, found, against), ""]
    rows: list[dict[str, Any]] = []
    for name, scores in judged.items():
        assert scores.accuracy is not None
        assert scores.interval is not None
        low, high = scores.interval
        lines.append(
            f"Teacher {name}: {100 * scores.accuracy:.2f} % ({100 * low:.2f} to {100 * high:.2f}, n = {scores.n:,})."
        )
        rows.append(
            {"key": name, "name": f"teacher: {name}", "role": "teacher", "accuracy": scores.accuracy,
             "interval": [low, high], "n": scores.n, "ece": scores.ece, "calibrated": False}
        )  # fmt: skip
    seeds = len(found[against])
    here = machine()
    lines.append(
        f"Scored on {len(source):,} {source.split} images after the last epoch, {seeds} seeds, "
        f"{len(road.dataset.train):,} training images; {here['cpu']}, {torch.get_num_threads()} threads, "
        f"torch {here['torch']}, {here['date']}."
    )
    for arm in arms:
        scores_of = [record["accuracy"] for record in found[arm.key]]
        spread = paired_difference(scores_of, [0.0] * len(scores_of)).interval
        rows.append(
            {"key": arm.key, "name": arm.name, "role": "baseline" if arm.key == against else "student",
             "accuracy": float(np.mean(scores_of)), "interval": list(spread) if spread else None, "n": len(source),
             "ece": float(np.mean([record["ece"] for record in found[arm.key]])), "seeds": len(scores_of)}
        )  # fmt: skip
    differences = [
        f"{arm.name} minus {against}: {_difference(found[arm.key], found[against]).words()}"
        for arm in arms
        if arm.key != against
    ]
    curves = {arm.key: folder / arm.key / "seed-0" / "metrics.jsonl" for arm in arms}
    write_results(folder, road, rows, {}, title=title, curves=curves, differences=differences, notes=lines[2:])
    text = "\n".join(lines)
    write_text(folder / "table.md", text + "\n")
    write_report(folder)
    return text


def _difference(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> Difference:
    """Accuracies of the seeds that both have, paired."""
    pairs = list(zip(one, other, strict=False))
    return paired_difference([a["accuracy"] for a, _ in pairs], [b["accuracy"] for _, b in pairs])


def _short(difference: Difference) -> str:
    if difference.interval is None:
        return f"{100 * difference.mean:+.2f} (one seed)"
    low, high = difference.interval
    seen = "" if difference.seen else "; no difference seen"
    return f"{100 * difference.mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}{seen})"
