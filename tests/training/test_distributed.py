"""Two processes train like one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from training_fakes import INPUT, MIXED, TASK, ArraySource, config, tiny_vit

from pocketvit.config import LossConfig
from pocketvit.training import Feed, fit, join_processes, read_metrics
from pocketvit.views import Views


def train_as(rank: int, world: int, port: int, folder: Path) -> None:
    """One process of a run, started as torchrun starts it."""
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    processes = join_processes("cpu")
    feed = Feed(Views(ArraySource(), MIXED), 8, rank=processes.rank, world=processes.world)
    # 45 images in pairs do not divide evenly between two ranks: the averages must be weighed
    settings = config(epochs=2, optimizer="sgd", learning_rate=0.1)
    model = fit(
        tiny_vit(drop=0.0), feed, TASK.loss(LossConfig()), settings, folder, task=TASK, evaluate=None, input=INPUT
    )
    torch.save(model.state_dict(), folder / f"rank{rank}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


def test_two_processes_end_with_the_weights_of_one_within_tolerance(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    method = "forkserver" if os.name == "posix" else "spawn"
    arguments = (2, port, two)
    torch.multiprocessing.start_processes(train_as, arguments, nprocs=2, start_method=method)
    single = torch.multiprocessing.start_processes(train_as, (1, port, one), nprocs=1, start_method=method, join=False)
    assert single is not None
    single.join()
    alone = torch.load(one / "rank0.pt", weights_only=True)
    first, second = (torch.load(two / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4)
    a, b = (read_metrics(folder / "metrics.jsonl") for folder in (one, two))
    assert [line["loss"] for line in a] == pytest.approx([line["loss"] for line in b], rel=1e-3)
    assert [line["train_accuracy"] for line in a] == [line["train_accuracy"] for line in b]
