"""Two processes walk the road together: teacher adapted, images labelled, student trained by both."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from walk_fakes import CHOICES, tiny

import pocketvit
from pocketvit.labels import LabelStore
from pocketvit.road import ship
from pocketvit.training import Stepper

pytestmark = pytest.mark.slow
SETTINGS = CHOICES | {"teacher_size": 32, "batch_size": 16, "baseline": False}


class Trained(Exception):
    """The student is trained; what follows is one process's work."""


def stop(*_: object, **__: object) -> None:
    raise Trained


def walk_as(rank: int, world: int, port: int, photos: Path, runs: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    ship.calibrate = stop  # type: ignore[assignment]
    try:
        pocketvit.distill(str(photos), teacher=tiny(), out=str(runs), device="cpu", **SETTINGS)
    except Trained:
        assert rank == 0
    torch.distributed.destroy_process_group()


def test_two_processes_adapt_label_and_train_and_one_finds_it_all_done(photos, tmp_path, monkeypatch, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    method = "forkserver" if os.name == "posix" else "spawn"
    torch.multiprocessing.start_processes(
        walk_as, (2, port, photos, tmp_path), nprocs=2, start_method=method
    )  # what one of them raises is raised here
    (adapted,) = (tmp_path / "shared/teachers").iterdir()
    assert {"adapted.json", "adapted.safetensors", "fine-tuning"} <= {path.name for path in adapted.iterdir()}
    (store,) = (tmp_path / "shared/labels").iterdir()
    assert LabelStore(store).views() == [0, 1]
    monkeypatch.setattr(ship, "calibrate", stop)
    monkeypatch.setattr(Stepper, "take", None)  # no step is left to be taken
    caplog.set_level("INFO", "pocketvit")
    with pytest.raises(Trained):
        pocketvit.distill(str(photos), teacher=tiny(), out=str(tmp_path), device="cpu", resume=True, **SETTINGS)
    assert "reused from an earlier run" in caplog.text
    assert "labels   reused from" in caplog.text
