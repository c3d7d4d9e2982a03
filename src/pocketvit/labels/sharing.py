"""Several processes at one store: who describes it, who cleans up, and when waiting for the others is in vain."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import PocketError
from ..files import human_time, storage_error, write_json
from .manifest import MANIFEST

PATIENCE = 1200.0  # seconds: a shard is at most about five minutes' work, and processes are about equally fast
_WAIT_SECONDS = 0.3


@contextlib.contextmanager
def at_work(place: Path, manifest: dict[str, Any] | None) -> Iterator[None]:
    """Write into a teacher's folder, beside other runs that may be doing so too.

    Everyone at work holds a shared lock on the folder, which goes with the process, however it ends. Whoever finds
    nobody else there removes what killed runs left half-written: a temporary file of a run that lives is not touched.

    Args:
        place: The folder, made when absent.
        manifest: Written unless there is one; None where another process does that.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, place) from error
    with _Lock(place) as lock:
        while True:
            if lock.alone():
                for leftover in place.rglob(".*.part"):
                    leftover.unlink(missing_ok=True)
            else:
                lock.share()  # waits while another describes the store
            if manifest is None or (place / MANIFEST).exists():
                break
            if not lock.held or lock.exclusive:
                write_json(place / MANIFEST, manifest)
                break
            lock.release()  # who was to describe it has died: try again
            time.sleep(_WAIT_SECONDS)
        lock.share()
        yield


class _Lock:
    """A lock on a folder, shared or exclusive; none where the system knows no such thing (Windows, some networks)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held = self.exclusive = False
        self._descriptor: int | None = None

    def __enter__(self) -> _Lock:
        if os.name == "posix":
            self._descriptor = os.open(self.folder, os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def alone(self) -> bool:
        """Take it for this process only, if nobody else has it."""
        self.held = self.exclusive = self._flock("LOCK_EX", "LOCK_NB")
        return self.exclusive

    def share(self) -> None:
        """Take it, or what one has of it, beside others who share it; waits for who has it alone."""
        self.held, self.exclusive = self._flock("LOCK_SH"), False

    def release(self) -> None:
        self._flock("LOCK_UN")
        self.held = self.exclusive = False

    def _flock(self, *names: str) -> bool:
        if self._descriptor is None:
            return False
        import fcntl

        try:
            fcntl.flock(self._descriptor, sum(getattr(fcntl, name) for name in names))
        except OSError:  # taken, or a file system without locks
            return False
        return True


def wait_for(paths: Sequence[Path]) -> None:
    """Return when files that other processes write are in place.

    Raises:
        PocketError: None appeared for a long time: a process has died, and nothing tells the others.
    """
    left, since = [path for path in paths if not path.exists()], time.monotonic()
    while left:
        time.sleep(_WAIT_SECONDS)
        still = [path for path in left if not path.exists()]
        if len(still) < len(left):
            since = time.monotonic()
        left = still
        if left and time.monotonic() - since > PATIENCE:
            raise PocketError(
                f"waited {human_time(PATIENCE)} for other processes, and none wrote anything: {len(left)} files are "
                f"missing, the first {left[0]}. One of them has stopped: see what it said, and run the same command "
                "again, which makes only what is missing."
            )
