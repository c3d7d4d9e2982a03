"""What one record holds, against a direct computation from all logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pocketvit.errors import PocketError
from pocketvit.labels import FullLabels, Layer, decode, encode_topk, record_of
from pocketvit.labels.record import Sigmoid, Softmax, choose_k, record_kind
from pocketvit.labels.soft import topk_tensors

UNKNOWN = torch.full((3, 2), -1)


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
    deviation = topk_tensors(logits, 7, logits.argmin(1, keepdim=True))["std_rest"]  # on disk alone
    np.testing.assert_allclose(deviation, [r.std() for r in others], rtol=1e-5)
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
    assert torch.equal(decode(FullLabels(logits)), logits)


@pytest.mark.parametrize("classes", [2**15 + 5, 2**16, 2**16 + 1])
def test_class_numbers_survive_16_bits_and_more(classes):
    """The highest class is the best one; uint16 serves up to 65,536 classes and int32 beyond."""
    logits = torch.zeros(3, classes)
    logits[:, -1], logits[:, 2**15] = 9, 8
    soft = encode_topk(logits, 2)
    assert soft.ids.tolist() == [[classes - 1, 2**15]] * 3
    record = Softmax(classes, 2)
    arrays = record.encode(logits, UNKNOWN)
    assert arrays["ids"].dtype == record.fields()["ids"].dtype == (np.uint16 if classes <= 2**16 else np.int32)
    labels, room = record.empty(3, None)
    for name, array in room.items():
        assert array.dtype == arrays[name].dtype
        array[:] = arrays[name]
    assert labels.index(torch.tensor([1])).ids.tolist() == [[classes - 1, 2**15]]


def test_a_gather_is_one_tensor_in_stored_types(logits):
    """Both forms answer alike; a record of top 4 takes 3 fp32 numbers, 4 ids and 4 values in 16 bits."""
    for soft, width in ((encode_topk(logits, 4), 14), (FullLabels(logits.half()), 40)):
        part = soft.index(np.array([5, 3])).to("cpu")
        assert type(part) is type(soft)
        assert (len(part), part.num_classes, part.full) == (2, 40, width == 40)
        assert part._rows.shape == (2, width)
        assert part._rows.element_size() == 2
        assert torch.equal(part.top1, logits.argmax(1)[[5, 3]])
        assert torch.equal(decode(part), decode(soft)[[5, 3]])


def test_bytes_per_record_are_those_of_the_contract():
    """Full: 2 bytes a class. Top k: 2 + 2 bytes a kept class and four fp32 numbers."""
    assert Softmax(10).bytes_per_image == 20
    assert Softmax(1000, 100).bytes_per_image == 416
    assert Softmax(100_000, 100).bytes_per_image == 616


def test_all_logits_up_to_256_classes_and_on_request():
    assert [choose_k(c, None) for c in (2, 256, 257)] == [0, 0, 100]
    assert [choose_k(1000, 0), choose_k(1000, 1000), choose_k(10, 5)] == [0, 0, 5]


class Teacher:
    name, num_outputs = "net", 1000

    def __init__(self, kind):
        self.kind = kind


def test_only_a_softmax_is_cut_to_the_largest():
    assert record_of(Teacher("softmax")) == Softmax(1000, 100)
    assert record_of(Teacher("sigmoid")) == Sigmoid(1000)
    assert record_of(Teacher("layer"), 0) == Layer(1000)
    with pytest.raises(PocketError, match=r"1000 outputs of net are independent.*--top-k 0"):
        record_of(Teacher("sigmoid"), 100)


def test_a_layer_is_kept_to_half_a_step_of_its_largest_value():
    outputs = torch.randn(6, 50) * torch.tensor([1e-3, 1.0, 7.0, 300.0, 1e5, 0.0])[:, None]
    record = Layer(50)
    arrays = record.encode(outputs, torch.full((6, 2), -1))
    labels, room = record.empty(6, None)
    for name, array in arrays.items():
        room[name][:] = array
    assert arrays["values"].dtype == np.int8
    assert bool(((labels.features - outputs).abs() <= 0.501 / 127 * outputs.abs().amax(1, keepdim=True)).all())
    assert torch.equal(labels.index(np.array([4, 1])).features, labels.features[[4, 1]])
    assert float(record.difference(labels, outputs).max()) < 1e-6
    assert float(record.difference(labels.index([1, 0, 2, 3, 4, 5]), outputs).max()) > 0.5
    assert record.bytes_per_image == 54


def test_a_layer_that_is_not_finite_is_seen_in_its_scale():
    outputs = torch.ones(2, 3)
    outputs[1, 2] = float("nan")
    assert np.isfinite(Layer(3).encode(outputs, torch.full((2, 2), -1))["scale"]).tolist() == [True, False]


def test_a_kind_that_nobody_knows_is_told():
    with pytest.raises(PocketError, match=r"no labels of the kind 'depth' here, only softmax, sigmoid"):
        record_kind("depth")


def test_k_lies_between_two_and_the_classes(logits):
    with pytest.raises(ValueError, match="k must lie"):
        encode_topk(logits, 40)
