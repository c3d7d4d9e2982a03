"""Two processes train like one, are stopped and go on like one, and end where one of them is killed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.multiprocessing
from test_resume import stop_after
from torch import nn
from training_fakes import INPUT, MIXED, SIDE, TASK, ArraySource, batch_norm_net, config, tiny_vit

from pocketvit.config import LossConfig, TermConfig
from pocketvit.errors import PocketError
from pocketvit.labels import write_labels
from pocketvit.objectives.terms import FeatureTerms
from pocketvit.teachers import load_teacher
from pocketvit.training import Feed, Processes, Stepper, fit, join_processes, loop, read_metrics
from pocketvit.training.distributed import barrier
from pocketvit.training.features import LiveFeatures
from pocketvit.views import Views


def start(rank: int, world: int, port: int) -> Processes:
    """Be one process of a run, started as torchrun starts it."""
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    return join_processes("cpu")


class Case(NamedTuple):
    """A training, and how near two processes come to one: of weights (absolute) and of losses (relative)."""

    settings: dict[str, Any]
    weights: float = 1e-4
    loss: float = 1e-3
    model: Callable[..., nn.Module] = lambda: tiny_vit(drop=0.0)
    stored: bool = False
    terms: bool = False


CASES = {
    "sgd": Case({"epochs": 2, "optimizer": "sgd", "learning_rate": 0.1}),
    "muon": Case({"epochs": 1, "optimizer": "muon", "schedule": "wsd"}, weights=2e-3),
    # a store, accumulation and a weight average; SGD again, whose weights are easily compared
    "store": Case({"epochs": 2, "optimizer": "sgd", "learning_rate": 0.1, "accumulate": 2, "ema": 0.5}, stored=True),
    # relative to the mean square of each process's own images: near, and not nearer
    "terms": Case({"epochs": 2, "optimizer": "sgd", "learning_rate": 0.1}, 2e-3, 5e-3, stored=True, terms=True),
    # each process takes its statistics of its own images: near, and not nearer
    "batchnorm": Case({"epochs": 2, "optimizer": "sgd", "learning_rate": 0.02}, 0.05, 0.1, model=batch_norm_net),
}


def train_case(case: Case, folder: Path, processes: Processes, *, resume: bool = False) -> nn.Module:
    """Train one case. 45 images in pairs do not divide evenly between two ranks: the averages must be weighed."""
    views, model, who = Views(ArraySource(), MIXED), case.model(), {"rank": processes.rank, "world": processes.world}
    config_of = LossConfig(objective="kl", temperature=1.0, terms=(TermConfig("fitnets"),) if case.terms else ())
    taught: dict[str, Any] = {}
    terms = None
    if case.stored:
        teacher = load_teacher(nn.Sequential(batch_norm_net()[0], nn.Flatten(), batch_norm_net()[-1]).eval(),
                               input_size=SIDE, norm="half")  # fmt: skip
        store = write_labels(folder / "labels", views.source, views, [teacher], 2, progress=False, **who)
        taught = {"labels": store, "teachers": [store.key(teacher)]}
        if case.terms:
            terms = FeatureTerms(config_of, model, SIDE, [teacher])
            taught["features"] = LiveFeatures([teacher], [terms.teacher_layers(0)])
    feed = Feed(views, 8, **taught, **who)
    return fit(
        model, feed, TASK.loss(config_of if taught else LossConfig()), config(**case.settings), folder,
        task=TASK, evaluate=None, input=INPUT, terms=terms, resume=resume,
    )  # fmt: skip


def train_as(rank: int, world: int, port: int, folder: Path) -> None:
    processes = start(rank, world, port)
    for name, case in CASES.items():
        torch.save(train_case(case, folder / name, processes).state_dict(), folder / f"{name}{rank}.pt")
    if world > 1:
        stopped = CASES["store"], folder / "stopped", processes
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, 2)
            with pytest.raises(KeyboardInterrupt):
                train_case(*stopped)
        torch.save(train_case(*stopped, resume=True).state_dict(), folder / f"stopped{rank}.pt")
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


def launch(function, *folders_and_worlds: tuple[Path, int], all_end: bool = False) -> None:
    """Run ``function`` in as many processes as asked for, and raise where one of them failed."""
    method = "forkserver" if os.name == "posix" else "spawn"
    for folder, world in folders_and_worlds:
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = torch.multiprocessing.start_processes(
            function, (world, port, folder), nprocs=world, start_method=method, join=False
        )
        if all_end:  # the first failure ends the others, which have a word to say
            for process in context.processes:
                process.join(60)
        while not context.join():
            pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of what one process trained, and of what two did."""
    folders = tmp_path_factory.mktemp("one") / "one", tmp_path_factory.mktemp("two") / "two"
    launch(train_as, (folders[0], 1), (folders[1], 2))
    return folders


@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_with_the_weights_of_one_within_tolerance(name, trained):
    one, two = trained
    alone = torch.load(one / f"{name}0.pt", weights_only=True)
    first, second = (torch.load(two / f"{name}{rank}.pt", weights_only=True) for rank in range(2))
    for key, value in alone.items():
        assert torch.equal(first[key], second[key])
        if "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(first[key], value, rtol=1e-3, atol=CASES[name].weights)
    a, b = (read_metrics(folder / name / "metrics.jsonl") for folder in (one, two))
    assert [line["loss"] for line in a] == pytest.approx([line["loss"] for line in b], rel=CASES[name].loss)
    assert [line["train_accuracy"] for line in a] == pytest.approx([line["train_accuracy"] for line in b], abs=0.1)


def test_two_processes_label_with_the_bytes_of_one(trained):
    one, two = ({path.relative_to(folder): path.read_bytes() for path in (folder / "store/labels").rglob("*.*")}
                for folder in trained)  # fmt: skip
    assert one == two
    assert len(one) == 3


def test_two_processes_stopped_within_an_epoch_go_on_to_the_bit(trained):
    for rank in range(2):
        unbroken, resumed = (torch.load(trained[1] / f"{name}{rank}.pt", weights_only=True)
                             for name in ("store", "stopped"))  # fmt: skip
        assert all(torch.equal(resumed[name], value) for name, value in unbroken.items())


def killed_as(rank: int, world: int, port: int, folder: Path) -> None:
    """Be killed in the fourth step, or be the one that is left."""
    processes = start(rank, world, port)
    take = Stepper.take

    def dying(self, batches):
        if rank == 1 and self.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, batches)

    Stepper.take = dying
    try:
        train_case(CASES["sgd"], folder / "run", processes)
    except PocketError as error:
        (folder / "said").write_text(str(error))
        os._exit(2)


def test_where_one_process_is_killed_the_other_ends_and_says_what_to_do(tmp_path):
    with pytest.raises(torch.multiprocessing.ProcessExitedException):
        launch(killed_as, (tmp_path / "two", 2), all_end=True)
    assert "another process of this run has stopped" in (tmp_path / "two/said").read_text()


def waiting_as(rank: int, world: int, port: int, folder: Path) -> None:
    """Wait for a process that is busy, and be told to end."""
    start(rank, world, port)
    if rank == 0:
        while not (folder / "ended").exists():
            time.sleep(0.02)
    else:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            barrier(world)
        (folder / "ended").touch()
    os._exit(0)


def test_a_signal_is_heard_while_a_process_waits_for_another(tmp_path):
    launch(waiting_as, (tmp_path / "two", 2))


def test_processes_interrupted_while_the_first_one_evaluates_go_on_together(tmp_path):
    folder = tmp_path / "run"
    launch(interrupted_as, (folder, 2))
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [line["epoch"] for line in read_metrics(folder / "metrics.jsonl")] == [1, 2]
