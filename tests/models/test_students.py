"""Students: the ladder, any image and patch size, one head a token, and what the heads say together."""

import numpy as np
import pytest
import timm
import torch

from pocketvit.errors import PocketError
from pocketvit.models import (
    LADDER,
    combined_logits,
    create_model,
    create_student,
    default_patch,
    forward_heads,
    scale_heads,
)
from pocketvit.models.heads import head_layers


def student(tokens=0, **changes):
    args = {"num_classes": 5, "image_size": 16, "tokens": tokens, **changes}
    torch.manual_seed(0)
    return create_student("pocket_xs", **args).eval()


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("pocket_xxs", 0.21),
        ("pocket_xs", 0.5),
        ("pocket_s", 1.0),
        ("pocket_m", 2.0),
        ("pocket_l", 3.5),
        ("pocket_xl", 6.0),
    ],
)
def test_ladder_sizes(name, millions):
    with torch.device("meta"):
        model = create_student(name, num_classes=10, image_size=32)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.1)


def test_ladder_keeps_the_width_of_a_head():
    assert {rung.embed_dim / rung.num_heads for rung in LADDER.values()} == {32}


@pytest.mark.parametrize(("size", "patch"), [(8, 1), (16, 2), (28, 4), (32, 4), (64, 8), (224, 16)])
def test_default_patches(size, patch):
    assert default_patch(size) == patch


@pytest.mark.parametrize("size", [8, 12, 17, 24, 28, 31, 45, 50, 96, 97, 112, 128, 160, 192, 224, 256, 384])
def test_default_patches_leave_49_to_256_tokens(size):
    patch = default_patch(size)
    assert 49 <= (size // patch) ** 2 <= 256


@pytest.mark.parametrize(("size", "patch"), [(8, 1), (20, 5), (30, 4), (31, None)])
@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_any_image_and_patch_size(size, patch, tokens):
    model = student(tokens, image_size=size, patch_size=patch)
    heads = forward_heads(model, torch.randn(2, 3, size, size))
    assert [tuple(head.shape) for head in heads] == [(2, 5)] * (1 + tokens)


@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_heads_are_the_same_in_training_and_evaluation(tokens):
    model, x = student(tokens), torch.randn(2, 3, 16, 16)
    for a, b in zip(forward_heads(model, x), forward_heads(model.train(), x), strict=True):
        torch.testing.assert_close(a, b)


def test_each_head_reads_its_own_token():
    """A change of the second teacher's head changes that head only."""
    model, x = student(2), torch.randn(2, 3, 16, 16)
    before = forward_heads(model, x)
    with torch.no_grad():
        model.heads_dist[1].bias += 1
    after = forward_heads(model, x)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False]


def test_tokens_learn_apart():
    """A loss on one token's head alone moves that token and that head, and no other head."""
    model = student(2)
    forward_heads(model, torch.randn(2, 3, 16, 16))[2].square().sum().backward()
    assert model.heads_dist[1].weight.grad.abs().sum() > 0
    assert model.dist_tokens.grad[0, 1].abs().sum() > 0
    assert model.heads_dist[0].weight.grad is None
    assert model.head.weight.grad is None


def test_combined_softmax_is_the_mean_of_probabilities():
    a, b = torch.randn(4, 5), torch.randn(4, 5) * 3
    combined = combined_logits([a, b])
    torch.testing.assert_close(combined.softmax(1), (a.softmax(1) + b.softmax(1)) / 2)
    assert combined_logits([a]) is a


def test_token_student_returns_the_combination():
    model, x = student(2), torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(x), combined_logits(forward_heads(model, x)))


@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_scaled_heads_divide_their_logits(tokens):
    model, x = student(tokens), torch.randn(2, 3, 16, 16)
    temperatures = [2.0, 0.5, 4.0][: 1 + tokens]
    before = forward_heads(model, x)
    shifts = [np.arange(5.0) * head for head in range(1 + tokens)]
    scale_heads(model, temperatures, shifts)
    for old, new, temperature, shift in zip(before, forward_heads(model, x), temperatures, shifts, strict=True):
        torch.testing.assert_close(new, old / temperature + torch.from_numpy(shift).float())


def test_one_temperature_a_head():
    with pytest.raises(ValueError, match="2 heads"):
        scale_heads(student(1), [1.0])


def test_drop_path_is_only_for_training():
    model, x = student(drop_path=0.5), torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(x), model(x))
    torch.manual_seed(1)
    assert not torch.equal(model.train()(x), model(x))


def test_any_timm_model_may_be_a_student():
    model = create_student("vit_tiny_patch16_224", num_classes=3, image_size=32, patch_size=8)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    model = create_student("mobilenetv3_small_050", num_classes=3, image_size=32).eval()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: create_model("cifar_resnet57", num_classes=2), "Did you mean cifar_resnet56"),
        (lambda: create_model("pocket_xs", num_classes=2, pretrained=True), "no pretrained weights"),
        (lambda: create_model("resnet18", num_classes=2, nonsense=1), "nonsense"),
        (lambda: create_student("resnet18", num_classes=2, image_size=32, tokens=1), "ladder"),
        (lambda: student(patch_size=20), "do not fit an image of 16"),
    ],
)
def test_what_cannot_be_made_is_explained(make, says):
    with pytest.raises(PocketError, match=says):
        make()


@pytest.mark.parametrize("name", ["repvit_m0_9", "levit_128s", "resnetv2_18", "efficientformerv2_s0"])
def test_heads_of_timms_networks_are_scaled_whatever_they_are_made_of(name):
    torch.manual_seed(0)
    model, x = timm.create_model(name, num_classes=5).eval(), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for part in head_layers(model):  # biases start at zero
            part.bias.normal_() if part.bias is not None else None
        before = model(x)
        scale_heads(model, [2.0], [np.arange(5.0)])
        torch.testing.assert_close(model(x), before / 2 + torch.arange(5.0), atol=1e-4, rtol=1e-4)
