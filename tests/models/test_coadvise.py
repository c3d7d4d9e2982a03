"""The Co-advise student: two stems whose sum are the patches and whose means start the teachers' tokens."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from pocketvit.deployment import check_parity, export_onnx
from pocketvit.errors import PocketError
from pocketvit.models import (
    combined_logits,
    create_model,
    create_student,
    forward_heads,
    load_model,
    save_model,
    scale_heads,
)
from pocketvit.models.coadvise import CoadviseEmbed, stem_width
from pocketvit.models.flops import count_flops, count_parameters


def student(name="pocket_xs", **changes):
    args = {"num_classes": 5, "image_size": 16, "tokens": 2, "stem": "coadvise", **changes}
    torch.manual_seed(0)
    return create_student(name, **args).eval()


def tokens_in(model, x):
    """What the first block sees: [B, 3 + N, D]."""
    return model._pos_embed(model.patch_embed(x)) - model.pos_embed


def streams(model, x):
    return [
        stem(x).flatten(2).transpose(1, 2) for stem in (model.patch_embed.convolution, model.patch_embed.involution)
    ]


def test_patches_are_the_sum_of_both_streams_and_their_means_start_the_tokens():
    model, x = student(), torch.randn(2, 3, 16, 16)
    nn.init.normal_(model.dist_tokens)
    seen, (convolved, involved) = tokens_in(model, x), streams(model, x)
    torch.testing.assert_close(seen[:, 0], model.cls_token[:, 0].expand(2, -1))
    torch.testing.assert_close(seen[:, 1], model.dist_tokens[:, 0] + convolved.mean(1))
    torch.testing.assert_close(seen[:, 2], model.dist_tokens[:, 1] + involved.mean(1))
    torch.testing.assert_close(seen[:, 3:], convolved + involved)


def test_the_first_token_starts_from_the_convolution_and_the_second_from_the_involution():
    """A silent convolution leaves the first token as it was learned, and the second where it started."""
    model, x = student(), torch.randn(2, 3, 16, 16)
    before = tokens_in(model, x)
    nn.init.zeros_(model.patch_embed.convolution[-1].weight)
    nn.init.zeros_(model.patch_embed.convolution[-1].bias)
    after = tokens_in(model, x)
    torch.testing.assert_close(after[:, 1], model.dist_tokens[:, 0].expand(2, -1))
    torch.testing.assert_close(after[:, 2], before[:, 2])
    assert not torch.allclose(before[:, 1], after[:, 1])


@pytest.mark.parametrize(
    ("side", "patch", "halved"), [(8, 1, False), (16, 2, False), (32, 4, False), (32, 8, True), (27, 9, False)]
)
def test_stems_halve_the_picture_for_patches_of_8_and_more_that_can_be_halved(side, patch, halved):
    embed = CoadviseEmbed(side, patch, embed_dim=32, width=16, norm="batch").eval()
    for stem in (embed.convolution, embed.involution):
        stream = stem[:-1](torch.randn(1, 3, side, side))
        assert stream.shape[-1] == (side // 2 if halved else side)
    assert embed(torch.randn(1, 3, side, side)).shape == (1, 2 + (side // patch) ** 2, 32)


@pytest.mark.parametrize(("side", "patch"), [(31, 8), (18, 4), (20, 9)])
def test_pixels_beyond_the_last_whole_patch_are_dropped(side, patch):
    """As timm drops them, so that the grid is timm's for any size."""
    embed = CoadviseEmbed(side, patch, embed_dim=32, width=16, norm="batch").eval()
    plain = timm.layers.PatchEmbed(side, patch)
    assert (embed.grid_size, embed.num_patches) == (plain.grid_size, plain.num_patches)
    x = torch.randn(1, 3, side, side)
    other = x.clone()
    whole = side // patch * patch
    other[..., whole:, :] = 7
    assert torch.equal(embed(x), embed(other))
    assert embed(x).shape[1] == 2 + embed.num_patches


def test_the_published_student_has_the_published_shapes():
    """DeiT-Ti at 224 px: 64 channels, 7x7/2 and RedNet's stem, 8x8/8 projections to 14x14 patches."""
    model = create_model("pocketvit_coadvise", num_classes=10)
    convolution = [m for m in model.patch_embed.convolution if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolution] == [
        (64, 7, 2),
        (64, 3, 1),
        (64, 3, 1),
        (192, 8, 8),
    ]
    involution = [m for m in model.patch_embed.involution if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in involution] == [
        (32, 3, 2),
        (64, 3, 1),
        (192, 8, 8),
    ]
    assert model.patch_embed.involution[3].kernel_size == 3
    assert model.pos_embed.shape == (1, 3 + 14 * 14, 192)


@pytest.mark.parametrize(("embed_dim", "width"), [(96, 16), (128, 16), (160, 16), (192, 32), (256, 32), (384, 48)])
def test_stems_are_an_eighth_of_the_student_in_steps_of_a_group(embed_dim, width):
    assert stem_width(embed_dim) == width


def test_a_small_student_stays_cheap():
    plain = create_student("pocket_s", num_classes=10, image_size=32, tokens=2)
    two = student("pocket_s", num_classes=10, image_size=32)
    assert count_parameters(two) < 1.08 * count_parameters(plain)
    assert count_flops(two, 32) < 1.2 * count_flops(plain, 32)


def test_three_heads_are_one_answer_of_mean_probability():
    model, x = student(), torch.randn(2, 3, 16, 16)
    heads = forward_heads(model, x)
    assert [tuple(head.shape) for head in heads] == [(2, 5)] * 3
    torch.testing.assert_close(model(x), combined_logits(heads))
    scale_heads(model, [2.0, 0.5, 4.0])
    for old, new, temperature in zip(heads, forward_heads(model, x), (2.0, 0.5, 4.0), strict=True):
        torch.testing.assert_close(new, old / temperature)


def test_everything_learns():
    model = student().train()
    sum(head.square().sum() for head in forward_heads(model, torch.randn(4, 3, 16, 16))).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_group_norm_leaves_no_statistics_of_the_batch():
    """With "group" an image's answer in training does not depend on the images beside it; with "batch" it does."""
    x = torch.randn(4, 3, 16, 16)
    for norm, same in (("group", True), ("batch", False)):
        torch.manual_seed(0)
        args = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 1, "stem_width": 16, "norm": norm}
        model = create_model("pocketvit_coadvise", num_classes=5, image_size=16, **args).train()
        assert torch.allclose(model(x)[:2], model(x[:2]), atol=1e-5) == same
        assert same == (not list(model.buffers()))


def test_a_saved_student_is_the_same_again_and_says_that_it_needs_pocketvit(tmp_path):
    model = student(drop_path=0.1)
    model.train()(torch.randn(8, 3, 16, 16))  # running statistics are saved too
    model.eval()
    save_model(model, tmp_path, classes=tuple("abcde"))
    loaded, x = load_model(tmp_path), torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded.module(x), model(x))
    assert loaded.config["pocketvit"]["needs_pocketvit"]
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(x), model(x))


def test_the_exported_file_computes_the_same(tmp_path):
    side = 17  # with patches of 8: halved, and one row and column dropped
    model = student(image_size=side, patch_size=8)
    model.blocks = model.blocks[:1]
    for head in model.get_classifier():
        nn.init.normal_(head.weight, std=0.5)
    model.train()(torch.randn(8, 3, side, side))
    path = export_onnx(model.eval(), tmp_path / "model.onnx", classes=tuple("abcde"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, side, side), dtype=np.uint8)
    parity = check_parity(model, path, pixels)
    assert parity.max_abs < 1e-4
    assert parity.agreement == 1


def test_features_of_blocks_have_the_grid_of_the_patches():
    """timm's own reading of intermediate maps works, as for any ViT."""
    maps = student().forward_intermediates(torch.randn(1, 3, 16, 16), indices=[0, 3], intermediates_only=True)
    assert [tuple(m.shape) for m in maps] == [(1, 96, 8, 8)] * 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokens": 0}, "has 0: give it 2 tokens"),
        ({"tokens": 3}, "has 3: give it 2 tokens"),
        ({"stem": "convolution"}, "choose one of patch, .*coadvise"),
        ({"name": "resnet18"}, "ladder"),
    ],
)
def test_what_cannot_be_made_is_explained(changes, says):
    with pytest.raises(PocketError, match=says):
        student(**changes)


def test_a_picture_of_another_size_is_refused_and_not_cut():
    with pytest.raises(ValueError, match=r"\(20, 20\) pixels for a student made for \(16, 16\)"):
        student()(torch.randn(1, 3, 20, 20))
