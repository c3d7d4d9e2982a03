"""Other things that give batches or learn from them use the same loop; state composes of named parts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_resume import metrics_without_times
from torch import nn
from training_fakes import INPUT, PLAIN, TASK, ArraySource, config, same_weights, tiny_vit, train

from pocketvit.config import LossConfig, TrainConfig
from pocketvit.errors import PocketError
from pocketvit.training import Batches, Feed, Learner, Parts, Stepper, WeightAverage, fit, read_metrics, run
from pocketvit.training.checkpoint import load_weights
from pocketvit.training.schedule import Schedule
from pocketvit.views import Views


class Noise:
    """Batches out of nothing: vectors keyed by their number."""

    batch_size, steps_per_epoch, rank, world, device = 4, 5, 0, 1, torch.device("cpu")

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[torch.Tensor]:
        for step in range(start_step, self.steps_per_epoch):
            yield torch.randn(4, 3, generator=torch.Generator().manual_seed(100 * epoch + step))

    def fingerprint(self) -> str:
        return "noise"

    def close(self) -> None:
        pass


class Duel:
    """A generator that wants a student to be wrong, and the student: two networks, two optimizers, one state."""

    def __init__(self, steps: int = 1) -> None:
        torch.manual_seed(0)
        self.model, self.generator, self.teacher = nn.Linear(3, 2), nn.Linear(3, 3), nn.Linear(3, 2)
        self.student_optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.generator_optimizer = torch.optim.AdamW(self.generator.parameters(), lr=0.01)
        self.parts = Parts(
            {
                "model": self.model,
                "generator": self.generator,
                "optimizer": self.student_optimizer,
                "generator_optimizer": self.generator_optimizer,
            }
        )
        self.step, self.schedule = 0, Schedule(TrainConfig(), steps)
        self.first_bad = torch.tensor(-1)
        self.closed = False

    smaller = False

    @property
    def evaluated(self) -> nn.Module:
        return self.model

    def take(self, batches):
        (noise,) = batches
        for optimizer, sign in ((self.generator_optimizer, -1), (self.student_optimizer, 1)):
            images = self.generator(noise)
            loss = (self.model(images) - self.teacher(images)).square().mean()
            for other in (self.generator_optimizer, self.student_optimizer):
                other.zero_grad()
            (sign * loss).backward()
            optimizer.step()
        self.step += 1
        return {"loss": loss.detach() * len(noise), "images": torch.tensor(len(noise))}

    def tensors(self):
        return self.parts.tensors()

    def state(self):
        return {"step": self.step, "schedule": self.schedule.state()}

    def restore(self, tensors, state):
        self.parts.restore(tensors)
        self.step = state["step"]
        self.schedule.restore(state["schedule"])

    def close(self):
        self.closed = True


def duel(folder: Path, *, stop: int | None = None, resume: bool = False) -> Duel:
    learner: Learner = Duel()
    batches: Batches = Noise()
    if stop is not None:
        take = learner.take

        def stopping(group):
            if learner.step == stop:
                raise KeyboardInterrupt
            return take(group)

        learner.take = stopping  # type: ignore[method-assign]
    run(learner, batches, TrainConfig(epochs=3), folder, resume=resume)
    assert isinstance(learner, Duel)
    return learner


def test_two_networks_with_two_optimizers_resume_to_the_bit(tmp_path):
    unbroken = duel(tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        duel(tmp_path / "broken", stop=8)
    resumed = duel(tmp_path / "broken", resume=True)
    for name, value in unbroken.tensors().items():
        assert torch.equal(resumed.tensors()[name], value), name
    assert metrics_without_times(tmp_path / "broken") == metrics_without_times(tmp_path / "unbroken")
    assert resumed.closed
    line = read_metrics(tmp_path / "unbroken" / "metrics.jsonl")[-1]
    assert (line["epoch"], line["step"]) == (3, 15)
    assert "train_accuracy" not in line
    student = nn.Linear(3, 2)
    load_weights(student, tmp_path / "unbroken", "last")
    assert same_weights(student, unbroken.model)


def test_a_part_that_a_run_does_not_have_is_noticed():
    whole = Duel().parts
    with pytest.raises(KeyError, match="generator"):
        Parts({"model": nn.Linear(3, 2)}).restore(whole.tensors())


def tied_vit() -> nn.Module:
    """Blocks that share their layers, as weight multiplexing makes them, and one that is narrower, as pruning does."""
    model = tiny_vit()
    model.blocks[1].attn = model.blocks[0].attn
    model.blocks[1].mlp.fc1 = nn.Linear(32, 40)
    model.blocks[1].mlp.fc2 = nn.Linear(40, 32)
    return model


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_network_is_trained_as_it_is_and_shared_weights_stay_shared(tmp_path, monkeypatch, optimizer):
    model = tied_vit()
    trained = train(tmp_path / "unbroken", model, optimizer=optimizer)
    assert trained is model
    assert trained.blocks[1].attn is trained.blocks[0].attn
    assert trained.blocks[1].mlp.fc1.out_features == 40
    with monkeypatch.context() as patch:
        take = Stepper.take

        def stopping(self, batches):
            if self.step == 7:
                raise KeyboardInterrupt
            return take(self, batches)

        patch.setattr(Stepper, "take", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "broken", tied_vit(), optimizer=optimizer)
    assert same_weights(train(tmp_path / "broken", tied_vit(), optimizer=optimizer, resume=True), trained)


def test_a_trained_network_goes_on_from_its_weights(tmp_path):
    model = train(tmp_path / "first", epochs=2)
    before = copy.deepcopy(model)
    train(tmp_path / "second", model, epochs=1, learning_rate=0.0, ema=0.0)
    assert same_weights(model, before)


def test_frozen_weights_stay_and_do_not_follow_the_decay(tmp_path):
    model = tiny_vit().requires_grad_(False)
    model.head.requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    train(tmp_path, model, epochs=1, ema=0.0, optimizer="muon", weight_decay=0.5)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_shared_weights_are_averaged_once():
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.BatchNorm1d(2), layer)
    average = WeightAverage(model, 0.5)
    assert average.module[0] is average.module[2]
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(1.0)
        model[1].running_mean.add_(1.0)
        model[1].num_batches_tracked.add_(3)
    average.update(1000)
    torch.testing.assert_close(average.module[0].weight, start + 0.5)
    torch.testing.assert_close(average.module[1].running_mean, torch.full((2,), 0.5))
    assert average.module[1].num_batches_tracked == 3


def test_a_gradient_that_is_not_finite_is_not_saved_though_the_loss_was(tmp_path):
    """The last step of an epoch, whose weights no later loss would have looked at."""

    class Explodes(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("nan")

    calls = []

    def loss(heads, batch):
        calls.append(1)
        heads = tuple(Explodes.apply(head) for head in heads) if len(calls) == 6 else heads
        return TASK.loss(LossConfig())(heads, batch)

    for clip in (1.0, 0.0):
        calls.clear()
        feed = Feed(Views(ArraySource(), PLAIN), 8)
        folder = tmp_path / str(clip)
        with pytest.raises(PocketError, match="epoch 1, step 6 of 6"):
            fit(tiny_vit(), feed, loss, config(clip=clip), folder, task=TASK, evaluate=None, input=INPUT)
        assert not (folder / "checkpoints" / "last.safetensors").exists()
