"""Running an iterator a little ahead of its consumer, in a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from .parallel import start_beside

T = TypeVar("T")


class Ahead(Generic[T]):
    """Iterates over ``items``, which a thread makes up to ``depth`` items before they are asked for.

    Errors are raised where their item would have come. `close` (or leaving it as a context) stops the thread, also in
    the middle.
    """

    def __init__(self, items: Iterable[T], depth: int = 1) -> None:
        self._ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(maxsize=depth)
        self._stopping = threading.Event()
        self._ended = False
        self._thread = start_beside(lambda: self._work(iter(items)))

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._ended:
            raise StopIteration
        fine, item = self._ready.get()
        if fine:
            return item  # type: ignore[return-value]
        self._ended = True
        raise StopIteration if item is None else item  # type: ignore[misc]

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._ended = True
        self._stopping.set()
        self._thread.join()

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                if not self._put(True, item):
                    return
            self._put(False, None)
        except BaseException as error:  # raised again where the item is asked for
            self._put(False, error)

    def _put(self, fine: bool, item: T | BaseException | None) -> bool:
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put((fine, item), timeout=0.1)
                return True
        return False
