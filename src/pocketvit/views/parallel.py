"""Work shared among threads, and matrix products that are true float32.

Rendering runs beside training. If its many small products each woke torch's team of threads, two teams would wait for
each other at every barrier (seen: a hundred times slower on a busy machine). So whole pictures are shared among threads
that run torch on one core each.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

_Part = TypeVar("_Part")
_thread = threading.local()


class _Shared:
    """What threads share; made afresh in a forked process, where the threads are gone."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pool: ThreadPoolExecutor | None = None
        self.threads = 0
        self.users: dict[str, int] = {}  # of exact_products, by device type
        self.settings: dict[str, str] = {}  # what the last of them puts back


_shared = _Shared()


def _forget() -> None:
    global _shared
    _shared = _Shared()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def spread(work: Callable[[_Part], Any], parts: Sequence[_Part]) -> None:
    """Do ``work`` on every part, on as many threads as torch would use; in this thread when nested or alone."""
    threads = _threads()
    if min(threads, len(parts)) <= 1 or getattr(_thread, "working", False):
        for part in parts:
            work(part)
        return
    inference = torch.is_inference_mode_enabled()

    def task(part: _Part) -> None:
        with torch.inference_mode(inference):
            work(part)

    for _ in _pool(threads).map(task, parts):
        pass


def cut(total: int, most: int) -> list[slice]:
    """Cut ``total`` items into slices of at most ``most``, equal and as many for every thread."""
    if total == 0:
        return []
    threads = _threads()
    count = -(-total // most)
    if count > 1:
        count = min(-(-count // threads) * threads, total)
    return [slice(total * i // count, total * (i + 1) // count) for i in range(count)]


def start_beside(run: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread for work beside training: its own operations take one core, its `spread` takes them all.

    A second team of torch's threads would be more threads than cores, and OpenMP then lets *every* team sleep between
    two operations instead of waiting awake (seen: training steps 1.6 times as long while the second team did nothing).
    """
    threads = torch.get_num_threads()
    if threads > 1:
        _pool(threads)  # here: making it sets the caller's number of threads
    ready = threading.Event()

    def body() -> None:
        _thread.threads = threads
        _only_one_core()
        ready.set()
        run()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    ready.wait()
    torch.set_num_threads(threads)  # its one became the default of threads yet to come: put it back
    return thread


def _threads() -> int:
    """Threads that work may be spread over: torch's number, or that of the thread which started this one beside it."""
    return getattr(_thread, "threads", 0) or torch.get_num_threads()


def _pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool of threads each of which runs torch on one core."""
    shared = _shared
    with shared.lock:
        if shared.pool is None or shared.threads != threads:
            if shared.pool is not None:
                shared.pool.shutdown(wait=False)
            shared.pool = ThreadPoolExecutor(threads, "pocketvit-views", initializer=_use_one_core)
            shared.threads = threads
            everybody = threading.Barrier(threads)
            for _ in shared.pool.map(lambda _: everybody.wait(), range(threads)):
                pass
            torch.set_num_threads(threads)  # theirs also became the default of threads yet to come: put it back
        return shared.pool


def _use_one_core() -> None:
    _thread.working = True
    _only_one_core()


def _only_one_core() -> None:
    torch.get_num_threads()  # a thread takes the common default when it first asks: let that be before, not after
    torch.set_num_threads(1)


@contextlib.contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Multiply matrices in true float32, whatever autocast or reduced precision surrounds the call."""
    settings = {"cuda": torch.backends.cuda, "cpu": torch.backends.mkldnn}.get(device.type)
    matmul = getattr(settings, "matmul", None)
    shared = _shared
    if matmul is None or not hasattr(matmul, "fp32_precision"):  # torch before 2.9, or a device without the choice
        with torch.autocast(device.type, enabled=False):
            yield
        return
    with shared.lock:
        users = shared.users.get(device.type, 0)
        if users == 0:
            shared.settings[device.type] = matmul.fp32_precision
        if matmul.fp32_precision not in ("none", "ieee"):
            matmul.fp32_precision = "ieee"
        shared.users[device.type] = users + 1
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        with shared.lock:
            shared.users[device.type] -= 1
            if shared.users[device.type] == 0 and matmul.fp32_precision != shared.settings[device.type]:
                matmul.fp32_precision = shared.settings[device.type]
