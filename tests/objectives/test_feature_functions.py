"""Objectives on features, relations and attention, each on a case whose answer is known by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pocketvit.objectives.alignment import shrink
from pocketvit.objectives.annealing import cskd
from pocketvit.objectives.attention import attention_transfer, minilm, patch_attention, split_qkv
from pocketvit.objectives.contrastive import CRD_TEMPERATURE, Embedding, crd
from pocketvit.objectives.hints import Generation, Orthogonal, fitnets, locality, vitkd_generation, vkd
from pocketvit.objectives.probabilistic import PKT, pkt
from pocketvit.objectives.relations import SIMILARITY, correlation, manifold, rkd, similarity
from pocketvit.objectives.self_distillation import mean_teacher


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "function", [fitnets, locality, attention_transfer, lambda s, t: vitkd_generation(s, torch.ones(2, 1, 4, 4), t)]
)
def test_equal_maps_cost_nothing(function):
    assert function(noise(2, 3, 4, 4), noise(2, 3, 4, 4)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("function", [rkd, similarity, correlation, pkt])
def test_relations_of_images_ignore_rotation(function):
    """A rotation of the features changes no distance, angle or product."""
    features = noise(6, 4)
    rotation = torch.linalg.qr(noise(4, 4, seed=1)).Q
    other = function(noise(6, 9, seed=2), features).item()
    assert other > 1e-3
    assert function(features @ rotation, features).item() == pytest.approx(0, abs=max(1e-5, 1e-5 * other))


@pytest.mark.parametrize("function", [manifold, patch_attention])
def test_relations_of_places_ignore_rotation_and_scale(function):
    tokens = noise(3, 5, 4)
    rotation = torch.linalg.qr(noise(4, 4, seed=1)).Q
    assert function(3 * tokens @ rotation, tokens).item() == pytest.approx(0, abs=1e-5)
    assert function(noise(3, 5, 7, seed=2), tokens).item() > 1e-3


def test_fitnets_is_one_for_a_student_that_says_nothing():
    assert fitnets(torch.zeros(2, 3, 4, 4), 7 * noise(2, 3, 4, 4)).item() == pytest.approx(1)


def test_locality_is_one_for_right_angles_and_two_for_opposites():
    east, north = torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    east[0, 0], north[0, 1] = 5.0, 0.1
    assert locality(east, north).item() == pytest.approx(1)
    assert locality(east, -east).item() == pytest.approx(2)


def test_vkd_compares_with_the_teacher_standardized_over_the_batch():
    teacher = torch.tensor([[10.0], [14.0]])  # standardized: -1 and 1
    assert vkd(torch.tensor([[-1.0], [1.0]]), teacher).item() == pytest.approx(0, abs=1e-6)
    assert vkd(torch.tensor([[0.0], [0.0]]), teacher).item() == pytest.approx(0.5)


@pytest.mark.parametrize(("channels", "wanted"), [(4, 7), (7, 4)])
def test_an_orthogonal_projection_keeps_lengths_where_it_can(channels, wanted):
    weight = Orthogonal(channels, wanted).linear.weight
    product = weight.T @ weight if wanted > channels else weight @ weight.T
    assert torch.allclose(product, torch.eye(min(channels, wanted)), atol=1e-5)


def test_generation_hides_about_half_and_only_hidden_places_count():
    generated, hidden = Generation(3, 5)(noise(8, 3, 8, 8))
    assert generated.shape == (8, 5, 8, 8)
    assert set(hidden.unique().tolist()) == {0.0, 1.0}
    assert 0.4 < hidden.mean().item() < 0.6
    teacher = noise(8, 5, 8, 8, seed=1)
    visible_wrong = torch.where(hidden > 0, teacher, 1e3)
    assert vitkd_generation(visible_wrong, hidden, teacher).item() == 0


def test_rkd_by_hand():
    """Distances of two points over their mean are always 1; a line of three points against a bent one."""
    assert rkd(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [9.0]])).item() == pytest.approx(0, abs=1e-6)
    line, bent = torch.tensor([[0.0, 0], [1, 0], [2, 0]]), torch.tensor([[0.0, 0], [1, 0], [1, 1]])
    # distances over their mean: (1, 1, 2) / (4/3) against (1, 1, sqrt 2) / ((2 + sqrt 2) / 3)
    a, b = [3 / 4, 3 / 4, 3 / 2], [3 / (2 + 2**0.5)] * 2 + [3 * 2**0.5 / (2 + 2**0.5)]
    distance = sum(0.5 * (x - y) ** 2 for x, y in zip(a, b, strict=True)) * 2 / 9
    # angles: at an end of the line 1, in its middle -1; at an end of the bend cos 45 degrees, at its corner 0
    angle = (2 * 2 * 0.5 * (1 - 0.5**0.5) ** 2 + 2 * 0.5 * 1) / 27
    assert rkd(line, bent).item() == pytest.approx(25 * distance + 50 * angle, rel=1e-4)


def test_similarity_by_hand():
    """Gram rows (1, 0), (0, 1) for right angles, (1, 1) / sqrt 2 for equal ones."""
    right, equal = torch.eye(2), torch.ones(2, 2)
    off = (1 - 0.5**0.5) ** 2 * 2 + 0.5 * 2
    assert similarity(right, equal).item() == pytest.approx(SIMILARITY * off / 2**2)


def test_correlation_by_hand():
    """Unit vectors at right angles lie sqrt 2 apart: exp(-0.4 * 2) against 1."""
    expected = 2 * (1 - math.exp(-0.8)) ** 2 / 4
    assert correlation(torch.eye(2), torch.ones(2, 2)).item() == pytest.approx(expected, rel=1e-5)


def test_manifold_by_hand():
    """Right angles against equal vectors: a table's mean squared difference is 1/2."""
    right, equal = torch.eye(2), torch.ones(2, 2)
    assert manifold(right[None], equal[None]).item() == pytest.approx(4 * 0.5 + 0.1 * 0 + 0.2 * 0.5)  # two places
    assert manifold(right[:, None], equal[:, None]).item() == pytest.approx(4 * 0 + 0.1 * 0.5 + 0.2 * 0.5)  # images


def test_pkt_by_hand():
    """Three images: the teacher sees a and b alike and c opposite, the student all three at 120 degrees (all even)."""
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    angles = torch.tensor([0.0, 2 * math.pi / 3, 4 * math.pi / 3])
    student = torch.stack([angles.cos(), angles.sin()], 1)
    # a picks b for certain, and b picks a: ln 2 each; c's kernel is 0 for both, which says nothing: even, as all
    sure = pkt(student[:, :], teacher).item() / PKT
    rows = pkt(student, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).item() / PKT
    # kernels 1 (a, b) and 1/2 (to c): a and b pick (2/3, 1/3), c picks (1/2, 1/2)
    kl = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert rows == pytest.approx(2 * kl / 3, rel=1e-4)
    assert sure > rows


def test_pkt_of_two_images_has_nothing_to_say_and_yet_a_gradient():
    student = noise(2, 4).requires_grad_()
    pkt(student, noise(2, 4, seed=1)).backward()
    assert student.grad.abs().sum() == 0


def test_crd_by_hand():
    """Two images whose embeddings agree with their own and stand at right angles to the other's."""
    a = math.exp(1 / CRD_TEMPERATURE)
    right, other = 2 * a / (a + 1), 2 / (a + 1)  # over their mean, (a + 1) / 2
    expected = -(math.log(right / (right + 1)) + math.log(1 / (other + 1)))
    assert crd(torch.eye(2), torch.eye(2)).item() == pytest.approx(expected, rel=1e-5)
    assert crd(torch.eye(2), torch.eye(2).flip(0)).item() > expected + 5


def test_an_embedding_has_length_one():
    assert torch.allclose(Embedding(7)(noise(5, 7)).norm(dim=1), torch.ones(5))


def test_attention_transfer_looks_at_energy_only():
    left = torch.zeros(1, 2, 1, 2)
    left[..., 0] = 3.0
    assert attention_transfer(left, left.flip(3)).item() == pytest.approx(1000)
    assert attention_transfer(left, -2 * left[:, :1]).item() == pytest.approx(0, abs=1e-6)


def test_minilm_is_the_kl_of_relations():
    """One patch more alike to itself: softmax rows of a 2 x 2 relation, d = 1 a head."""
    zeros = torch.zeros(3, 1, 2, 4)
    teacher = zeros.clone()
    teacher[:, 0, 0] = 1.0  # relations (1, 0) in the first row, (0, 0) in the second
    p = math.e / (1 + math.e)
    kl = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert minilm(zeros, teacher).item() == pytest.approx(kl / 2, rel=1e-5)
    assert minilm(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_qkv_is_taken_apart_without_class_tokens():
    features = torch.arange(2 * 3 * 6.0).reshape(2, 3, 6)
    assert torch.equal(split_qkv(features, 1)[1], features[:, 1:, 2:4])


def test_cskd_goes_from_places_to_the_whole():
    """At the start each place's own answer is the target, in the end the whole's."""
    places, whole = noise(2, 3, 4), noise(2, 3, seed=1)
    assert cskd(places, places, whole, 0.0, 1.0).item() == pytest.approx(0, abs=1e-6)
    assert cskd(whole[:, :, None].expand(2, 3, 4), places, whole, 1.0, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert cskd(places, places, whole, 1.0, 1.0).item() > 0.1


def test_the_mean_teacher_ramps_up_and_gives_no_gradient_to_itself():
    student = torch.tensor([[0.0, 0.0]], requires_grad=True)
    average = torch.tensor([[math.log(3.0), 0.0]], requires_grad=True)
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    loss = mean_teacher([student], [average], 1.0, 0.1)
    assert loss.item() == pytest.approx(0.5 * kl, rel=1e-5)
    assert mean_teacher([student], [average], 1.0, 0.9).item() == pytest.approx(kl, rel=1e-5)
    loss.backward()
    assert student.grad is not None
    assert average.grad is None


def test_shrinking_averages():
    assert torch.equal(shrink(torch.arange(4.0).reshape(1, 1, 2, 2), (1, 1)), torch.tensor([[[[1.5]]]]))
