"""Several labels an image: one binary question a label, from the teachers and from the ground truth."""

from __future__ import annotations

import math

import pytest
import torch

from pocketvit.config import LossConfig
from pocketvit.errors import PocketError
from pocketvit.labels import FullLabels, encode_topk
from pocketvit.objectives import LABEL_OBJECTIVES, OBJECTIVES, Batch, binary_cross_entropy, mld
from pocketvit.tasks import task_named

B, C = 4, 3
TASK = task_named("multilabel")
TARGETS = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [-1, -1, -1]])


def random(seed: int = 0) -> torch.Tensor:
    return torch.randn(B, C, generator=torch.Generator().manual_seed(seed))


def make_batch(targets=TARGETS, partners=None, ratio=None, soft=()) -> Batch:
    ratio = torch.ones(B) if ratio is None else ratio
    pixels = torch.zeros(B, 3, 2, 2, dtype=torch.uint8)
    partners = targets if partners is None else partners
    return Batch(pixels, targets, partners, ratio, tuple(soft), torch.arange(B), B)


def kl_of_coins(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_mld_is_the_mean_kl_of_as_many_coins():
    """Teacher 3/4 and 1/2, student 1/2 and 1/4, at temperature 1."""
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, -math.log(3)]])
    expected = (kl_of_coins(0.75, 0.5) + kl_of_coins(0.5, 0.25)) / 2
    assert mld(student, FullLabels(teacher), temperature=1).item() == pytest.approx(expected, rel=1e-5)
    scaled = mld(2 * student, FullLabels(2 * teacher), temperature=2).item()
    assert scaled == pytest.approx(4 * expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 50.0])
def test_the_gradient_is_what_the_docstring_says(temperature):
    student, teacher = random(1).double().requires_grad_(), random(2).double()
    mld(student, FullLabels(teacher), temperature=temperature).sum().backward()
    teacher = FullLabels(teacher).logits.double()
    expected = temperature * ((student / temperature).sigmoid() - (teacher / temperature).sigmoid()) / C
    assert torch.allclose(student.grad, expected, atol=1e-6)
    if temperature == 50:
        assert torch.allclose(student.grad, (student.detach() - teacher) / (4 * C), rtol=0.01)


def test_mld_sees_a_constant_that_a_softmax_forgets():
    logits = random()
    assert mld(logits, FullLabels(logits), temperature=1).abs().max() < 1e-6
    assert (mld(logits + 3, FullLabels(logits), temperature=1) > 0.1).all()


def test_extreme_logits_stay_finite():
    student = torch.full((1, 2), -200.0, requires_grad=True)
    loss = mld(student, FullLabels(torch.full((1, 2), 200.0)), temperature=1)
    loss.sum().backward()
    assert loss.item() == pytest.approx(200)
    assert torch.isfinite(student.grad).all()


def test_the_largest_logits_are_not_enough():
    wide = torch.randn(B, 10, generator=torch.Generator().manual_seed(0))
    with pytest.raises(PocketError, match="--top-k 0"):
        mld(wide, encode_topk(wide, 4), temperature=1)


def test_ground_truth_is_torchs_binary_cross_entropy_and_zero_where_unknown():
    logits = random()
    found = binary_cross_entropy(logits, make_batch())
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:3], TARGETS[:3].float(), reduction="none")
    assert torch.allclose(found[:3], expected.mean(1))
    assert found[3] == 0


def test_mixed_images_have_the_share_of_each_label():
    logits, ratio = random(), torch.tensor([0.25, 0.5, 0.75, 1.0])
    partners = TARGETS[[1, 2, 0, 0]]
    found = binary_cross_entropy(logits, make_batch(partners=partners, ratio=ratio))
    own, other = (binary_cross_entropy(logits, make_batch(targets)) for targets in (TARGETS, partners))
    assert torch.allclose(found[:3], (ratio * own + (1 - ratio) * other)[:3])
    assert found[3] == 0


def test_smoothing_draws_towards_one_half():
    logits = torch.full((B, C), 2.0)
    found = binary_cross_entropy(logits, make_batch(), smoothing=0.2)[2]  # no label is there
    expected = 0.1 * math.log(1 + math.exp(-2)) + 0.9 * math.log(1 + math.exp(2))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_teachers_and_ground_truth_keep_their_shares_and_unknown_rows_learn_from_teachers_alone():
    head, soft = random(), FullLabels(random(5))
    batch = make_batch(soft=[soft])
    loss, terms = TASK.loss(LossConfig(objective="mld", temperature=1, weight=0.75))((head,), batch)
    taught, truth = mld(head, soft, temperature=1), binary_cross_entropy(head, batch)
    share = torch.tensor([0.75, 0.75, 0.75, 1.0])
    assert torch.allclose(loss, (share * taught + 0.25 * truth).mean())
    assert set(terms) == {"teacher_0", "distillation", "cross_entropy"}


def test_without_teachers_labels_are_learned_by_binary_cross_entropy():
    head, batch = random(), make_batch()
    loss, _ = TASK.loss(LossConfig())((head,), batch)
    assert torch.allclose(loss, binary_cross_entropy(head, batch).mean())


def test_each_objective_is_for_one_kind_of_outputs():
    for names, task, other in (
        (OBJECTIVES, "classification", "multilabel"),
        (LABEL_OBJECTIVES, "multilabel", "ordinal"),
    ):
        for name in names:
            assert task_named(task).objective(name).name == name
            with pytest.raises(PocketError, match=f"--objective {name} cannot be used"):
                task_named(other).objective(name)


def test_images_that_lack_a_label_count_on_neither_side_of_a_share():
    targets = torch.tensor([[1, 0, 1], [1, -1, 0], [-1, -1, -1]])
    logits = torch.where(targets == 1, 3.0, -3.0)
    batch = Batch(torch.empty(3, 0), targets, targets, torch.ones(3), (), torch.arange(3))
    right, count = task_named("multilabel").right(logits, batch)
    assert (float(right), int(count)) == (1.0, 1)
