"""Official splits of small medical images: what `distill` ships, beside the published figures of a ResNet-18.

Shows   what the command gives as it is, with a published network of other pictures as teacher: the teacher, fine-tuned
        on these images; the student of 0.9 M parameters; its int8 file; and the same student without a teacher.
Paper   MedMNIST v2 (arXiv 2110.14795), table 3: a ResNet-18 (11.2 M parameters) at 28 px.
Data    a folder with the 28-px MedMNIST files that are wanted (breastmnist_28.npz, ...) and the weights of a CIFAR
        ResNet (cifar10_resnet56-4bfd9763.th of akamaster's repository).
Cost    three seeds on one processor core: breast 20 minutes, retina 20, pneumonia 40; --small: about 10 minutes.
Command pocketvit run recipes/medical_splits.py --images data/
Result  recipes/medical_splits.md
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.rundir import Run
from pocketvit.sources import open_images

SETS = ("breastmnist_28.npz", "retinamnist_28.npz", "pneumoniamnist_28.npz")
TEACHER = "cifar10_resnet56-4bfd9763.th"
SHOWN = 50_000  # images that every student sees: a fifth to a third of what `distill` takes by itself
ROLES = ("teacher", "student", "int8", "baseline")
COLUMNS = {"accuracy": 100.0, "auc": 1.0, "parameters": 1e-6, "bytes": 1e-3}


def rows_of(file: Path, teacher: Path, seed: int, folder: Path, small: bool) -> Iterator[dict[str, Any]]:
    """Distill with one seed, or go on where that stopped, and yield the rows of the run's table."""
    name = f"{file.stem}-seed{seed}"
    begun = (folder / "runs" / f"{name}-1" / "config.yaml").is_file()
    shown = SHOWN // 50 if small else SHOWN
    run = pocketvit.distill(
        file,
        teacher=teacher,
        epochs=max(2, round(shown / len(open_images(file).train))),
        seed=seed,
        folds=0,
        name=name,
        out=folder / "runs",
        resume=begun,
    )
    assert isinstance(run, Run)  # which it is without --plan
    for row in run.results["rows"]:
        if row["role"] in ROLES and row.get("accuracy") is not None:
            yield row


def recipe(images: str | None, folder: Path, small: bool, sets: tuple[str, ...] = SETS, seeds: int = 3) -> str:
    """Run every set with every seed, and set the means side by side."""
    place = Path(images or "data")
    teacher = place / TEACHER
    files = [place / name for name in sets if (place / name).is_file()]
    if not files or not teacher.is_file():
        raise PocketError(f"{place} should hold {TEACHER} and one of {', '.join(sets)} or more.")
    lines = []
    for file in files:
        found: dict[str, list[dict[str, Any]]] = {}
        for seed in range(1 if small else seeds):
            for row in rows_of(file, teacher, seed, folder, small):
                found.setdefault(row["name"], []).append(row)
        lines += [f"**{file.stem}**", "", "| | accuracy, % | AUC | parameters, M | kB |", "|---|---|---|---|---|"]
        lines += [f"| {name} | {' | '.join(cells(rows))} |" for name, rows in found.items()]
        lines += [""]
    return "\n".join(lines)


def cells(rows: list[dict[str, Any]]) -> list[str]:
    """Return mean and deviation over the seeds of what is measured anew, and of the cost its value."""
    texts = []
    for key, scale in COLUMNS.items():
        values = np.array([row[key] for row in rows if row.get(key) is not None], float) * scale
        digits = {"accuracy": 1, "auc": 3, "parameters": 2, "bytes": 0}[key]
        spread = f" ± {values.std(ddof=1):.{digits}f}" if key in ("accuracy", "auc") and len(values) > 1 else ""
        texts.append(f"{values.mean():.{digits}f}{spread}" if len(values) else "-")
    return texts
