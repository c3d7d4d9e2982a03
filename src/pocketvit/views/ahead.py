"""Running an iterator a little ahead of its consumer, in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from .parallel import start_beside

T = TypeVar("T")


class Ahead(Generic[T]):
    """Iterates over ``items``, up to ``depth`` of which a thread makes before they are asked for.

    Errors are raised where their item would have come. `close` (or leaving it as a context) stops the thread, also in
    the middle.
    """

    def __init__(self, items: Iterable[T], depth: int = 1) -> None:
        self._room = threading.Semaphore(depth)
        self._ready: queue.SimpleQueue[tuple[bool, T | BaseException | None]] = queue.SimpleQueue()
        self._ended = False
        self._thread = start_beside(lambda: self._work(iter(items)))

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._ended:
            raise StopIteration
        fine, item = self._ready.get()
        if fine:
            self._room.release()
            return item  # type: ignore[return-value]
        self._ended = True
        raise StopIteration if item is None else item  # type: ignore[misc]

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._ended = True
        self._room.release()
        self._thread.join()

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self, items: Iterator[T]) -> None:
        try:
            while True:
                self._room.acquire()
                if self._ended:
                    return
                self._ready.put((True, next(items)))
        except StopIteration:
            self._ready.put((False, None))
        except BaseException as error:  # raised again where the item is asked for
            self._ready.put((False, error))
