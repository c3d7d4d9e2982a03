"""What a person sees while a run goes on: a bar in a terminal; elsewhere a line an epoch and a line a minute."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from tqdm import tqdm

from ..files import human_time
from ..progress import LINE_SECONDS

log = logging.getLogger("pocketvit")

_SHORT = 5.0  # seconds; epochs shorter than that do not get a line each


class Progress:
    """Shows how far a run is.

    Args:
        total: Steps of the run.
        shown: False for processes that keep quiet.
    """

    def __init__(self, total: int, shown: bool) -> None:
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total, unit="step", disable=not (shown and terminal))
        self._lines = shown and not terminal
        self._told = time.monotonic()
        self._values: dict[str, str] = {}

    def goto(self, step: int, total: int) -> None:
        """Be at ``step`` of ``total``; both may change by more than one."""
        self.bar.total = total
        self.bar.update(step - self.bar.n)

    def within(self, epoch: int, step: int, total: int, left: float, loss: float, right: float | None) -> None:
        """Refresh the live figures, or print them if a minute has passed.

        Args:
            epoch: The one under way, from 1.
            step, total: Of the run.
            left: Seconds that the rest will take.
            loss: Mean of the epoch so far.
            right: Share of right answers of the epoch so far.
        """
        self._values["loss"] = f"{loss:.3f}"
        if right is not None:
            self._values["train"] = f"{right:.1%}"
        self.bar.set_postfix(self._values, refresh=False)
        if self._lines and time.monotonic() - self._told >= LINE_SECONDS:
            self._say(f"epoch {epoch}, step {step:,} of {total:,}: {self._text()}, about {human_time(left)} left")

    def epoch(
        self, epoch: int, line: dict[str, Any], score: float | None, last: bool, name: str = "val_accuracy"
    ) -> None:
        """Tell what an epoch came to.

        Args:
            epoch: Its number, from 1.
            line: Of its metrics.
            score: On the validation split.
            last: Whether it is the run's last.
            name: Of the score, as in ``val_accuracy``; another one than the accuracy is said.
        """
        self._values["loss"] = f"{line['loss']:.3f}"
        if "train_accuracy" in line:
            self._values["train"] = f"{line['train_accuracy']:.1%}"
        if score is not None:
            other = {"val_accuracy": "", "val_map": "mAP"}.get(name, name.removeprefix("val_").upper())
            self._values[f"val {other}".rstrip()] = f"{score:.3f}" if other else f"{score:.1%}"
        if self._lines and (last or time.monotonic() - self._told >= _SHORT):
            self._say(f"epoch {epoch}: {self._text()}, {human_time(line['seconds'])}")

    def _text(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._values.items())

    def _say(self, text: str) -> None:
        log.info("         %s", text)
        self._told = time.monotonic()

    def close(self) -> None:
        self.bar.close()
