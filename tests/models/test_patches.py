"""Shifted patches: the published definition, one convolution that equals it, and what a student makes of them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pocketvit.config import TrainConfig
from pocketvit.deployment import check_parity, export_onnx
from pocketvit.errors import PocketError
from pocketvit.models import create_model, create_student, forward_heads, load_model, patches, save_model
from pocketvit.models.flops import count_flops, count_parameters
from pocketvit.models.patches import (
    ConcatenatedEmbed,
    ShiftedEmbed,
    ShiftedProjection,
    SummedEmbed,
    shifted_fast,
    shifted_naive,
)
from pocketvit.models.taps import list_layers
from pocketvit.training.optim import build_optimizer

NEW = ("shifted", "summed", "concatenated")


def projection(patch, dtype=torch.float32, embed_dim=24, channels=3):
    torch.manual_seed(patch)
    made = ShiftedProjection(channels, embed_dim, patch).to(dtype)
    nn.init.normal_(made.norm.weight, 1.0, 0.3)
    nn.init.normal_(made.norm.bias)
    return made


def pictures(kind, side, dtype):
    noise = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side)).to(dtype)
    half = torch.arange(side) < side // 2
    return {
        "noise": noise,
        "constant": torch.full_like(noise, 0.7),
        "two greys": torch.where(half, -1.3, 2.1).to(dtype).expand_as(noise).clone(),
        "large offset": noise + 100,
        "near constant": 2 + 1e-3 * noise,
    }[kind]


def answer_and_gradients(embed, module, x):
    x = x.clone().requires_grad_()
    module.zero_grad()
    out = embed(x, module.weight, module.bias, module.norm)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out.detach(), x.grad, *(parameter.grad.clone() for parameter in module.parameters())]


def test_the_naive_form_is_the_published_definition():
    """Written out pixel by pixel: the patch, then the patch half a patch up-left, up-right, down-left, down-right."""
    module, x = projection(4), pictures("noise", 12, torch.float32)
    out = shifted_naive(x, module.weight, module.bias, module.norm)
    padded = F.pad(x, (2, 2, 2, 2))
    for row in range(3):
        for column in range(3):
            top, left = 2 + 4 * row, 2 + 4 * column
            corners = [(0, 0), (-2, -2), (-2, 2), (2, -2), (2, 2)]
            pixels = [padded[:, :, top + dy : top + dy + 4, left + dx : left + dx + 4] for dy, dx in corners]
            values = torch.cat(pixels, 1).flatten(1)
            expected = F.linear(module.norm(values), module.weight.flatten(1), module.bias)
            torch.testing.assert_close(out[:, :, row, column], expected)


@pytest.mark.parametrize("kind", ["noise", "constant", "two greys", "large offset", "near constant"])
@pytest.mark.parametrize(("side", "patch"), [(16, 2), (32, 4), (32, 16)])
def test_one_convolution_equals_the_definition_in_float64(side, patch, kind):
    """Forward, and the gradients of the picture, the weights and LayerNorm."""
    module, x = projection(patch, torch.float64), pictures(kind, side, torch.float64)
    fast = answer_and_gradients(shifted_fast, module, x)
    for ours, naive in zip(fast, answer_and_gradients(shifted_naive, module, x), strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-10, atol=1e-10 * float(naive.abs().max()))


@pytest.mark.parametrize("kind", ["noise", "constant", "two greys", "large offset", "near constant"])
def test_in_float32_it_is_as_near_to_float64_as_1e_5(kind):
    """Also where E[x^2] - E[x]^2 would lose all its digits; the definition itself is less exact there."""
    module, x = projection(4), pictures(kind, 32, torch.float32)
    exact = answer_and_gradients(shifted_naive, copy.deepcopy(module).double(), x.double())
    for ours, true in zip(answer_and_gradients(shifted_fast, module, x), exact, strict=True):
        assert float((ours - true).abs().max()) <= 1e-5 * float(true.abs().max())


def test_many_pictures_are_embedded_a_few_at_a_time_with_the_same_result(monkeypatch):
    module = projection(4)
    x = torch.randn(7, 3, 16, 16)
    whole = answer_and_gradients(shifted_fast, module, x)
    calls = []
    monkeypatch.setattr(patches, "_CHUNK", 3 * 16 * 3 * 16 * 16)
    monkeypatch.setattr(patches, "_windows", lambda *args, f=patches._windows: calls.append(len(args[0])) or f(*args))
    for ours, expected in zip(answer_and_gradients(shifted_fast, module, x), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert calls == [3, 3, 1]


def test_both_forms_have_the_same_parameters():
    fast, naive = ShiftedProjection(3, 24, 4), ShiftedProjection(3, 24, 4, naive=True)
    naive.load_state_dict(fast.state_dict())
    assert (fast.naive, naive.naive) == (False, True)
    x = pictures("noise", 16, torch.float32)
    torch.testing.assert_close(fast(x), naive(x), rtol=1e-5, atol=1e-5)
    assert not torch.equal(fast(x), naive(x))  # else one of them was not what ran


@pytest.mark.parametrize("patch", [1, 3, 5])
def test_odd_patches_are_moved_by_the_half_that_is_whole(patch):
    module, x = projection(patch), pictures("noise", 15, torch.float32)
    shift = patch // 2
    rolled = F.pad(x, (shift,) * 4)
    moved = [torch.roll(rolled, (dy * shift, dx * shift), (2, 3)) for dy in (1, -1) for dx in (1, -1)]
    stacked = torch.cat([rolled, *moved], 1)[:, :, shift : shift + 15, shift : shift + 15]
    cut = F.unfold(stacked, patch, stride=patch).transpose(1, 2)
    expected = F.linear(module.norm(cut), module.weight.flatten(1), module.bias)
    out = module(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_a_picture_that_needs_no_gradient_costs_none():
    """Then nothing as large as the windows is computed on the way back: what is left is the weights' product."""
    module, largest = projection(4), {}
    windows = 2 * 16 * (3 * 8 * 8)
    for needed in (True, False):
        out = module(pictures("noise", 16, torch.float32).requires_grad_(needed)).sum()
        sizes = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                sizes.append(result.numel() if isinstance(result, torch.Tensor) else 0)  # noqa: B023
                return result

        with Watch():
            out.backward()
        largest[needed] = max(sizes)
    assert largest[False] < windows <= largest[True]


@pytest.mark.parametrize("kind", ["noise", "constant", "two greys", "near constant"])
def test_under_autocast_patches_of_one_grey_are_right_too(kind):
    """LayerNorm multiplies what bfloat16 loses by up to 300, unless what rounded weights leave over is taken off."""
    module, x = projection(4), pictures(kind, 32, torch.float32)
    exact = shifted_naive(x, module.weight, module.bias, module.norm).detach()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert out.dtype == torch.bfloat16
    assert float((out.float() - exact).abs().max()) < 0.03 * float(exact.abs().max())


def test_channels_last_pictures_and_weights_have_the_same_embedding():
    module, x = projection(4), pictures("noise", 16, torch.float32)
    expected = module(x)
    module.to(memory_format=torch.channels_last)
    torch.testing.assert_close(module(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("embed", [ShiftedEmbed, SummedEmbed, ConcatenatedEmbed])
@pytest.mark.parametrize(("side", "patch"), [(18, 4), (20, 9)])
def test_pixels_beyond_the_last_whole_patch_are_dropped(embed, side, patch):
    """As timm drops them: they are not moved into the picture either."""
    module, x = embed(side, patch, 3, 16), pictures("noise", side, torch.float32)
    other = x.clone()
    other[..., side // patch * patch :] = 7
    assert torch.equal(module(x), module(other))
    assert module(x).shape[1] == module.num_patches


def test_summed_is_the_sum_and_concatenated_has_both_sets():
    x = pictures("noise", 16, torch.float32)
    summed, both = SummedEmbed(16, 4, 3, 24), ConcatenatedEmbed(16, 4, 3, 24)
    both.load_state_dict(summed.state_dict())
    tokens = both(x)
    assert tokens.shape == (2, 32, 24)
    plain = summed.proj.plain(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens[:, :16], plain)
    torch.testing.assert_close(tokens[:, :16] + tokens[:, 16:], summed(x))


def published(side, patch, classes, **changes):
    args = {"patch_size": patch, "embed_dim": 192, "depth": 9, "num_heads": 12, "mlp_ratio": 2.0, "qkv_bias": False}
    return create_model("pocketvit_vit", num_classes=classes, image_size=side, **args, **changes)


# A block: two LayerNorms, qkv without biases, the output's layer, the MLP of twice the width.
BLOCK = 2 * 2 * 192 + 192 * 576 + (192 * 192 + 192) + (192 * 384 + 384) + (384 * 192 + 192)


@pytest.mark.parametrize(("side", "patch", "classes"), [(32, 4, 100), (64, 8, 200)])
def test_the_published_students_have_their_parameters(side, patch, classes):
    """Counted by hand for the authors' ViT (CIFAR and Tiny-ImageNet), with shifted patches and local attention."""
    rest = 192 + 65 * 192 + 9 * BLOCK + 2 * 192 + (192 * classes + classes)  # class token, positions, ..., head
    values = 3 * patch * patch
    assert count_parameters(published(side, patch, classes)) == rest + values * 192 + 192
    both = published(side, patch, classes, stem="shifted", attention="local")
    assert count_parameters(both) == rest + 2 * 5 * values + 5 * values * 192 + 192 + 9 * 12


def test_the_papers_table_is_met():
    """ViT 2.8 M parameters and 189.8 MFLOPs, SL-ViT 2.9 M and 199.2 (multiply-adds, Tiny-ImageNet)."""
    plain, both = published(64, 8, 200), published(64, 8, 200, stem="shifted", attention="local")
    assert [round(count_parameters(model) / 1e6, 1) for model in (plain, both)] == [2.8, 2.9]
    assert count_flops(plain, 64) / 2e6 == pytest.approx(189.8, rel=0.01)
    both.patch_embed.proj.naive = True  # the paper counts the definition; one convolution has four fifths of it
    assert count_flops(both, 64) / 2e6 == pytest.approx(199.2, rel=0.01)


@pytest.mark.parametrize("attention", ["plain", "local"])
@pytest.mark.parametrize("tokens", [0, 1, 2])
@pytest.mark.parametrize("stem", ["patch", *NEW])
def test_every_student_has_every_stem_and_is_the_same_after_saving(stem, tokens, attention, tmp_path):
    torch.manual_seed(0)
    model = create_student(
        "pocket_xs", num_classes=5, image_size=16, patch_size=4, tokens=tokens, stem=stem, attention=attention
    ).eval()
    stock = (stem, attention) == ("patch", "plain")
    x = pictures("noise", 16, torch.float32)
    assert model.pos_embed.shape[1] == 1 + tokens + (32 if stem == "concatenated" else 16)
    assert [tuple(head.shape) for head in forward_heads(model, x)] == [(2, 5)] * (1 + tokens)
    save_model(model, tmp_path, classes=tuple("abcde"))
    loaded = load_model(tmp_path)
    assert torch.equal(loaded.module(x), model(x))
    assert loaded.config["pocketvit"]["needs_pocketvit"] is not (stock and tokens < 2)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("stem", NEW)
def test_everything_learns_and_the_optimizer_takes_it(stem):
    model = create_student("pocket_xs", num_classes=5, image_size=16, tokens=2, stem=stem, attention="local").train()
    build_optimizer(model, TrainConfig())
    for head in model.get_classifier():
        nn.init.normal_(head.weight)
    sum(head.square().sum() for head in forward_heads(model, torch.randn(4, 3, 16, 16))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_plain_patches_and_attention_stay_stock_timm():
    model = create_student("vit_tiny_patch16_224", num_classes=5, image_size=32, patch_size=8)
    assert model.pocket_recipe["architecture"] == "vit_tiny_patch16_224"
    assert type(model.patch_embed) is timm.layers.PatchEmbed


@pytest.mark.parametrize(
    "name", ["deit3_small_patch16_224", "vit_small_patch16_18x2_224", "vit_medium_patch16_gap_240"]
)
def test_any_timm_vit_takes_shifted_patches(name):
    model = create_student(name, num_classes=3, image_size=32, patch_size=8, stem="concatenated").eval()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    assert model.pos_embed.shape[1] in (32, 33)


def test_blocks_are_found_and_read_as_in_any_vit():
    """Concatenated tokens are one grid below the other."""
    model = create_student("pocket_xs", num_classes=3, image_size=16, patch_size=4, stem="concatenated").eval()
    assert list_layers(model, 16).blocks() == [f"blocks.{index}" for index in range(4)]
    maps = model.forward_intermediates(torch.randn(1, 3, 16, 16), indices=[3], intermediates_only=True)
    assert tuple(maps[0].shape) == (1, 96, 8, 4)


def test_the_exported_file_computes_the_same(tmp_path):
    torch.manual_seed(0)
    model = create_student(
        "pocket_xs", num_classes=5, image_size=18, patch_size=4, tokens=2, stem="concatenated", attention="local"
    ).eval()
    model.blocks = model.blocks[:1]
    for head in model.get_classifier():
        nn.init.normal_(head.weight, std=0.5)
    path = export_onnx(model, tmp_path / "model.onnx", classes=tuple("abcde"))
    picture = np.random.default_rng(0).integers(0, 256, (5, 3, 18, 18), dtype=np.uint8)
    picture[0] = 200
    parity = check_parity(model, path, picture)
    assert parity.max_abs < 1e-4
    assert parity.agreement == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "resnet18"}, "resnet18 is no VisionTransformer"),
        ({"name": "vit_nope"}, "unknown model 'vit_nope'"),
        ({"attention": "global"}, "unknown attention 'global': choose one of plain, local"),
        ({"name": "vit_tiny_patch16_224", "stem": "coadvise", "tokens": 2}, "need a student of the ladder"),
    ],
)
def test_what_cannot_be_made_is_explained(changes, says):
    with pytest.raises(PocketError, match=says):
        create_student(**{"name": "pocket_xs", "num_classes": 3, "image_size": 16, "stem": "shifted", **changes})
