"""Around a run: Ctrl-C between steps, and kernels that give the same bits each time."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch

from ..config import TrainConfig


class Interrupt:
    """Ctrl-C waits for the end of a step, and so does SIGTERM where the program hears it; a second one does not.

    A step that is cut in two (weights moved, but not yet their average or the count of steps) must never be saved.

    Attributes:
        wanted: The signal that came last; None before any.
        cut: Whether a second one came into what was to be finished first, so that what is there is not whole.
    """

    def __init__(self) -> None:
        self.wanted: signal.Signals | None = None
        self.cut = False
        self._postpone = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        # Signals reach the main thread only; elsewhere the caller's own handling stays.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if number == signal.SIGINT or callable(before):  # by default SIGTERM ends a program without a word
                    self._previous[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._previous.items():
            signal.signal(number, before)

    def _handle(self, number: int, frame: Any) -> None:
        again, self.wanted = self.wanted is not None, signal.Signals(number)
        self.cut |= again and self._postpone
        if again or not self._postpone:
            self.stop()

    def stop(self) -> None:
        """Raise what the signal that came stands for: KeyboardInterrupt, or what the program made of SIGTERM."""
        if self.wanted == signal.SIGTERM:
            self._previous[self.wanted](self.wanted, None)
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        self._postpone = True
        try:
            yield
        finally:
            self._postpone = False


@contextlib.contextmanager
def deterministic(device: torch.device, config: TrainConfig) -> Iterator[None]:
    """Ask CUDA for kernels that give the same bits each time; on the CPU torch's are."""
    if device.type != "cuda" or config.compile:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when first used
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    options: Any = torch.utils.deterministic
    fill = options.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    options.fill_uninitialized_memory = False  # costs a pass over every new tensor
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        options.fill_uninitialized_memory = fill
