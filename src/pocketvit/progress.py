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
    """Shows how far work on images is; a context manager.

    Args:
        total: Images.
        what: Is done with them: "labelling".
        shown: False for processes that keep quiet.
    """

    def __init__(self, total: int, what: str, *, shown: bool = True) -> None:
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=what, unit=" images", disable=not (shown and terminal and total))
        self._lines = shown and not terminal
        self._total, self._what, self._done = total, what, 0
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
                "         %s: %s of %s images, about %s left",
                self._what, f"{self._done:,}", f"{self._total:,}", human_time(left),
            )  # fmt: skip
