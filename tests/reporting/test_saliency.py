"""Maps point at what a network looks at: rollout is that of its own attention, gradients that of its own answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pocketvit.config import ViewConfig
from pocketvit.models import create_student
from pocketvit.models.vit import VisionTransformerTokens
from pocketvit.reporting.saliency import _SeenAttention, attention_rollout, choose_images, gradient_map, heat_maps
from pocketvit.sources.base import Source
from pocketvit.tasks import task_named

ONE_CLASS = task_named("classification")
INPUT = (16, (0.5,) * 3, (0.5,) * 3)


def student(**options):
    torch.manual_seed(0)
    return create_student("pocket_xs", num_classes=3, image_size=16, patch_size=4, **options).eval()


def pictures(count=2):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_rollout_is_the_product_of_the_attentions_by_hand(tokens):
    model, x = student(tokens=tokens), pictures()
    kept = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, __, out: kept.append(out.mean(1)))
    with torch.no_grad():
        model(x)
    flow = torch.eye(17 + tokens)
    for attention in kept:
        flow = (attention / 2 + torch.eye(17 + tokens) / 2) @ flow
    for block in model.blocks:
        block.attn.fused_attn = True
    found = attention_rollout(model, x)
    assert found.shape == (2, 4, 4)
    prefix = 1 + tokens
    assert torch.allclose(found.flatten(1), flow[:, :prefix, prefix:].mean(1), atol=1e-6)
    assert isinstance(model, VisionTransformerTokens) == (tokens == 2)


def test_recorded_attention_honours_masks_and_scales():
    q, k, v = torch.randn(3, 2, 4, 5, 8).unbind(0)
    seen = ~torch.eye(5, dtype=torch.bool)
    with _SeenAttention() as recorded:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=0.7)
        F.scaled_dot_product_attention(q[:, :1], k[:, :1], v[:, :1], attn_mask=torch.randn(5, 5))
    first, second = recorded.attentions
    assert (first.diagonal(dim1=1, dim2=2) == 0).all()
    weights = (q @ k.transpose(2, 3) * 0.7).masked_fill(~seen, -torch.inf).softmax(-1)
    assert torch.allclose(first, weights.mean(1), atol=1e-6)
    assert torch.allclose(weights @ v, out, atol=1e-5)
    assert second.sum(-1) == pytest.approx(np.ones((2, 5)), abs=1e-5)


def test_recording_changes_no_answer():
    model, x = student(), pictures()
    with torch.no_grad():
        before = model(x)
        attention_rollout(model, x)
        assert torch.equal(before, model(x))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_other_networks_have_no_rollout():
    assert attention_rollout(Corner(), pictures()) is None
    model = student()
    for block in model.blocks:
        block.attn.fused_attn = False  # nothing to record: better no map than one of some layers
    assert attention_rollout(model, pictures()) is None


class Corner(nn.Module):
    """Class 1 where the top left corner is bright; nothing else matters."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        bright = self.scale * x[:, :, :4, :4].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(bright), 100 * bright, torch.zeros_like(bright)], 1)


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_gradient_lies_where_the_answer_comes_from(exclusive):
    found = gradient_map(Corner(), pictures(), torch.tensor([1, 1]), exclusive=exclusive)
    assert (found[:, :4, :4] > 0).all()
    assert found[:, 4:].sum() == 0
    assert torch.equal(found, gradient_map(Corner(), pictures(), torch.tensor([1, 1]), exclusive=exclusive))


def test_a_label_does_not_compete_with_others():
    """Label 0 of several is constant, so nothing moves it; as one of three classes it falls when class 1 rises."""
    assert gradient_map(Corner(), pictures(), torch.tensor([0, 0]), exclusive=False).sum() == 0
    assert gradient_map(Corner(), pictures(), torch.tensor([0, 0])).sum() > 0


def answered(truths, answers, confidence):
    p = np.full((len(truths), 3), 0.0)
    p[np.arange(len(truths)), answers] = confidence
    return p


def test_half_the_images_are_the_surest_mistakes_and_half_take_the_classes_in_turn():
    truths = np.array([0, 0, 0, 0, 1, 2, 0, 1, 2, 0, 1, -1])
    answers = np.array([0, 0, 0, 0, 1, 2, 1, 2, 0, 2, 0, 0])
    confidence = np.array([0.9] * 6 + [0.5, 0.7, 0.6, 0.99, 0.55, 1.0])
    chosen = choose_images(answered(truths, answers, confidence), truths, ONE_CLASS)
    assert chosen.tolist() == [9, 7, 8, 10, 0, 4, 5, 1]


@pytest.mark.parametrize("wrong", [0, 2, 12])
def test_where_one_half_is_short_the_other_fills_up(wrong):
    truths = np.zeros(12, int)
    answers = (np.arange(12) < wrong).astype(int)
    chosen = choose_images(answered(truths, answers, 0.9), truths, ONE_CLASS)
    assert len(set(chosen.tolist())) == 8
    assert (answers[chosen] == 1).sum() == {0: 0, 2: 2, 12: 8}[wrong]


def test_without_labels_any_images_will_do():
    p = answered(np.zeros(20, int), np.zeros(20, int), 1.0)
    assert len(choose_images(p, np.full(20, -1), ONE_CLASS)) == 8
    assert choose_images(p[:3], np.zeros((3, 4), int), task_named("multilabel")).tolist() == [0, 1, 2]


class Drawn(Source):
    def __init__(self, targets):
        count = len(targets)
        super().__init__(
            name="drawn", split="test", classes=("a", "b", "c"), ids=np.arange(count, dtype=np.uint64), targets=targets,
            names=[str(i) for i in range(count)], window=None, size=(16, 16), fingerprint="0" * 64,
        )  # fmt: skip

    def __getitem__(self, position):
        rng = np.random.default_rng(position)
        return rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), int(self.targets[position])


def test_the_arrays_of_a_student_and_of_a_network_without_attention():
    source = Drawn(np.array([0, 1, 2, 0, 1]))
    p = np.eye(3)[[0, 1, 1, 2, 1]]
    view = ViewConfig(view_size=16)
    arrays = heat_maps(student(), source, view, INPUT, p, ONE_CLASS)
    assert arrays["heat_names"].tolist() == ["2", "3", "0", "1", "4"]
    assert arrays["heat_targets"].tolist() == [2, 0, 0, 1, 1]
    assert arrays["heat_answers"].tolist() == [1, 2, 0, 1, 1]
    assert (arrays["heat_images"][0] == source[2][0]).all()
    for name, shape in (("heat_rollout", (5, 4, 4)), ("heat_gradient", (5, 16, 16))):
        assert arrays[name].shape == shape
        assert (arrays[name].min(), arrays[name].max()) == (0, 1)
    assert "heat_rollout" not in heat_maps(Corner(), source, view, INPUT, p, ONE_CLASS)
    assert heat_maps(Corner(), None, view, INPUT, None, ONE_CLASS) == {}
