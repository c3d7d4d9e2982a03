"""Several processes under ``torchrun``: who am I, and the process group. A single process needs none of it."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed

from ..errors import PocketError

T = TypeVar("T")

# The others wait while the first process exports or evaluates; one that dies is noticed by its closed connection.
PATIENCE = datetime.timedelta(hours=24)
LOST = (
    "another process of this run has stopped: see what it said. What was finished is kept; the same command with "
    "--resume goes on."
)


@dataclass(frozen=True)
class Processes:
    """This process among those of a run."""

    rank: int
    world: int
    device: torch.device


def join_processes(device: str = "auto") -> Processes:
    """Join the run's process group if ``torchrun`` started this process, and choose its device.

    Args:
        device: "auto" (a CUDA device where there is one), or a torch device for a single process.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    chosen = torch.device(kind)
    if world > 1:
        if chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", chosen.index if chosen.index is not None else torch.cuda.current_device())
        torch.cuda.set_device(chosen)
    return Processes(rank, world, chosen)


def from_rank_zero(value: T, world: int) -> T:
    """Return what rank 0 has, on every rank."""
    if world == 1:
        return value
    barrier(world)
    values = [value]
    with _told():
        torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def sum_over_ranks(values: dict[str, float], world: int) -> dict[str, float]:
    """Return the sums by name; a rank may lack names that others have."""
    if world == 1:
        return values
    barrier(world)
    each: list[dict[str, float]] = [{} for _ in range(world)]
    with _told():
        torch.distributed.all_gather_object(each, values)
    names = dict.fromkeys(name for one in each for name in one)
    return {name: sum(one.get(name, 0.0) for one in each) for name in names}


def barrier(world: int) -> None:
    """Wait until every process is here; Ctrl-C and SIGTERM are heard meanwhile, as within torch they are not.

    Raises:
        PocketError: Another process has stopped.
    """
    if world == 1:
        return
    with _told():
        work = torch.distributed.barrier(async_op=True)
        pause = 1e-4
        while not work.is_completed():
            time.sleep(pause)
            pause = min(0.05, 1.5 * pause)
        work.wait()


def is_lost(error: BaseException) -> bool:
    """Whether an error of torch's means that another process is gone."""
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("Connection closed", "Connection reset", "Connection refused", "Broken pipe", "NCCL")
    )


@contextlib.contextmanager
def lead_first(processes: Processes) -> Iterator[None]:
    """Let rank 0 do the block before the others, which then find what it left on disk.

    In the block nothing may be done together: the others wait.
    """
    if processes.rank > 0:
        barrier(processes.world)
    yield
    if processes.rank == 0:
        barrier(processes.world)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if is_lost(error):
            raise PocketError(LOST) from error
        raise
