"""Replaying stored records against the live teacher: does the store still say what the teacher says?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import PocketError
from .record import SoftLabels, encode_topk
from .store import LabelStore

# Largest |stored - live| logit, relative to the record's largest |logit| (at least 1). fp16 storage alone costs 2^-11 =
# 0.0005; the rest is another batch's order of summation (fp32) or the teacher's own arithmetic (tf32, bf16, fp16).
TOLERANCE = {"fp32": 2e-3, "fp16": 2e-2, "bf16": 1e-1}
# On another device or library version the kernels differ (convolutions on CUDA use tf32), and a thousandth of the
# pixels may differ by one grey level, which moves a few records further.
ELSEWHERE_FACTOR = 5.0
ELSEWHERE_SHARE = 0.02  # of the records may lie beyond the tolerance there


@dataclass(frozen=True)
class Verification:
    """How one teacher's stored records compare with what it says now.

    Attributes:
        teacher: Key in the store.
        records: Records recomputed, over all complete views.
        worst: Largest difference, relative to the record's largest logit.
        tolerance: What was allowed.
        agreement: Share of records whose best class is the same.
        warnings: Library versions or a device that differ from the recorded ones.
    """

    teacher: str
    records: int
    worst: float
    tolerance: float
    agreement: float
    warnings: tuple[str, ...]

    def text(self) -> str:
        """One line."""
        return (
            f"{self.teacher}: {self.records} records replayed, largest relative difference {self.worst:.2g} "
            f"(allowed {self.tolerance:g}), same class in {100 * self.agreement:.1f} %"
        )


def verify(
    store: LabelStore,
    source: Any,
    views: Any,
    teachers: Sequence[Any],
    records: int = 256,
    *,
    seed: int = 0,
    batch_size: int = 32,
) -> list[Verification]:
    """Recompute ``records`` random records of each teacher and compare them with the store.

    Raises:
        PocketError: The store is of other images, views or teachers; a shard is damaged; or more differs than the
            recorded precision explains.
    """
    warnings = store.check(source, views, teachers)
    rng = np.random.default_rng(seed)
    results = []
    for teacher in teachers:
        key = store.key(teacher)
        held = store.views(key)
        if not held:
            raise PocketError(f"{store.folder} holds no complete view by {key}: run `label` again to finish it.")
        chosen = rng.choice(held, size=records)
        worst, same = [], []
        for view in np.unique(chosen):
            number = min(int((chosen == view).sum()), len(source))
            positions = np.sort(rng.choice(len(source), size=number, replace=False))
            labels = store.read(key, int(view))
            for start in range(0, number, batch_size):
                rows = positions[start : start + batch_size]
                rendered = views.render(rows, int(view))
                logits = teacher.logits(rendered.pixels).float().cpu()
                stored = labels.index(rows)
                worst.append(_relative_difference(stored, logits))
                same.append(stored.top1 == logits.argmax(1))
        difference = torch.cat(worst)
        precision = str(teacher.fingerprint.get("precision", "fp32"))
        elsewhere = tuple(line for line in warnings if teacher.name in line)
        tolerance = TOLERANCE.get(precision, TOLERANCE["bf16"]) * (ELSEWHERE_FACTOR if elsewhere else 1)
        agreement = float(torch.cat(same).float().mean())
        result = Verification(key, len(difference), float(difference.max()), tolerance, agreement, elsewhere)
        beyond = float((~(difference <= tolerance)).float().mean())
        if beyond > (ELSEWHERE_SHARE if elsewhere else 0):
            raise PocketError(
                f"the labels in {store.folder} are not what the teacher says now: {result.text()}; "
                f"{100 * beyond:.1f} % of the records lie beyond the tolerance. The views or the teacher compute "
                "something else than when the store was made (an edited image, another version?): label again into "
                "another folder."
            )
        results.append(result)
    return results


def _relative_difference(stored: SoftLabels, logits: torch.Tensor) -> torch.Tensor:
    """Largest |stored - live| of each record over its scale, [B]; where only the top k is stored, over those."""
    scale = logits.abs().amax(1).clamp_min(1)
    if stored.full:
        return (stored.get("logits") - logits).abs().amax(1) / scale
    ids = stored.get("ids")
    live = encode_topk(logits, stored.k, ids)  # the same classes are kept, so that the rests can be compared
    kept = (stored.get("values") + stored.get("maximum")[:, None] - logits.gather(1, ids)).abs().amax(1)
    rest = (stored.get("lse_rest") - live.get("lse_rest")).abs()
    return torch.maximum(kept, rest) / scale
