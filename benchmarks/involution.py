"""Involution, forward and backward, over the usual formulation that unfolds its input; on the processor.

    python benchmarks/involution.py [--json]

The shapes are those of RedNet-50's four stages at 224 px: kernels of 7 x 7, 16 channels per group. The unfold
formulation copies the input into 49 shifted ones (``F.unfold``), multiplies and sums. Both get the same input and
kernels. They take turns, and large batches few of them: one step of the unfold formulation takes seconds there.

Memory is counted, not sampled: every storage that an operation of the step allocates, in whichever thread, until it
is freed. What stands above the output and the two gradients at the peak is "extra"; ours includes its tables, which
are built afresh and would stay for the next step. That of the unfold formulation is counted for one image and
multiplied, as it is proportional to the batch. Not seen is scratch space inside one operation, of either side.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from _timing import print_table, run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pocketvit.models import _involution_kernels as kernels
from pocketvit.models.involution import involve

_KERNEL, _GROUP = 7, 16
_SHAPES = ((56, 64), (28, 128), (14, 256), (7, 512))  # pixels a side, channels
_TURNS = {1: 5, 8: 2, 32: 1}  # of the unfold formulation, by batch; ours has one more, before and after each


def by_unfold(x: Tensor, weight: Tensor) -> Tensor:
    """The definition as the paper's code writes it: x [B, C, H, W], weight [B, G, K*K, H, W] -> [B, C, H, W]."""
    batch, channels, height, width = x.shape
    copies = F.unfold(x, _KERNEL, padding=_KERNEL // 2)
    copies = copies.view(batch, channels // _GROUP, _GROUP, _KERNEL**2, height, width)
    return (copies * weight[:, :, None]).sum(3).flatten(1, 2)


def _step(involution: Callable[[Tensor, Tensor], Tensor], tensors: list[Tensor]) -> tuple[Tensor, ...]:
    x, weight, grad = tensors
    out = involution(x, weight)
    return out, *torch.autograd.grad(out, (x, weight), grad)


def _tensors(batch: int, size: int, channels: int) -> list[Tensor]:
    x = torch.randn(batch, channels, size, size, requires_grad=True)
    weight = torch.randn(batch, channels // _GROUP, _KERNEL**2, size, size).div_(_KERNEL).requires_grad_()
    return [x, weight, torch.randn(batch, channels, size, size)]


def _seconds(tensors: list[Tensor], turns: int) -> tuple[float, float]:
    """Median seconds of a step: ours, unfolded."""
    one = [t[:1].detach().requires_grad_(t.requires_grad) for t in tensors]
    _step(by_unfold, one)
    _step(involve, tensors)
    taken: dict[Callable[[Tensor, Tensor], Tensor], list[float]] = {involve: [], by_unfold: []}
    for involution in [involve, *[by_unfold, involve] * turns]:
        start = time.perf_counter()
        _step(involution, tensors)
        taken[involution].append(time.perf_counter() - start)
    return statistics.median(taken[involve]), statistics.median(taken[by_unfold])


class _Live:
    """Bytes of the storages made while counted and not yet freed, and their peak."""

    def __init__(self) -> None:
        self.lock, self.live, self.peak = threading.RLock(), 0, 0
        self.known: set[int] = set()

    def add(self, storage: Any) -> None:
        with self.lock:
            if storage._cdata in self.known:
                return
            self.known.add(storage._cdata)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.drop, storage._cdata, storage.nbytes())

    def drop(self, key: int, size: int) -> None:
        with self.lock:
            self.known.discard(key)
            self.live -= size


class _Count(TorchDispatchMode):
    """Tell a `_Live` of every result; of this thread only, as a mode is."""

    def __init__(self, live: _Live, own: set[int]) -> None:
        super().__init__()
        self.live, self.own = live, own

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                storage = leaf.untyped_storage()
                if storage._cdata not in self.own:
                    self.live.add(storage)
        return result


@contextmanager
def _counted_threads(count: Callable[[], _Count]) -> Iterator[None]:
    """Count what our kernels' threads allocate too."""
    spread = kernels.spread

    def counted(work: Callable[[Any], Any], parts: Any) -> None:
        def task(part: Any) -> None:
            with count():
                work(part)

        spread(task, parts)

    kernels.spread = counted
    try:
        yield
    finally:
        kernels.spread = spread


def _extra_bytes(involution: Callable[[Tensor, Tensor], Tensor], tensors: list[Tensor]) -> int:
    """Peak bytes of a step beyond its inputs, its output and the two gradients."""
    kernels._places.cache_clear()
    live = _Live()
    given = {t.untyped_storage()._cdata for t in tensors}
    with _counted_threads(lambda: _Count(live, given)), _Count(live, given):
        results = _step(involution, tensors)
    return live.peak - sum(t.nbytes for t in results)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print each shape's rates and memory, and return the figures over the unfold formulation."""
    speeds: dict[int, list[float]] = {batch: [] for batch in _TURNS}
    memory: dict[int, list[float]] = {size: [] for size, _ in _SHAPES}
    unfolded_extra = {shape: _extra_bytes(by_unfold, _tensors(1, *shape)) for shape in _SHAPES}
    rows = []
    for batch, turns in _TURNS.items():
        for size, channels in _SHAPES:
            tensors = _tensors(batch, size, channels)
            ours, unfolded = _seconds(tensors, turns)
            speeds[batch].append(unfolded / ours)
            extra = _extra_bytes(involve, tensors), batch * unfolded_extra[size, channels]
            memory[size].append(extra[0] / extra[1])
            products = 3 * _KERNEL**2 * tensors[0].numel()  # forward, and two gradients
            rows.append(
                [
                    *(batch, f"{size} px, {channels} channels"),
                    *(batch / ours, batch / unfolded, products / ours / 1e9, unfolded / ours),
                    *(extra[0] / 1e6, extra[1] / 1e6, extra[0] / extra[1]),
                ]
            )
            del tensors
    print_table(
        [
            *("batch", "shape", "ours images/s", "unfold images/s", "ours G multiply-adds/s", "ratio"),
            *("ours extra MB", "unfold extra MB", "share"),
        ],
        rows,
    )
    large = speeds[8] + speeds[32]
    return {
        "speed_over_unfold": statistics.geometric_mean(large),
        "worst_speed_over_unfold": min(large),
        "batch1_speed_over_unfold": statistics.geometric_mean(speeds[1]),
        "extra_memory_over_unfold": max(max(shares) for size, shares in memory.items() if size > 7),
        "extra_memory_over_unfold_7": max(memory[7]),
    }


if __name__ == "__main__":
    run(measure, __doc__)
