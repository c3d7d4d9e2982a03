"""Running an iterator a few items ahead of its consumer, in a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

from ..views.parallel import start_beside

T = TypeVar("T")


@contextlib.contextmanager
def ahead(items: Iterator[T], depth: int = 2) -> Iterator[Iterator[T]]:
    """Yield an iterator over ``items`` that a thread fills up to ``depth`` items ahead; errors are raised in order.

    Leaving the context stops the thread, also in the middle.
    """
    ready: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(maxsize=depth)
    stopping = threading.Event()

    def put(kind: str, item: T | BaseException | None) -> bool:
        while not stopping.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((kind, item), timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # raised again where the item is asked for
            put("error", error)

    def take() -> Iterator[T]:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise item  # type: ignore[misc]
            yield item  # type: ignore[misc]

    thread = start_beside(work)
    try:
        yield take()
    finally:
        stopping.set()
        thread.join()
