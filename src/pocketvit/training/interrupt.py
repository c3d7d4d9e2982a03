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
    """Ctrl-C waits for the end of a step; a second one does not."""

    def __init__(self) -> None:
        self.wanted = False
        self._postpone = False

    def __enter__(self) -> Interrupt:
        # Signals reach the main thread only; elsewhere the caller's own handling stays.
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, *_: object) -> None:
        if self.wanted or not self._postpone:
            raise KeyboardInterrupt
        self.wanted = True

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
