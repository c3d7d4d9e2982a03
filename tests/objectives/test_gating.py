"""How much each teacher counts for an image, and that a teacher which is wrong and confident need not be followed."""

from __future__ import annotations

import pytest
import torch

from pocketvit.errors import PocketError
from pocketvit.labels import FullLabels, encode_topk
from pocketvit.objectives import Batch, Gate, fit_gate, teacher_weights
from pocketvit.objectives.gating import agreement

B, C = 6, 5
KINDS = ("fixed", "confidence", "agreement", "per_class", "learned")


def make_batch(targets=None, partners=None, ratio=None, count=B) -> Batch:
    targets = torch.arange(count) % C if targets is None else torch.as_tensor(targets)
    partners = targets if partners is None else torch.as_tensor(partners)
    ratio = torch.ones(count) if ratio is None else torch.as_tensor(ratio)
    pixels = torch.zeros(count, 3, 2, 2, dtype=torch.uint8)
    return Batch(pixels, targets, partners, ratio, (), torch.arange(count), count)


def teachers(count: int, rows: int = B) -> list[FullLabels]:
    return [FullLabels(torch.randn(rows, C, generator=torch.Generator().manual_seed(s))) for s in range(count)]


def says(classes, sure: float, num_classes: int = C) -> FullLabels:
    """A teacher that gives these classes the probability ``sure`` and the others even shares of the rest."""
    classes = torch.as_tensor(classes)
    rest = torch.full((len(classes), num_classes), (1 - sure) / (num_classes - 1))
    return FullLabels(rest.scatter(1, classes[:, None], sure).log())


def any_gate(count: int) -> Gate:
    torch.manual_seed(0)
    return Gate(torch.rand(count, C), torch.randn(count, 6))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_weights_of_an_image_sum_to_one(kind, count):
    weights = teacher_weights(kind, teachers(count), make_batch(), any_gate(count))
    assert weights.shape == (B, count)
    assert weights.dtype == torch.float32
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(1), torch.ones(B))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_follow_the_teachers_order(kind):
    soft, gate = teachers(3), any_gate(3)
    turned = Gate(gate.by_class.flip(0), gate.coefficients.flip(0))
    straight = teacher_weights(kind, soft, make_batch(), gate)
    assert torch.allclose(straight.flip(1), teacher_weights(kind, soft[::-1], make_batch(), turned), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_labels_serve_every_kind(kind):
    """With all but the smallest two logits stored, and these nearly equal, little is lost."""
    logits = [labels.logits.clone() for labels in teachers(3)]
    for one in logits:
        low = one.topk(2, dim=1, largest=False).indices
        one.scatter_(1, low, -6.0)
    full, top = [FullLabels(one) for one in logits], [encode_topk(one, 3) for one in logits]
    gate = any_gate(3)
    both = [full[0], top[1], full[2]]  # each teacher has its own form
    whole, *parts = (teacher_weights(kind, soft, make_batch(), gate) for soft in (full, top, both))
    assert all(torch.allclose(whole, part, atol=2e-3) for part in parts)


def test_fixed_weights_are_equal():
    assert torch.allclose(teacher_weights("fixed", teachers(4), make_batch()), torch.full((B, 4), 0.25))


@pytest.mark.parametrize("stored", [lambda z: FullLabels(z), lambda z: encode_topk(z, 2)])
def test_confidence_weighs_by_the_probability_of_the_teachers_class(stored):
    probabilities = torch.tensor([[0.6, 0.1, 0.1, 0.1, 0.1], [0.3, 0.2, 0.2, 0.2, 0.1]])
    soft = [stored(row.log().expand(B, C)) for row in probabilities]
    weights = teacher_weights("confidence", soft, make_batch())
    assert torch.allclose(weights, torch.tensor([2 / 3, 1 / 3]).expand(B, 2), atol=1e-3)


def test_agreement_is_the_cosine_with_the_mean_of_the_others():
    sure = torch.eye(3)
    one, two, three = sure[[0]], sure[[0]], sure[[1]]
    # the first two: against the mean of classes 0 and 1, 45 degrees; the third: against class 0, 90 degrees
    assert agreement([one, two, three])[0].tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 0.0])


def test_agreement_turns_down_the_confident_one_that_two_others_contradict():
    soft = [says([0] * B, 0.5), says([0] * B, 0.5), says([1] * B, 0.99)]
    weights = teacher_weights("agreement", soft, make_batch())
    assert (weights[:, 2] < 0.2).all()
    assert teacher_weights("confidence", soft, make_batch())[0].argmax() == 2


def test_two_teachers_count_equally_where_they_agree_and_by_confidence_where_not():
    same = teacher_weights("agreement", [says([0], 0.9), says([0], 0.9)], make_batch([0], count=1))
    assert same[0].tolist() == pytest.approx([0.5, 0.5])
    eye = torch.eye(2)
    apart = [FullLabels((40 * eye)[[0]]), FullLabels(torch.tensor([[0.0, 0.0]]))]  # certain, and with no idea
    cosine = 0.5**0.5
    expected = (cosine + (1 - cosine)) / (cosine + (1 - cosine) + cosine + (1 - cosine) * 0.5)
    weights = teacher_weights("agreement", apart, make_batch([0], count=1))
    assert weights[0, 0].item() == pytest.approx(expected, abs=1e-5)


def test_teachers_that_all_contradict_each_other_count_equally():
    soft = [FullLabels(200 * torch.eye(C)[[number] * B]) for number in range(3)]
    assert torch.allclose(teacher_weights("agreement", soft, make_batch()), torch.full((B, 3), 1 / 3))


def test_per_class_weights_follow_the_accuracy_on_the_images_class():
    gate = Gate(torch.tensor([[0.9, 0.2, 0.5, 0.5, 0.0], [0.1, 0.6, 0.5, 0.5, 0.0]]))
    soft = [FullLabels(torch.eye(C)[[3] * B]), FullLabels(torch.eye(C)[[1] * B])]
    batch = make_batch(targets=[0, 1, 2, 4, -1, 0], partners=[0, 1, 2, 4, -1, 1], ratio=[1, 1, 1, 1, 1, 0.5])
    weights = teacher_weights("per_class", soft, batch, gate)
    expected = [0.9, 0.25, 0.5, 0.5, 0.5 / 1.1, 0.55 / 0.9]  # unknown: by the classes the teachers see, 3 and 1
    assert weights[:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    assert weights.sum(1).tolist() == pytest.approx([1.0] * B)


@pytest.mark.parametrize("kind", ["per_class", "learned"])
def test_weights_from_validation_without_a_validation_split_say_what_to_do(kind):
    with pytest.raises(PocketError, match="--teacher-weights"):
        teacher_weights(kind, teachers(2), make_batch())


TRUTH = torch.arange(400) % 4


def confident_but_wrong() -> list[FullLabels]:
    """A is right and modest, but calls class 3 a 2; B is right and certain, but calls class 0 a 1, as certain."""
    a = torch.where(TRUTH == 3, 2, TRUTH)
    b = torch.where(TRUTH == 0, 1, TRUTH)
    return [says(a, 0.6, 4), says(b, 0.97, 4)]


def test_confidence_follows_the_teacher_that_is_wrong_and_confident_and_the_learned_gate_does_not():
    soft, batch = confident_but_wrong(), make_batch(TRUTH, count=len(TRUTH))
    fooled = TRUTH == 0
    assert (teacher_weights("confidence", soft, batch)[fooled, 1] > 0.6).all()
    learned = teacher_weights("learned", soft, batch, fit_gate(soft, TRUTH))
    assert (learned[fooled, 1] < 0.1).all()
    assert (learned[TRUTH == 3, 1] > 0.9).all()  # and yet B is followed where A is the one that is wrong
    blind = make_batch(torch.full_like(TRUTH, -1), count=len(TRUTH))
    assert torch.equal(learned, teacher_weights("learned", soft, blind, fit_gate(soft, TRUTH)))  # needs no labels


def test_the_gate_predicts_better_than_equal_weights_on_images_it_was_not_fitted_on():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, C, (600,), generator=generator)
    skilled = 2.0 * torch.nn.functional.one_hot(truth, C) + torch.randn(600, C, generator=generator)
    guessing = 3.0 * torch.randn(600, C, generator=generator)  # confident
    gate = fit_gate([FullLabels(skilled[:200]), FullLabels(guessing[:200])], truth[:200])
    soft = [FullLabels(skilled[200:]), FullLabels(guessing[200:])]

    def nll(kind):
        weights = teacher_weights(kind, soft, make_batch(truth[200:], count=400), gate)
        mixed = sum(weights[:, [t]] * labels.logits.softmax(1) for t, labels in enumerate(soft))
        return -mixed[torch.arange(400), truth[200:]].log().mean()

    assert nll("learned") < nll("fixed") - 0.2
    assert nll("learned") < nll("confidence")


def test_the_fit_is_deterministic_and_leaves_out_unknown_images():
    soft, targets = teachers(2, 60), torch.arange(60) % C
    some = torch.where(torch.arange(60) < 40, targets, -1)
    gates = [fit_gate(soft, some), fit_gate(soft, some)]
    rows = [labels.index(torch.arange(40)) for labels in soft]
    gates.append(fit_gate(rows, targets[:40]))
    for gate in gates[1:]:
        assert torch.equal(gate.coefficients, gates[0].coefficients)
        assert torch.equal(gate.by_class, gates[0].by_class)


def test_teachers_that_say_the_same_count_equally():
    one = says(TRUTH, 0.8, 4)
    weights = teacher_weights("learned", [one, one], make_batch(TRUTH, count=400), fit_gate([one, one], TRUTH))
    assert torch.allclose(weights, torch.full((400, 2), 0.5), atol=1e-6)
