"""What one record holds, against a direct computation from all logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pocketvit.labels import SoftLabels, decode, encode_topk
from pocketvit.labels.record import Layout, choose_k


@pytest.fixture(name="logits")
def _logits():
    return torch.randn(64, 40, generator=torch.Generator().manual_seed(0)) * 4 + 20


def rest(logits: torch.Tensor, ids: torch.Tensor) -> list[np.ndarray]:
    """Logits minus maximum of the classes that are not in ``ids``, a row a sample."""
    shifted = (logits - logits.amax(1, keepdim=True)).double().numpy()
    return [np.delete(row, kept) for row, kept in zip(shifted, ids.numpy(), strict=True)]


def test_top_k_are_the_largest_logits_best_first(logits):
    soft = encode_topk(logits, 5)
    expected = logits.topk(5)
    assert torch.equal(soft.ids, expected.indices)
    assert torch.equal(soft.maximum, expected.values[:, 0])
    assert torch.allclose(soft.values, expected.values - expected.values[:, :1], atol=0, rtol=2**-10)
    assert torch.equal(soft.top1, logits.argmax(1))


def test_true_classes_of_sample_and_partner_are_always_among_the_ids(logits):
    """Also the worst class, also twice the same, and none where the class is unknown."""
    worst, second = logits.argmin(1), logits.argsort(1)[:, 1]
    for true in ([worst, second], [worst, worst], [worst, torch.full_like(worst, -1)]):
        soft = encode_topk(logits, 3, torch.stack(true, 1))
        for column in true:
            known = column >= 0
            assert (soft.ids == column[:, None]).any(1)[known].all()
        assert torch.equal(soft.ids[:, 0], logits.argmax(1))
        assert (soft.values.diff(dim=1) <= 0).all()
        assert all(len(set(row.tolist())) == 3 for row in soft.ids)
        assert torch.allclose(soft.values, (logits - logits.amax(1, keepdim=True)).gather(1, soft.ids), rtol=2**-10)


def test_the_four_numbers_describe_the_rest(logits):
    soft = encode_topk(logits, 7, logits.argmin(1, keepdim=True))
    others = rest(logits, soft.ids)
    np.testing.assert_allclose(soft.lse_rest, [np.log(np.exp(r).sum()) for r in others], rtol=1e-5)
    np.testing.assert_allclose(soft.mean_rest, [r.mean() for r in others], rtol=1e-5)
    np.testing.assert_allclose(soft.std_rest, [r.std() for r in others], rtol=1e-5)
    assert torch.equal(soft.maximum, logits.amax(1))


def test_probabilities_at_temperature_1_follow_from_a_record(logits):
    """log p of the kept classes is values - logaddexp(logsumexp(values), lse_rest), as documented."""
    soft = encode_topk(logits, 5)
    log_p = soft.values - torch.logaddexp(soft.values.logsumexp(1), soft.lse_rest)[:, None]
    assert torch.allclose(log_p, logits.log_softmax(1).gather(1, soft.ids), rtol=2**-10, atol=2e-3)


def test_decoded_rest_has_its_exact_mass_at_temperature_1_and_its_mean_when_hot(logits):
    soft = encode_topk(logits, 5)
    full = decode(soft)
    kept = full.softmax(1).gather(1, soft.ids).sum(1)
    assert torch.allclose(kept, logits.softmax(1).gather(1, soft.ids).sum(1), atol=1e-3)
    hot = decode(soft, temperature=1e6)
    assert torch.allclose(hot.mean(1), logits.mean(1), atol=1e-3)
    assert torch.equal(decode(SoftLabels(logits)), logits)


@pytest.mark.parametrize("classes", [2**15 + 5, 2**16, 2**16 + 1])
def test_class_numbers_survive_16_bits_and_more(classes):
    """The highest class is the best one; uint16 serves up to 65,536 classes and int32 beyond."""
    logits = torch.zeros(3, classes)
    logits[:, -1], logits[:, 2**15] = 9, 8
    soft = encode_topk(logits, 2)
    assert soft.ids.tolist() == [[classes - 1, 2**15]] * 3
    layout = Layout(classes, 2, ordered=True)
    arrays = layout.encode(logits, None)
    assert arrays["ids"].dtype == (np.uint16 if classes <= 2**16 else np.int32)
    assert layout.soft_labels(arrays).index(torch.tensor([1])).ids.tolist() == [[classes - 1, 2**15]]


def test_index_and_to_keep_stored_types(logits):
    soft = encode_topk(logits, 4)
    part = soft.index(np.array([5, 3])).to("cpu")
    assert part.stored()["values"].dtype == torch.float16
    assert torch.equal(part.ids, soft.ids[[5, 3]])
    assert torch.equal(part.std_rest, soft.std_rest[[5, 3]])
    assert (len(part), part.k, part.num_classes, part.full) == (2, 4, 40, False)


def test_bytes_per_record_are_those_of_the_contract():
    """Full: 2 bytes a class. Top k: 2 + 2 bytes a kept class and four fp32 numbers. Mixed views: a position more."""
    assert Layout(10, 0, ordered=True).bytes_per_record == 20
    assert Layout(1000, 100, ordered=True).bytes_per_record == 416
    assert Layout(100_000, 100, ordered=False).bytes_per_record == 620


def test_all_logits_up_to_256_classes_and_on_request():
    assert [choose_k(c, None) for c in (2, 256, 257)] == [0, 0, 100]
    assert [choose_k(1000, 0), choose_k(1000, 1000), choose_k(10, 5)] == [0, 0, 5]


def test_records_are_full_or_top_k_and_nothing_between(logits):
    with pytest.raises(ValueError, match="either"):
        SoftLabels()
    with pytest.raises(ValueError, match="num_classes"):
        SoftLabels(ids=torch.zeros(2, 2, dtype=torch.int64), values=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="k must lie"):
        encode_topk(logits, 40)
