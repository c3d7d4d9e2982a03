"""Classes of unequal size: shown equally often, or weighed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from pocketvit.config import LossConfig, ViewConfig
from pocketvit.road.decide import class_weights
from pocketvit.sources import open_images
from pocketvit.tasks import task_named
from pocketvit.training import Batch
from pocketvit.training.feed import Feed, class_shares
from pocketvit.views import Views

SIZES = (300, 60, 12)


@pytest.fixture(scope="module")
def source():
    targets = np.repeat(np.arange(3), SIZES)
    images = np.random.default_rng(0).integers(0, 256, (len(targets), 8, 8), np.uint8)
    return open_images((images, targets), val_fraction=0, progress=False).train


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_balanced_sampling_shows_every_class_about_equally_often(source, mixup: float) -> None:
    feed = Feed(Views(source, ViewConfig(view_size=8, mixup=mixup)), 32, balance=True)
    shown = np.concatenate([np.concatenate(feed.plan(epoch)).reshape(-1) for epoch in range(6)])
    share = np.bincount(source.targets[shown[shown >= 0]], minlength=3) / (shown >= 0).sum()
    if mixup:  # partners come along, whatever their class
        assert share[2] > 5 * SIZES[2] / sum(SIZES)
    else:
        assert np.abs(share - 1 / 3).max() < 0.01
        counts = np.bincount(np.concatenate(feed.plan(0)).reshape(-1), minlength=len(source))
        each = [counts[source.targets == label] for label in range(3)]
        assert all(part.max() - part.min() <= 1 for part in each)  # systematic: up or down by chance, no more


def test_balanced_epochs_are_as_long_and_repeat_to_the_bit(source) -> None:
    views = Views(source, ViewConfig(view_size=8))
    one, other, plain = (Feed(views, 32, balance=balance, seed=3) for balance in (True, True, False))
    assert [len(batch) for batch in one.plan(2)] == [len(batch) for batch in plain.plan(2)]
    assert all(np.array_equal(a, b) for a, b in zip(one.plan(2), other.plan(2), strict=True))
    assert not np.array_equal(np.concatenate(one.plan(2)), np.concatenate(one.plan(3)))
    assert one.fingerprint() != plain.fingerprint()
    assert sorted(np.concatenate(plain.plan(1)).reshape(-1).tolist()) == list(range(len(source)))


def test_class_weights_are_scikit_learns_and_scale_the_cross_entropy(source) -> None:
    weights = class_weights(source, "weights")
    assert np.allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=source.targets))
    assert class_weights(source, "sampling") == ()
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    ones = torch.ones(6)
    batch = Batch(torch.empty(6, 0), targets, targets, ones, (), torch.arange(6))
    loss, _ = task_named("classification").loss(LossConfig(class_weights=weights, label_smoothing=0.0))([logits], batch)
    each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    assert torch.allclose(loss, (each * torch.tensor(weights)[targets]).mean())


def test_images_without_labels_are_shown_as_often_as_without_balance() -> None:
    shares = class_shares(np.array([0, 0, 0, 1] + [-1] * 4))
    assert np.allclose(shares, [1 / 12] * 3 + [1 / 4] + [1 / 8] * 4)
    assert np.isclose(shares.sum(), 1)
    assert np.allclose(class_shares(np.full(5, -1)), 1 / 5)
    several = class_shares(np.array([[0, 1], [0, 1], [1, 0], [-1, -1]]))
    assert np.allclose(several, [3 / 16, 3 / 16, 3 / 8, 1 / 4])
