"""Threads that each run torch on one core, and products that are true float32."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest
import torch

from pocketvit.config import ViewConfig
from pocketvit.views import Views
from pocketvit.views.parallel import cut, exact_products, spread, start_beside


@pytest.fixture
def three_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("three_threads")
def test_workers_use_one_core_and_the_caller_and_new_threads_keep_theirs() -> None:
    seen: list[int] = []
    meeting = threading.Barrier(3, timeout=20)

    def work(_: int) -> None:
        meeting.wait()
        seen.append(torch.get_num_threads())

    spread(work, range(3))
    assert seen == [1, 1, 1]
    assert torch.get_num_threads() == 3
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [3]


@pytest.mark.usefixtures("three_threads")
def test_nested_work_stays_in_its_thread_and_errors_come_out() -> None:
    names: set[tuple[str, str]] = set()

    def outer(_: int) -> None:
        name = threading.current_thread().name
        spread(lambda _: names.add((name, threading.current_thread().name)), range(5))

    spread(outer, range(4))
    assert names
    assert all(a == b for a, b in names)
    with pytest.raises(ZeroDivisionError):
        spread(lambda i: 1 // i, range(3))


@pytest.mark.parametrize(("total", "most"), [(0, 5), (1, 5), (17, 5), (1000, 341), (3, 1)])
@pytest.mark.usefixtures("three_threads")
def test_slices_cover_everything_once(total: int, most: int) -> None:
    slices = cut(total, most)
    assert [i for part in slices for i in range(total)[part]] == list(range(total))
    assert all(0 < part.stop - part.start <= most for part in slices)


def test_reduced_precision_is_put_back_after_the_last_user() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        setting = torch.backends.mkldnn.matmul.fp32_precision
        with exact_products(torch.device("cpu")):
            with exact_products(torch.device("cpu")):
                pass
            assert torch.backends.mkldnn.matmul.fp32_precision in ("ieee", "none")
        assert torch.backends.mkldnn.matmul.fp32_precision == setting
    finally:
        torch.set_float32_matmul_precision(before)


class _Noise:
    ids = np.arange(600, dtype=np.uint64)
    images = np.random.default_rng(0).integers(0, 256, (600, 32, 32, 3)).astype(np.uint8)

    def rgb(self, positions: np.ndarray) -> np.ndarray:
        return self.images[positions]


def _digest(queue: multiprocessing.Queue) -> None:
    views = Views(_Noise(), ViewConfig(view_size=32, crop="padded", randaugment_ops=2))
    queue.put(int(views.render(np.arange(600), 0).pixels.numpy().sum()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.usefixtures("three_threads")
def test_a_forked_process_renders_after_its_parent_did() -> None:
    """Threads do not survive a fork; a loader's worker must not wait for them."""
    views = Views(_Noise(), ViewConfig(view_size=32, crop="padded", randaugment_ops=2))
    expected = int(views.render(np.arange(600), 0).pixels.numpy().sum())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_digest, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join(timeout=60)


@pytest.mark.usefixtures("three_threads")
def test_a_thread_beside_takes_one_core_itself_and_spreads_over_all() -> None:
    """And the caller, and threads that come later, keep their number."""
    seen: dict[str, object] = {}

    def work() -> None:
        seen["own"] = torch.get_num_threads()
        seen["cut"] = len(cut(7, 4))
        names: list[str] = []
        spread(lambda _: names.append(threading.current_thread().name), range(8))
        seen["spread"] = all(name.startswith("pocketvit-views") for name in names)
        seen["after"] = torch.get_num_threads()

    start_beside(work).join()
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == {"own": 1, "cut": 3, "spread": True, "after": 1}
    assert torch.get_num_threads() == 3
    assert later == [3]
