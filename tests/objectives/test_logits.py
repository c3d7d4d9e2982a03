"""Each loss against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pocketvit.errors import PocketError
from pocketvit.labels import FullLabels, encode_topk
from pocketvit.objectives import OBJECTIVES, dist, dkd, hard, kl, zscore

LN2 = math.log(2)


def logits(*rows: tuple[float, ...]) -> torch.Tensor:
    """Logits whose softmax is the given probabilities."""
    return torch.tensor(rows).log()


TEACHER = logits((1 / 2, 1 / 4, 1 / 4))
STUDENT = logits((1 / 4, 1 / 4, 1 / 2))


def test_kl_is_the_sum_of_p_log_p_over_q():
    # 1/2 ln 2 + 0 + 1/4 ln 1/2
    assert kl(STUDENT, FullLabels(TEACHER), temperature=1).tolist() == pytest.approx([LN2 / 4])


def test_kl_divides_logits_by_the_temperature_and_multiplies_the_loss_by_its_square():
    loss = kl(3 * STUDENT, FullLabels(3 * TEACHER), temperature=3)
    assert loss.tolist() == pytest.approx([9 * LN2 / 4])


def test_kl_ignores_a_constant_added_to_all_logits():
    loss = kl(STUDENT + 5, FullLabels(TEACHER - 7), temperature=1)
    assert loss.tolist() == pytest.approx([LN2 / 4], abs=1e-6)


def test_kl_from_top_k_at_temperature_one_counts_the_rest_as_one_class():
    teacher = logits((1 / 2, 1 / 4, 1 / 8, 1 / 8))
    student = logits((1 / 4, 1 / 4, 3 / 8, 1 / 8))
    # (1/2, 1/4, 1/4) against (1/4, 1/4, 1/2); all four classes would give 1/2 ln 2 - 1/8 ln 3
    stored = encode_topk(teacher, 2)
    assert kl(student, stored, temperature=1).tolist() == pytest.approx([LN2 / 4], abs=1e-3)
    full = kl(student, FullLabels(teacher), temperature=1)
    assert full.tolist() == pytest.approx([LN2 / 2 - math.log(3) / 8])


def test_kl_from_top_k_finds_the_classes_in_any_order():
    teacher = logits((1 / 8, 1 / 4, 1 / 8, 1 / 2))
    student = logits((3 / 8, 1 / 4, 1 / 8, 1 / 4))
    assert kl(student, encode_topk(teacher, 2), temperature=1).tolist() == pytest.approx([LN2 / 4], abs=1e-3)


def test_hard_is_the_cross_entropy_with_the_teachers_class_from_all_logits_and_from_top_k():
    student = logits((1 / 8, 1 / 8, 1 / 4, 1 / 2))
    teacher = torch.tensor([[0.0, 1.0, 5.0, 2.0]])
    assert hard(student, FullLabels(teacher), temperature=4).tolist() == pytest.approx([2 * LN2])
    assert hard(student, encode_topk(teacher, 2), temperature=4).tolist() == pytest.approx([2 * LN2])


def test_zscore_compares_standardized_logits():
    # both sides have standard deviations (C - 1) 1 and 10: z = (1, 0, -1) and (0, 1, -1), equal normalizers,
    # so KL = p_0 - p_1 with p = softmax(1, 0, -1)
    teacher, student = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[10.0, 20.0, 0.0]])
    expected = (math.e - 1) / (math.e + 1 + 1 / math.e)
    assert zscore(student, FullLabels(teacher), temperature=1).tolist() == pytest.approx([expected], rel=1e-5)


def test_zscore_takes_a_base_temperature():
    teacher, student = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[10.0, 20.0, 0.0]])
    root = math.sqrt(math.e)
    expected = 4 * 0.5 * (root - 1) / (root + 1 + 1 / root)
    assert zscore(student, FullLabels(teacher), temperature=2).tolist() == pytest.approx([expected], rel=1e-5)


def test_zscore_does_not_care_for_the_students_scale_and_shift():
    student, teacher = torch.randn(4, 7), FullLabels(torch.randn(4, 7))
    a, b = (zscore(x, teacher, temperature=2) for x in (student, 30 * student - 4))
    assert torch.allclose(a, b, atol=1e-5)


def test_zscore_has_a_finite_gradient_for_a_head_that_starts_at_zero():
    student = torch.zeros(2, 5, requires_grad=True)
    zscore(student, FullLabels(torch.randn(2, 5)), temperature=2).sum().backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().sum() > 0


def test_zscore_refuses_two_classes_where_only_the_sign_would_be_left():
    with pytest.raises(PocketError, match="--objective kl"):
        zscore(torch.randn(2, 2), FullLabels(torch.randn(2, 2)), temperature=2)


def test_dkd_weighs_the_target_and_the_other_classes_apart():
    # target against the rest: (1/2, 1/2) and (1/4, 3/4); the others: (1/2, 1/2) and (1/3, 2/3)
    tckd = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    nckd = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    loss = dkd(STUDENT, FullLabels(TEACHER), temperature=1)
    assert loss.tolist() == pytest.approx([tckd + 8 * nckd], rel=1e-5)
    assert dkd(2 * STUDENT, FullLabels(2 * TEACHER), temperature=2).tolist() == pytest.approx([4 * (tckd + 8 * nckd)])
    # and the two parts add up to the KL as the paper says, with beta = 1 - p_target
    assert tckd + 0.5 * nckd == pytest.approx(LN2 / 4)


def test_dkd_takes_the_teachers_class_as_the_target_wherever_it_stands():
    order = [2, 0, 1]
    a = dkd(STUDENT, FullLabels(TEACHER), temperature=1)
    b = dkd(STUDENT[:, order], FullLabels(TEACHER[:, order]), temperature=1)
    assert torch.allclose(a, b)


def test_dist_is_one_minus_the_correlation_within_samples_and_within_classes():
    teacher = FullLabels(logits((0.8, 0.2), (0.4, 0.6)))
    # rows: against (-1), with (+1); columns: with (+1)
    assert dist(logits((0.3, 0.7), (0.1, 0.9)), teacher, temperature=1).tolist() == pytest.approx([2, 0], abs=1e-5)
    # rows as before; columns: against (-1), which adds 2 to each sample
    assert dist(logits((0.1, 0.9), (0.3, 0.7)), teacher, temperature=1).tolist() == pytest.approx([4, 2], abs=1e-5)


def test_dist_carries_the_square_of_the_temperature():
    teacher = FullLabels(2 * logits((0.8, 0.2), (0.4, 0.6)))
    loss = dist(2 * logits((0.3, 0.7), (0.1, 0.9)), teacher, temperature=2)
    assert loss.tolist() == pytest.approx([8, 0], abs=1e-4)


@pytest.mark.parametrize("name", ["kl", "zscore", "dkd", "dist"])
def test_a_student_that_equals_its_teacher_has_no_loss(name):
    same = torch.randn(6, 9)
    loss = OBJECTIVES[name].function(same, FullLabels(same), temperature=2)
    assert torch.allclose(loss, torch.zeros(6), atol=1e-5)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_a_step_down_the_gradient_lowers_the_loss(name):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(6, 9, generator=generator, requires_grad=True)
    teacher = FullLabels(3 * torch.randn(6, 9, generator=generator))
    before = OBJECTIVES[name].function(student, teacher, temperature=2).mean()
    before.backward()
    after = OBJECTIVES[name].function(student - 0.1 * student.grad, teacher, temperature=2).mean()
    assert after < before


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_what_an_objective_says_it_needs_is_what_it_needs(name, temperature):
    student, stored = torch.randn(3, 9), encode_topk(torch.randn(3, 9), 4)
    objective = OBJECTIVES[name]
    if objective.needs_at(temperature) == "topk":
        assert torch.isfinite(objective.function(student, stored, temperature=temperature)).all()
    else:
        with pytest.raises(PocketError, match="all 9 classes"):
            objective.function(student, stored, temperature=temperature)


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_any_number_of_rows_has_as_many_losses(name, rows):
    """Also none, and rows that are boxes rather than images."""
    student = torch.randn(rows, 9, requires_grad=True)
    loss = OBJECTIVES[name].function(student, FullLabels(torch.randn(rows, 9)), temperature=2)
    assert loss.shape == (rows,)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_logits_in_half_precision_are_compared_in_float32(name, half):
    """A training loop under autocast hands them over; a KL in bfloat16 has two digits."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(8, 100, generator=generator).to(half)
    teacher = FullLabels((4 * torch.randn(8, 100, generator=generator)).to(half))
    loss = OBJECTIVES[name].function(student, teacher, temperature=2)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, OBJECTIVES[name].function(student.float(), teacher, temperature=2))
