"""A run that was stopped, however, ends with the weights of one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import killed_run
import pytest
import torch
from safetensors.torch import save_file
from training_fakes import CLASSES, SIDE, batch_norm_net, same_weights, tiny_vit, train

from pocketvit.cli import Terminated, stopping_on_sigterm
from pocketvit.errors import PocketError
from pocketvit.models import create_student
from pocketvit.training import Stepper, load_weights, loop, read_metrics
from pocketvit.training.checkpoint import read_checkpoint, save_checkpoint
from pocketvit.training.parts import WeightAverage

TIMES = ("seconds", "images_per_second", "elapsed")


def metrics_without_times(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(folder / "metrics.jsonl")]


def conv_student() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_student("pocket_xs", num_classes=CLASSES, image_size=SIDE, stem="conv")


def growing_student() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_student("pocket_xxs", num_classes=CLASSES, image_size=SIDE, stem="patch", patch_size=2)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Press Ctrl-C in the middle of a step."""
    take = Stepper.take

    def interrupted(self, batches):
        if self.step == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, batches)

    monkeypatch.setattr(Stepper, "take", interrupted)


@pytest.mark.parametrize(
    ("build", "changes"),
    [
        (tiny_vit, {}),
        (lambda: tiny_vit(tokens=1), {"accumulate": 2, "batch_size": 7}),
        (batch_norm_net, {"optimizer": "sgd", "learning_rate": 0.05, "clip": 0.0}),
        (tiny_vit, {"precision": "bf16", "ema": 0.0}),
        (tiny_vit, {"optimizer": "muon", "schedule": "wsd"}),
        (conv_student, {"optimizer": "muon"}),
        (growing_student, {"optimizer": "muon", "progressive": 0.5}),
    ],
    ids=["adamw-ema", "token-accumulate", "sgd-batchnorm", "bf16", "muon-wsd", "muon-conv", "progressive"],
)
def test_interrupted_within_an_epoch_and_resumed_equals_unbroken(tmp_path, monkeypatch, build, changes):
    unbroken = train(tmp_path / "unbroken", build(), **changes)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "broken", build(), **changes)
    resumed = train(tmp_path / "broken", build(), resume=True, **changes)
    assert same_weights(resumed, unbroken)
    assert metrics_without_times(tmp_path / "broken") == metrics_without_times(tmp_path / "unbroken")


@pytest.mark.parametrize("wanted", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_weights_and_their_average_cuts_no_step_in_two(tmp_path, monkeypatch, wanted):
    """SIGTERM, which the command line makes an exception of, waits for the end of the step as Ctrl-C does."""
    unbroken = train(tmp_path / "unbroken")
    update = WeightAverage.update

    def pressed(self, step):
        if step == 3:
            os.kill(os.getpid(), wanted)
        update(self, step)

    with monkeypatch.context() as patch, stopping_on_sigterm():
        patch.setattr(WeightAverage, "update", pressed)
        with pytest.raises(Terminated if wanted == signal.SIGTERM else KeyboardInterrupt):
            train(tmp_path / "broken")
    assert same_weights(train(tmp_path / "broken", resume=True), unbroken)


def test_a_second_signal_does_not_wait_and_nothing_is_saved_of_a_step_cut_in_two(tmp_path, monkeypatch):
    unbroken = train(tmp_path / "unbroken")
    update = WeightAverage.update

    def pressed_twice(self, step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        update(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(WeightAverage, "update", pressed_twice)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "broken")
    assert same_weights(train(tmp_path / "broken", resume=True), unbroken)


@pytest.mark.parametrize("where", ["save_checkpoint", "append_metrics"])
def test_a_signal_while_an_epoch_is_written_loses_none_of_it(tmp_path, monkeypatch, where):
    write = getattr(loop, where)

    def pressed(*given):
        os.kill(os.getpid(), signal.SIGINT)
        write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, where, pressed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, epochs=1)
    train(tmp_path, epochs=1, resume=True)
    assert [line["epoch"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    assert load_weights(tiny_vit(), tmp_path, "best")["epoch"] == 1


def test_what_a_program_makes_of_sigterm_is_heard_and_the_state_saved(tmp_path, monkeypatch):
    """As of containers and clusters: `sys.exit` in a handler of one's own."""
    unbroken = train(tmp_path / "unbroken")
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    take = Stepper.take

    def told(self, batches):
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, batches)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Stepper, "take", told)
            with pytest.raises(SystemExit):
                train(tmp_path / "broken")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert read_checkpoint(tmp_path / "broken" / "checkpoints" / "last.safetensors")[1]["step"] == 5
    assert same_weights(train(tmp_path / "broken", resume=True), unbroken)


def test_a_run_of_few_steps_can_be_made_longer(tmp_path):
    """No step of it was taken in the decay, so that there is nothing to go back before."""
    train(tmp_path, schedule="wsd", epochs=3, batch_size=64)
    assert not (tmp_path / "checkpoints" / "stable.safetensors").exists()
    train(tmp_path, schedule="wsd", epochs=6, batch_size=64, resume=True)
    assert [line["epoch"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_killed_in_its_first_longer_step_a_run_goes_on_as_the_longer_one(tmp_path, monkeypatch):
    """Its metrics were cut to where it goes on from: so must its checkpoint be."""
    train(tmp_path / "unbroken", schedule="wsd", epochs=4)
    whole = train(tmp_path / "unbroken", schedule="wsd", epochs=8, resume=True)
    train(tmp_path / "killed", schedule="wsd", epochs=4)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "take", lambda self, batches: os._exit(9))
        process = multiprocessing.get_context("fork").Process(
            target=train, args=(tmp_path / "killed",), kwargs={"schedule": "wsd", "epochs": 8, "resume": True}
        )
        process.start()
        process.join()
    assert process.exitcode == 9
    assert same_weights(train(tmp_path / "killed", schedule="wsd", epochs=8, resume=True), whole)
    assert metrics_without_times(tmp_path / "killed") == metrics_without_times(tmp_path / "unbroken")
    assert len((tmp_path / "killed" / "extended.jsonl").read_text().splitlines()) == 1


def test_two_that_train_in_one_folder_take_turns(tmp_path, caplog):
    """The later one waits, and finds what the first has made."""
    caplog.set_level("INFO", "pocketvit")
    second: list[threading.Thread] = []
    found: list[torch.nn.Module] = []

    def begin(line):
        if not second:
            second.append(threading.Thread(target=lambda: found.append(train(tmp_path, tiny_vit(), resume=True))))
            second[0].start()
            while "waiting for it" not in caplog.text:
                assert second[0].is_alive()
                time.sleep(0.01)

    first = train(tmp_path, on_epoch=begin)
    second[0].join()
    assert same_weights(found[0], first)
    assert [line["epoch"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_killed_at_random_moments_and_resumed_equals_unbroken(tmp_path):
    processes = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    folder = tmp_path / "killed"
    folder.mkdir()
    seed = random.randrange(2**32)
    print(f"moments are drawn with the seed {seed}")  # is shown where the test fails
    moments = random.Random(seed)
    for _ in range(3):
        (folder / "started").unlink(missing_ok=True)
        process = processes.Process(target=killed_run.run, args=(folder, 0.05))
        process.start()
        while not (folder / "started").exists():
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(moments.uniform(0.05, 0.8))
        process.kill()
        process.join()
        assert process.exitcode != 0
    last = processes.Process(target=killed_run.run, args=(folder, 0.0))
    last.start()
    last.join()
    assert last.exitcode == 0
    final = torch.load(folder / "final.pt", weights_only=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        unbroken = train(tmp_path / "unbroken")
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(final[name], value) for name, value in unbroken.state_dict().items())
    assert metrics_without_times(folder) == metrics_without_times(tmp_path / "unbroken")
    # a half-written checkpoint is a hidden temporary file, never the checkpoint itself
    assert {path.name for path in (folder / "checkpoints").glob("*.safetensors")} == {
        "last.safetensors",
        "best.safetensors",
    }


def test_ctrl_c_during_evaluation_saves_the_epoch_that_was_trained(tmp_path, monkeypatch):
    unbroken = train(tmp_path / "unbroken")

    def press(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training_fakes.predict_logits", press)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "broken")
    assert not read_metrics(tmp_path / "broken" / "metrics.jsonl")
    steps = []
    take = Stepper.take
    monkeypatch.setattr(Stepper, "take", lambda self, batches: (steps.append(self.step), take(self, batches))[1])
    resumed = train(tmp_path / "broken", resume=True)
    assert steps[0] == 6  # the first epoch's steps are not taken again
    assert same_weights(resumed, unbroken)


def test_metrics_after_the_checkpoint_are_cut_and_written_again(tmp_path):
    def stop(line):
        if line["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_epoch=stop)
    metrics = tmp_path / "metrics.jsonl"
    with open(metrics, "a") as file:  # as if killed between the line and its checkpoint, and within a line
        file.write(json.dumps({"epoch": 3, "step": 18, "loss": 0.0}) + "\n" + '{"epoch": 4, "st')
    train(tmp_path, resume=True)
    assert [line["epoch"] for line in read_metrics(metrics)] == [1, 2, 3]
    assert read_metrics(metrics)[2]["loss"] > 0


def test_a_finished_run_resumes_to_its_result_at_once(tmp_path, monkeypatch):
    first = train(tmp_path)
    monkeypatch.setattr(Stepper, "take", None)
    assert same_weights(train(tmp_path, tiny_vit(), resume=True), first)


def test_a_run_is_not_overwritten(tmp_path):
    train(tmp_path, epochs=1)
    with pytest.raises(PocketError, match="already holds a training run"):
        train(tmp_path, epochs=1)


def test_another_configuration_is_refused_and_named(tmp_path):
    train(tmp_path, epochs=1)
    with pytest.raises(PocketError, match=r"learning_rate was 0.003, now 0.1"):
        train(tmp_path, epochs=1, learning_rate=0.1, resume=True)


def test_another_network_is_refused(tmp_path):
    train(tmp_path, epochs=1)
    with pytest.raises(PocketError, match="another network"):
        train(tmp_path, batch_norm_net(), epochs=1, resume=True)
    with pytest.raises(PocketError, match="another network"):
        load_weights(batch_norm_net(), tmp_path)


def test_a_broken_checkpoint_is_named(tmp_path):
    train(tmp_path, epochs=1)
    path = tmp_path / "checkpoints" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(PocketError, match=r"last\.safetensors is not a readable checkpoint"):
        train(tmp_path, epochs=1, resume=True)


def test_any_flipped_byte_of_a_checkpoint_is_found(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"model.w": torch.arange(6.0).reshape(2, 3), "model.half": torch.ones(3).bfloat16(), "n": torch.tensor(3)}
    save_checkpoint(path, tensors, {"step": 7, "told": [1.5, None]})
    read, state = read_checkpoint(path)
    assert state == {"step": 7, "told": [1.5, None]}
    assert all(torch.equal(read[name], value) for name, value in tensors.items())
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x04]) + data[place + 1 :])
        try:
            found, told = read_checkpoint(path)
        except PocketError:
            continue
        # a blank that became a tab, or a digit of a number without weight, says the same
        assert told == state
        assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_a_checkpoint_of_a_version_without_checksums_is_read(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "old.safetensors", metadata={"state": '{"step": 3}'})
    assert read_checkpoint(tmp_path / "old.safetensors")[1] == {"step": 3}


@pytest.mark.parametrize("line", [b"\xff\xfe\x00", b"5", b"[" * 100_000, b'{"epoch": "one"}', b'{"step": 1}'])
def test_what_is_no_line_of_metrics_ends_them(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 1, "step": 4}\n' + line + b"\n" + b'{"epoch": 2, "step": 8}\n')
    assert read_metrics(path) == [{"epoch": 1, "step": 4}]


def test_checkpoints_hold_no_pickle_and_the_best_one_loads(tmp_path):
    final = train(tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    fresh = batch = tiny_vit()
    state = load_weights(fresh, tmp_path, "best")
    assert state["score"] == max(line["val_accuracy"] for line in lines)
    load_weights(batch, tmp_path, "last")
    assert same_weights(batch, final)
    for path in (tmp_path / "checkpoints").iterdir():
        assert b"pickle" not in path.read_bytes()
        assert path.read_bytes()[8:9] == b"{"  # the header of safetensors


def test_saves_within_an_epoch_after_some_time(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    seen = []
    write = loop._Run._write
    monkeypatch.setattr(loop._Run, "_write", lambda self, path: (seen.append(self.learner.step), write(self, path))[1])
    train(tmp_path, epochs=1)
    assert seen == [1, 2, 3, 4, 5, 6, 6]
