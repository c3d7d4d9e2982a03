"""A run that ends on the clock: how many steps are left follows from how long they take."""

from __future__ import annotations

import time

FIRST_STEPS = 8  # until the first plan; the first two also warm caches up, and are not counted
_WARM_STEPS = 2
_LOOKS = 12  # what is left is looked at again after this part of it


class Clock:
    """Counts the seconds of a run, over interruptions: of all, of an epoch's training, of a step, of an evaluation.

    Attributes:
        total: Seconds of the run.
        epoch: Seconds that the epoch under way has trained.
        evaluation: Seconds of the last evaluation.
    """

    def __init__(self) -> None:
        self.total, self.epoch, self.evaluation = 0.0, 0.0, 0.0
        self._mark = now()
        self._steps, self._seconds, self._step = 0, 0.0, 0.0

    def trained(self) -> None:
        """Count the time since the last call of any of these as training."""
        passed = self._passed()
        self.epoch += passed
        self._seconds += passed

    def stepped(self) -> None:
        """A step was taken."""
        self._steps += 1
        if self._steps == _WARM_STEPS:
            self.trained()
            self._seconds = 0.0

    def evaluated(self) -> None:
        """Count the time since the last call as an evaluation."""
        self.evaluation = self._passed()

    def other(self) -> None:
        """Count the time since the last call as something else."""
        self._passed()

    def _passed(self) -> float:
        then, self._mark = self._mark, now()
        passed = self._mark - then
        self.total += passed
        return passed

    def step(self) -> float:
        """Return the seconds of a step; what was measured last counts half, because machines get busy."""
        self.trained()
        steps = self._steps - _WARM_STEPS
        if steps > 0:
            latest = self._seconds / steps
            self._step = latest if self._step == 0 else (self._step + latest) / 2
            self._steps, self._seconds = _WARM_STEPS, 0.0
        return self._step


def now() -> float:
    """Seconds of a clock that never goes back."""
    return time.monotonic()


def steps_left(seconds: float, step: float, evaluation: float, per_epoch: int) -> int:
    """Return how many steps fit.

    Args:
        seconds: That are left, the last evaluation included.
        step: Seconds of a step.
        evaluation: Seconds of an evaluation, after each epoch and at the end.
        per_epoch: Steps of an epoch.
    """
    return max(0, round((seconds - evaluation) / (step + evaluation / per_epoch)))


def next_look(left: int) -> int:
    """Return the number of steps after which a plan of ``left`` steps is made again."""
    return max(4, left // _LOOKS)
