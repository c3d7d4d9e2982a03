"""How the learning rate goes up and down over a run, by its steps or by the clock."""

from __future__ import annotations

import math
from typing import Any

from ..config import TrainConfig

DECAY = 0.3  # share of a run that "wsd" spends on going down


class Schedule:
    """The share of the peak learning rate at each step, and how many steps there are.

    "cosine" warms up linearly and goes down to zero along a cosine. "wsd" (warm up, stable, decay: Hu et al. 2024,
    arXiv 2404.06395) stays at the peak until the last `DECAY` of the run and goes down to zero along a straight line:
    all that came before the decay serves a longer run as well.

    The plan may change while the run goes on (a budget of time, a run that is extended): what is left is then spread
    over the steps that are left, and nothing jumps.

    Args:
        config: Gives the kind and the share of the warm-up.
        total: Steps of the run, as far as one knows now (see `replan`).
    """

    def __init__(self, config: TrainConfig, total: int) -> None:
        self.kind, self.share = config.schedule, config.warmup
        self.warmup = round(self.share * total)  # steps
        self._start, self._done, self.total = 0, 0.0, total

    def progress(self, step: int) -> float:
        """Return the share of the run that lies before ``step``, 0 to 1."""
        left = max(1, self.total - self._start)
        return min(1.0, self._done + (1 - self._done) * (step - self._start) / left)

    def factor(self, step: int) -> float:
        """Return the learning rate of the step after ``step`` others, over its peak."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = self.progress(step)
        if self.kind == "wsd":
            return min(1.0, (1 - progress) / DECAY)
        return 0.5 * (1 + math.cos(math.pi * max(0.0, progress - self.share) / (1 - self.share)))

    def decays(self, step: int) -> bool:
        """Whether the learning rate goes down from ``step`` on for good: what lies before serves a longer run too."""
        return self.kind == "wsd" and self.progress(step) > 1 - DECAY + 1e-9

    def replan(self, step: int, total: int, done: float | None = None) -> None:
        """Spread what is left at ``step`` over the steps up to ``total``.

        Args:
            step: Steps taken.
            total: Steps of the whole run, as far as one knows now.
            done: Share of the run that is done; None for what it was. Another one is for a run that is extended.
        """
        if done is None and step <= self.warmup:
            self.warmup = max(step, round(self.share * total))
        self._start, self._done, self.total = step, self.progress(step) if done is None else done, max(step, total)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"warmup": self.warmup, "start": self._start, "done": self._done, "total": self.total}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` returned."""
        self.warmup, self._start, self._done, self.total = (state[k] for k in ("warmup", "start", "done", "total"))
