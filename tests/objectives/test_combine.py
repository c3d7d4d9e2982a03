"""Teachers weighed, heads averaged, ground truth mixed in."""

from __future__ import annotations

import pytest
import torch

from pocketvit.config import LossConfig
from pocketvit.errors import PocketError
from pocketvit.labels import FullLabels, encode_topk
from pocketvit.objectives import OBJECTIVES, Batch, cross_entropy, kl, needs, temperature_at
from pocketvit.tasks import task_named

B, C = 6, 5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_batch(targets=None, partners=None, ratio=None, soft=()) -> Batch:
    targets = torch.arange(B) % C if targets is None else torch.as_tensor(targets)
    partners = targets if partners is None else torch.as_tensor(partners)
    ratio = torch.ones(B) if ratio is None else torch.as_tensor(ratio)
    pixels = torch.zeros(B, 3, 2, 2, dtype=torch.uint8)
    return Batch(pixels, targets, partners, ratio, tuple(soft), torch.arange(B), B)


def loss_of(config, heads, batch, **options):
    """What `training.fit` would minimize."""
    return task_named("classification").loss(config, **options)(heads, batch)


def teachers(count: int) -> list[FullLabels]:
    return [FullLabels(random(B, C, seed=10 + number)) for number in range(count)]


def test_mixed_cross_entropy_is_the_share_of_each_class():
    logits, partners, ratio = random(B, C), torch.tensor([4, 3, 2, 1, 0, 0]), torch.linspace(0.2, 0.9, B)
    batch = make_batch(partners=partners, ratio=ratio)
    own = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    other = torch.nn.functional.cross_entropy(logits, partners, reduction="none")
    assert torch.allclose(cross_entropy(logits, batch), ratio * own + (1 - ratio) * other)


def test_label_smoothing_is_torchs():
    logits, batch = random(B, C), make_batch()
    expected = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none", label_smoothing=0.2)
    assert torch.allclose(cross_entropy(logits, batch, 0.2), expected)


def test_without_teachers_every_head_learns_the_ground_truth():
    heads, batch = (random(B, C), random(B, C, seed=1)), make_batch()
    loss, terms = loss_of(LossConfig(), heads, batch)
    expected = sum(cross_entropy(head, batch).mean() for head in heads) / 2
    assert torch.allclose(loss, expected)
    assert set(terms) == {"cross_entropy"}


def test_the_loss_is_the_weighted_sum_of_teachers_and_ground_truth():
    head, soft = random(B, C), teachers(1)
    batch = make_batch(soft=soft)
    loss, terms = loss_of(LossConfig(objective="kl", temperature=2, weight=0.75), (head,), batch)
    distillation = kl(head, soft[0], temperature=2).mean()
    assert torch.allclose(loss, 0.75 * distillation + 0.25 * cross_entropy(head, batch).mean())
    assert set(terms) == {"distillation", "teacher_0", "cross_entropy"}


def test_the_class_head_learns_the_mix_and_each_token_its_own_teacher():
    heads, soft = tuple(random(B, C, seed=s) for s in range(3)), teachers(2)
    config = LossConfig(objective="kl", temperature=1, weight=1)
    loss, terms = loss_of(config, heads, make_batch(soft=soft))
    mix = (kl(heads[0], soft[0], temperature=1) + kl(heads[0], soft[1], temperature=1)) / 2
    own = [kl(heads[t + 1], soft[t], temperature=1) for t in range(2)]
    assert torch.allclose(loss, torch.stack([mix, *own]).mean())
    assert "cross_entropy" not in terms


def test_unlabelled_images_learn_from_teachers_alone():
    head, soft = random(B, C), teachers(1)
    config = LossConfig(objective="kl", temperature=1, weight=0.5)
    none = make_batch(targets=[-1] * B, soft=soft)
    assert torch.allclose(loss_of(config, (head,), none)[0], kl(head, soft[0], temperature=1).mean())
    # The fourth and the last are mixed with an image of unknown class: their share of the view is learned.
    some = make_batch(
        targets=[-1, 1, 2, -1, 4, 0], partners=[-1, 1, 2, 3, 4, -1], ratio=[1, 1, 1, 0.3, 1, 0.7], soft=soft
    )
    expected = kl(head, soft[0], temperature=1)
    known, share = torch.tensor([1, 2, 3, 4, 5]), torch.ones(5)
    share[2], share[4] = 1 - some.ratio[3], some.ratio[5]
    truth = torch.nn.functional.cross_entropy(head[known], torch.tensor([1, 2, 3, 4, 0]), reduction="none")
    expected[known] = (1 - 0.5 * share) * expected[known] + 0.5 * share * truth
    assert torch.allclose(loss_of(config, (head,), some)[0], expected.mean())


def test_the_tail_of_top_k_labels_is_approximated_only_on_request():
    logits = 3 * random(B, C, seed=3)
    config, head = LossConfig(objective="kl", temperature=2, weight=1), random(B, C)
    batch = make_batch(soft=[encode_topk(logits, 3)])
    with pytest.raises(PocketError, match="--approximate-tail"):
        loss_of(config, (head,), batch)
    approximate, _ = loss_of(config, (head,), batch, approximate_tail=True)
    exact, _ = loss_of(config, (head,), make_batch(soft=[FullLabels(logits)]))
    assert approximate.item() == pytest.approx(exact.item(), rel=0.1)


def test_a_teacher_of_all_logits_and_one_of_the_largest_teach_together():
    """As they would alone: at temperature 1 the top k serve KL, with any teacher weights."""
    logits, head = [3 * random(B, C, seed=seed) for seed in (3, 4)], random(B, C)
    mixed = make_batch(soft=[FullLabels(logits[0]), encode_topk(logits[1], 3)])
    config = LossConfig(objective="kl", temperature=1, weight=1)
    loss, terms = loss_of(config, (head,), mixed)
    alone = [loss_of(config, (head,), make_batch(soft=[soft]))[0] for soft in mixed.soft]
    assert loss.item() == pytest.approx((alone[0] + alone[1]).item() / 2)
    assert [terms["teacher_0"].item(), terms["teacher_1"].item()] == pytest.approx([one.item() for one in alone])


def test_the_temperature_goes_along_half_a_cosine_to_its_last_value():
    """The loss at a point of the training is that of a config which has that temperature throughout."""
    config = LossConfig(objective="kl", temperature=6.0, last_temperature=2.0, weight=1)
    assert [temperature_at(config, progress) for progress in (0.0, 0.5, 1.0)] == [6.0, 4.0, 2.0]
    assert temperature_at(config, 0.25) == pytest.approx(4 + 2 * 0.5**0.5)
    assert temperature_at(LossConfig(temperature=3.0), 0.7) == 3.0
    head, batch = random(B, C), make_batch(soft=teachers(1))
    batch.progress = 0.5
    still = LossConfig(objective="kl", temperature=4.0, weight=1)
    assert loss_of(config, (head,), batch)[0].item() == pytest.approx(loss_of(still, (head,), batch)[0].item())


def test_what_an_objective_needs_is_asked_for_every_temperature_on_the_way():
    kinds = [(1.0, None), (2.0, None), (1.0, 1.0), (1.0, 4.0), (4.0, 1.0)]
    configs = [LossConfig(temperature=first, last_temperature=last) for first, last in kinds]
    assert [needs(OBJECTIVES["kl"], config) for config in configs] == ["topk", "full", "topk", "full", "full"]
    assert needs(OBJECTIVES["hard"], configs[-1]) == "topk"
