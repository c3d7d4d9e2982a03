"""Each distillation token learns its own teacher."""

from __future__ import annotations

import math

import pytest
import torch

from pocketvit.config import LossConfig
from pocketvit.errors import PocketError
from pocketvit.labels import FullLabels
from pocketvit.objectives import Batch, hard, kl, token_losses
from pocketvit.tasks import task_named

# Two teachers that say classes 0 and 1, and a head that gives class 0 the probability 3/4.
ZERO, ONE = FullLabels(torch.tensor([[5.0, 0.0]])), FullLabels(torch.tensor([[0.0, 5.0]]))
HEAD = torch.tensor([[0.75, 0.25]]).log()
EVEN = torch.tensor([[0.5, 0.5]])


def test_a_token_learns_its_teacher_and_no_other():
    """DeiT's hard distillation: -log of the probability of the teacher's class."""
    losses = token_losses([HEAD, HEAD], [ZERO, ONE], EVEN, hard, 1.0)
    assert [loss.item() for loss in losses] == pytest.approx([-math.log(0.75), -math.log(0.25)])


def test_weights_play_no_part_where_each_token_has_its_teacher():
    one_sided = torch.tensor([[1.0, 0.0]])
    losses = [token_losses([HEAD, HEAD], [ZERO, ONE], weights, hard, 1.0) for weights in (EVEN, one_sided)]
    assert losses[0] == losses[1]
    assert token_losses([HEAD], [ONE], torch.zeros(1, 1), hard, 1.0)[0].item() == pytest.approx(-math.log(0.25))


def test_a_single_token_of_two_teachers_learns_their_weighted_mix():
    (loss,) = token_losses([HEAD], [ZERO, ONE], torch.tensor([[0.9, 0.1]]), hard, 1.0)
    assert loss.item() == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))


def test_without_tokens_there_is_nothing_to_learn():
    assert token_losses([], [ZERO, ONE], EVEN, hard, 1.0) == []


def test_tokens_and_class_head_count_equally_in_the_loss():
    batch = Batch(
        torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.tensor([0]), torch.tensor([0]), torch.ones(1), (ZERO, ONE),
        torch.arange(1), 1,
    )  # fmt: skip
    heads = (HEAD, HEAD.flip(1), HEAD)
    config = LossConfig(objective="kl", temperature=1, weight=1)
    loss, _ = task_named("classification").loss(config)(heads, batch)
    mix = (kl(heads[0], ZERO, temperature=1) + kl(heads[0], ONE, temperature=1)) / 2
    own = [kl(heads[1], ZERO, temperature=1), kl(heads[2], ONE, temperature=1)]
    assert loss.item() == pytest.approx((mix + sum(own)).item() / 3)


def test_tokens_that_fit_no_teacher_are_refused():
    with pytest.raises(PocketError, match="2 distillation tokens cannot learn from 3 teachers"):
        token_losses([HEAD, HEAD], [ZERO, ONE, ONE], EVEN, kl, 1.0)
