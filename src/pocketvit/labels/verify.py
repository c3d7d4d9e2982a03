"""Replaying stored records against the live teacher: does the store still say what the teacher says?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import PocketError
from ..views import stream
from .record import asked_where
from .store import LabelStore

# Largest |stored - live| logit, relative to the record's largest |logit| (at least 1). fp16 storage alone costs 2^-11 =
# 0.0005; the rest is another batch's order of summation (fp32) or the teacher's own arithmetic (tf32, bf16, fp16).
TOLERANCE = {"fp32": 2e-3, "fp16": 2e-2, "bf16": 1e-1}
# On another device or library version the kernels differ (convolutions on CUDA use tf32), and a thousandth of the
# pixels may differ by one grey level, which moves a few records further.
ELSEWHERE_FACTOR = 5.0
ELSEWHERE_SHARE = 0.02  # of the records may lie beyond the tolerance there
_BATCH = 32  # images that a teacher sees at once


@dataclass(frozen=True)
class Verification:
    """How one teacher's stored records compare with what it says now.

    Attributes:
        teacher: Key in the store.
        records: Records recomputed, over all complete views.
        worst: Largest difference, relative to the record's largest logit.
        tolerance: What was allowed.
        warnings: Library versions or a device that differ from the recorded ones.
    """

    teacher: str
    records: int
    worst: float
    tolerance: float
    warnings: tuple[str, ...]

    def text(self) -> str:
        """One line."""
        return (
            f"{self.teacher}: {self.records} records replayed, largest relative difference {self.worst:.2g} "
            f"(allowed {self.tolerance:g})"
        )


def verify(
    store: LabelStore,
    source: Any,
    views: Any,
    teachers: Sequence[Any],
    records: int = 256,
    *,
    beyond: float | None = None,
) -> list[Verification]:
    """Recompute ``records`` random records of each teacher and compare them with the store.

    Args:
        store: What was labelled.
        source, views, teachers: What it should be of.
        records: So many of each teacher.
        beyond: Share of the records that may lie beyond the tolerance; None for none on the device and versions that
            made the store, and 2 % elsewhere.

    Raises:
        PocketError: The store is of other images, views or teachers; a shard is damaged; or more differs than the
            recorded precision explains.
    """
    warnings = store.check(source, views, teachers)
    rng = np.random.default_rng(0)
    results = []
    for teacher in teachers:
        key = store.key(teacher)
        held, record = store.views(key), store.record(key)
        if not held:
            raise PocketError(f"{store.folder} holds no complete view by {key}: run `label` again to finish it.")
        chosen = rng.choice(held, size=records)
        worst = []
        for view in map(int, np.unique(chosen)):
            number = min(int((chosen == view).sum()), len(source))
            positions = np.sort(rng.choice(len(source), size=number, replace=False))
            stored = store.read(key, view, positions)
            for start, seen in enumerate(stream(views, positions, view, _BATCH)):
                rows = np.arange(start * _BATCH, start * _BATCH + len(seen.pixels))
                live = asked_where(teacher, (views, positions[rows], view))
                worst.append(record.difference(stored.index(rows), record.ask(live, seen.pixels)))
        difference = torch.cat(worst)
        precision = str(teacher.fingerprint.get("precision", "fp32"))
        elsewhere = tuple(line for line in warnings if line.startswith(f"labels by {teacher.name} were made"))
        tolerance = TOLERANCE.get(precision, TOLERANCE["bf16"]) * (ELSEWHERE_FACTOR if elsewhere else 1)
        result = Verification(key, len(difference), float(difference.max()), tolerance, elsewhere)
        share = float((~(difference <= tolerance)).float().mean())
        if share > ((ELSEWHERE_SHARE if elsewhere else 0) if beyond is None else beyond):
            raise PocketError(
                f"the labels in {store.folder} are not what the teacher says now: {result.text()}; "
                f"{100 * share:.1f} % of the records lie beyond the tolerance. The views or the teacher compute "
                "something else than when the store was made (an edited image, other code, another version?): delete "
                f"{store.folder / key} or name another folder, and label again."
            )
        results.append(result)
    return results
