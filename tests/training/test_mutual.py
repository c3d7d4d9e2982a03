"""Deep mutual learning: each network learns what the other says, and one checkpoint brings both back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_resume import metrics_without_times, stop_after
from torch import nn
from training_fakes import CLASSES, INPUT, MIXED, SIDE, TASK, ArraySource, config, same_weights, tiny_vit

from pocketvit.config import LossConfig
from pocketvit.models import create_student
from pocketvit.models.peers import Peers
from pocketvit.objectives.batch import Batch
from pocketvit.objectives.mutual import MUTUAL, mutual_loss
from pocketvit.training import Feed, fit
from pocketvit.training.optim import build_optimizer, matrix_parts
from pocketvit.views import Views

LOSS = dataclasses.replace(LossConfig(), **MUTUAL)


def pair(**changes) -> Peers:
    """Two networks that differ in their weights alone."""
    first, second = tiny_vit(**changes), tiny_vit(**changes)
    with torch.no_grad():
        for weight in second.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return Peers(first, second)


def learn(folder: Path, peers: Peers, *, resume: bool = False, **changes) -> nn.Module:
    settings = config(**changes)
    feed = Feed(Views(ArraySource(), MIXED, seed=0), settings.batch_size, seed=0)
    loss = mutual_loss(TASK.loss(LOSS))
    return fit(peers, feed, loss, settings, folder, task=TASK, evaluate=None, input=INPUT, resume=resume)


def batch(targets) -> Batch:
    targets = torch.tensor(targets)
    pixels = torch.zeros(len(targets), 3, SIDE, SIDE, dtype=torch.uint8)
    return Batch(pixels, targets, targets, torch.ones(len(targets)), (), torch.arange(len(targets)))


def test_the_loss_is_the_papers_halved_and_no_gradient_goes_through_the_other():
    generator = torch.Generator().manual_seed(0)
    heads = [torch.randn(4, CLASSES, generator=generator, requires_grad=True) for _ in range(2)]
    seen = batch([0, 2, 1, 1])
    loss, terms = mutual_loss(TASK.loss(LOSS))(heads, seen)
    gradients = torch.autograd.grad(loss, heads)
    for mine, other, found in zip(heads, heads[::-1], gradients, strict=True):
        kl = F.kl_div(mine.log_softmax(1), other.detach().log_softmax(1), reduction="batchmean", log_target=True)
        expected = 0.5 * (F.cross_entropy(mine, seen.targets) + kl)
        torch.testing.assert_close(found, torch.autograd.grad(expected, mine)[0])
    assert {"first_cross_entropy", "second_distillation"} <= set(terms)


def test_images_without_labels_are_learned_from_the_other_alone():
    heads = [torch.randn(2, CLASSES, requires_grad=True) for _ in range(2)]
    loss, _ = mutual_loss(TASK.loss(LOSS))(heads, batch([-1, -1]))
    assert torch.autograd.grad(loss, heads[0])[0].any()
    loss, _ = mutual_loss(TASK.loss(LOSS))([heads[0], heads[0]], batch([-1, -1]))
    assert loss.abs() < 1e-6  # they agree, and nobody else says anything


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon", "ema": 0.9}, {"accumulate": 2, "batch_size": 7}])
def test_interrupted_and_resumed_both_networks_are_those_of_an_unbroken_training(tmp_path, monkeypatch, changes):
    unbroken = learn(tmp_path / "unbroken", pair(), **changes)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            learn(tmp_path / "broken", pair(), **changes)
    resumed = learn(tmp_path / "broken", pair(), resume=True, **changes)
    assert same_weights(resumed, unbroken)
    assert not same_weights(resumed.first, resumed.second)
    assert metrics_without_times(tmp_path / "broken") == metrics_without_times(tmp_path / "unbroken")


def test_a_network_whose_peer_says_nothing_new_learns_as_it_would_alone(tmp_path):
    """Two equal networks without dropout stay equal: what each says of a batch is what the other says."""
    twins = Peers(tiny_vit(drop=0.0), tiny_vit(drop=0.0))
    learned = learn(tmp_path, twins, epochs=1, clip=0.0)
    assert same_weights(learned.first, learned.second)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_each_network_is_optimized_as_it_would_be_alone(optimizer):
    make = lambda: create_student("pocket_xxs", num_classes=CLASSES, image_size=32, stem="conv")  # noqa: E731
    peers = Peers(make(), make())
    assert sorted(matrix_parts(peers).values()) == sorted(2 * list(matrix_parts(peers.first).values()))
    settings = config(optimizer=optimizer)
    one, both = (build_optimizer(model, settings) for model in (peers.first, peers))
    kinds = lambda built: sorted(  # noqa: E731
        (group["initial_lr"], group["weight_decay"], sum(p.numel() for p in group["params"]))
        for group in built.param_groups
    )
    assert kinds(both) == [(rate, decay, 2 * count) for rate, decay, count in kinds(one)]
