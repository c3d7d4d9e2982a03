"""Two processes train like one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from training_fakes import INPUT, MIXED, TASK, ArraySource, config, tiny_vit

from pocketvit.config import LossConfig
from pocketvit.training import Feed, Processes, fit, join_processes, loop, read_metrics
from pocketvit.training.distributed import barrier
from pocketvit.views import Views


def start(rank: int, world: int, port: int) -> Processes:
    """Be one process of a run, started as torchrun starts it."""
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    return join_processes("cpu")


def train_as(rank: int, world: int, port: int, folder: Path) -> None:
    """Train with SGD, whose weights are easily compared, and then two steps with Muon."""
    processes = start(rank, world, port)
    # 45 images in pairs do not divide evenly between two ranks: the averages must be weighed
    for name, settings in {
        "sgd": config(epochs=2, optimizer="sgd", learning_rate=0.1),
        "muon": config(epochs=1, optimizer="muon", schedule="wsd"),
    }.items():
        feed = Feed(Views(ArraySource(), MIXED), 8, rank=processes.rank, world=processes.world)
        model = fit(
            tiny_vit(drop=0.0), feed, TASK.loss(LossConfig()), settings, folder / name,
            task=TASK, evaluate=None, input=INPUT,
        )  # fmt: skip
        torch.save(model.state_dict(), folder / f"{name}{rank}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


def interrupted_as(rank: int, world: int, port: int, folder: Path) -> None:
    """Be stopped while rank 0 evaluates and the others wait, then go on."""
    processes = start(rank, world, port)
    pressed = []

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        if not pressed:
            pressed.append(1)
            raise KeyboardInterrupt
        return {"val_accuracy": 0.5}

    for resume in (False, True):
        feed = Feed(Views(ArraySource(), MIXED), 8, rank=processes.rank, world=processes.world)
        try:
            with pytest.MonkeyPatch.context() as patch:
                if rank > 0 and not resume:  # Ctrl-C reaches every process; this one waits for rank 0
                    patch.setattr(loop, "barrier", pressed_at_the_second())
                model = fit(
                    tiny_vit(drop=0.0), feed, TASK.loss(LossConfig()), config(epochs=2), folder,
                    task=TASK, evaluate=evaluate, input=INPUT, resume=resume,
                )  # fmt: skip
        except KeyboardInterrupt:
            assert not resume
    torch.save(model.state_dict(), folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


def pressed_at_the_second() -> Callable[[int], None]:
    """Return a `barrier` in which Ctrl-C is pressed: the first of a run opens its folder, the second ends an epoch."""
    calls: list[int] = []

    def pressed(world: int) -> None:
        calls.append(world)
        if len(calls) == 2:
            raise KeyboardInterrupt
        barrier(world)

    return pressed


def launch(function, *folders_and_worlds: tuple[Path, int]) -> None:
    method = "forkserver" if os.name == "posix" else "spawn"
    for folder, world in folders_and_worlds:
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.start_processes(function, (world, port, folder), nprocs=world, start_method=method)


def test_two_processes_end_with_the_weights_of_one_within_tolerance(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    launch(train_as, (one, 1), (two, 2))
    for name in ("sgd", "muon"):
        alone = torch.load(one / f"{name}0.pt", weights_only=True)
        first, second = (torch.load(two / f"{name}{rank}.pt", weights_only=True) for rank in range(2))
        for key, value in alone.items():
            assert torch.equal(first[key], second[key])
            torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-4 if name == "sgd" else 2e-3)
        a, b = (read_metrics(folder / name / "metrics.jsonl") for folder in (one, two))
        assert [line["loss"] for line in a] == pytest.approx([line["loss"] for line in b], rel=1e-3)
        assert [line["train_accuracy"] for line in a] == pytest.approx([line["train_accuracy"] for line in b], abs=0.03)


def test_processes_interrupted_while_the_first_one_evaluates_go_on_together(tmp_path):
    folder = tmp_path / "run"
    launch(interrupted_as, (folder, 2))
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [line["epoch"] for line in read_metrics(folder / "metrics.jsonl")] == [1, 2]
