"""What is shown of long work: a bar in a terminal, and elsewhere (a log file, a cluster's) a line a minute."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

from .files import human_time

log = logging.getLogger("pocketvit")

LINE_SECONDS = 60.0  # between two lines


class Bar:
    """Shows how far some work is; a context manager.

    Args:
        total: Of the things to be done.
        what: Is done with them, as in "labelling".
        unit: What they are, in the plural.
        shown: False for processes that keep quiet.
    """

    def __init__(self, total: int, what: str, unit: str = "images", *, shown: bool = True) -> None:
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=what, unit=f" {unit}", disable=not (shown and terminal and total))
        self._lines = shown and not terminal
        self._total, self._what, self._unit, self._done = total, what, unit, 0
        self._start = self._told = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._lines and now - self._told >= LINE_SECONDS:
            self._told = now
            left = (now - self._start) * (self._total / self._done - 1)
            log.info(
                "         %s: %s of %s %s, about %s left",
                self._what, f"{self._done:,}", f"{self._total:,}", self._unit, human_time(left),
            )  # fmt: skip
