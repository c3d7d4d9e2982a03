"""The convolutional stem: any picture and student size, what it saves, exports and lends to other parts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

from pocketvit.deployment.export import export_onnx
from pocketvit.deployment.parity import check_parity
from pocketvit.errors import PocketError
from pocketvit.models import LADDER, create_student, default_patch, forward_heads, load_model, save_model
from pocketvit.models.conv_stem import ConvEmbed, ResidualBlock
from pocketvit.models.renorm import replace_norm
from pocketvit.models.taps import list_layers


def student(size=16, *, warm=True, **changes):
    """A student whose running statistics and head are not those of the first moment."""
    torch.manual_seed(0)
    model = create_student("pocket_xs", **{"num_classes": 5, "image_size": size, "stem": "conv", **changes})
    heads = model.get_classifier()
    for head in heads if isinstance(heads, tuple) else (heads,):
        nn.init.normal_(head.weight, std=0.5)
    for block in [module for module in model.modules() if isinstance(module, ResidualBlock)]:
        nn.init.ones_(block.bn2.weight)
    if warm:
        model.train()(torch.randn(8, 3, size, size))
    return model.eval()


@pytest.mark.parametrize(
    ("size", "patch", "grid"),
    [
        (8, 2, 4),
        (16, 4, 4),
        (28, 8, 4),
        (32, 8, 4),
        (64, 16, 4),
        (96, 16, 6),
        (128, 16, 8),
        (160, 16, 10),
        (224, 16, 14),
    ],
)
def test_sixteen_to_two_hundred_tokens_of_any_picture(size, patch, grid):
    assert default_patch(size, "conv") == patch
    model = create_student("pocket_xs", num_classes=3, image_size=size, stem="conv").eval()
    assert model.patch_embed.grid_size == (grid, grid)
    assert model.patch_embed(torch.randn(1, 3, size, size)).shape == (1, grid * grid, 96)
    assert model(torch.randn(1, 3, size, size)).shape == (1, 3)


@pytest.mark.parametrize("size", [9, 17, 31, 33, 50, 97])
def test_sides_need_not_divide(size):
    model = student(size, warm=False)
    assert model(torch.randn(2, 3, size, size)).shape == (2, 5)
    assert model.pos_embed.shape[1] == model.patch_embed.num_patches == (-(-size // default_patch(size, "conv"))) ** 2


@pytest.mark.parametrize("name", [name for name in LADDER if name != "pocket_xxs"])  # its stem outweighs what it saves
def test_every_larger_size_of_the_ladder_is_lighter_than_on_patches(name):
    with torch.device("meta"):
        conv, plain = (create_student(name, num_classes=10, image_size=32, stem=stem) for stem in ("conv", "patch"))
    assert sum(p.numel() for p in conv.parameters()) < sum(p.numel() for p in plain.parameters())


def test_the_measured_network():
    """notes: 3 -> 24, 48 / 2 and a block, 72 / 2 and a block, 128 / 2; three blocks of 128; 0.86 M parameters."""
    model = create_student("pocket_s", num_classes=10, image_size=32, stem="conv")
    shapes = [(m.out_channels, m.stride[0]) for m in model.patch_embed.modules() if isinstance(m, nn.Conv2d)]
    assert sorted(shapes) == sorted([(24, 1), (48, 2), (48, 1), (48, 1), (72, 2), (72, 1), (72, 1), (128, 2)])
    assert (len(model.blocks), model.embed_dim, model.cls_token) == (3, 128, None)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(0.859e6, rel=1e-3)


def test_a_block_starts_as_its_shortcut():
    block, x = ResidualBlock(8).train(), torch.randn(2, 8, 5, 5).abs()
    assert torch.equal(block(x), x)


def test_large_pictures_are_halved_at_once():
    small, large = (create_student("pocket_xs", num_classes=3, image_size=size, stem="conv") for size in (48, 49))
    assert (small.patch_embed.stages[0][0].stride, large.patch_embed.stages[0][0].stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize("attention", ["plain", "local"])
@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_saved_and_loaded_it_is_the_same(tokens, attention, tmp_path):
    model, x = student(tokens=tokens, attention=attention), torch.randn(2, 3, 16, 16)
    assert [tuple(head.shape) for head in forward_heads(model, x)] == [(2, 5)] * (1 + tokens)
    assert model.pos_embed.shape[1] == 16 + (1 + tokens if tokens else 0)
    save_model(model, tmp_path, classes=tuple("abcde"))
    loaded = load_model(tmp_path)
    assert torch.equal(loaded.module(x), model(x))
    assert loaded.config["pocketvit"]["needs_pocketvit"] is True
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(("size", "larger"), [(16, 24), (28, 50), (64, 49)])
def test_loaded_for_another_picture_it_keeps_its_layers_and_resamples_positions(size, larger, tmp_path):
    model = student(size)
    nn.init.normal_(model.pos_embed)
    save_model(model, tmp_path)
    other = load_model(tmp_path, input_size=larger).module
    assert other(torch.randn(1, 3, larger, larger)).shape == (1, 5)
    mine, theirs = (dict(one.patch_embed.named_parameters()) for one in (model, other))
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert other.pos_embed.mean().item() == pytest.approx(model.pos_embed.mean().item(), abs=0.1)


def test_another_picture_is_refused_though_it_would_give_as_many_tokens():
    with pytest.raises(ValueError, match=r"\(30, 30\) pixels for a student made for \(32, 32\)"):
        student(32, warm=False)(torch.randn(1, 3, 30, 30))


@pytest.mark.parametrize(("size", "patch"), [(16, 6), (16, 1), (64, 2)])
def test_patches_that_halving_does_not_give_are_explained(size, patch):
    with pytest.raises(PocketError, match=r"halves the picture.*--patch"):
        student(size, patch_size=patch)


def test_only_students_of_the_ladder_have_it():
    with pytest.raises(PocketError, match="the conv stem needs a student of the ladder"):
        create_student("vit_tiny_patch16_224", num_classes=3, image_size=32, stem="conv")


@pytest.mark.parametrize("tokens", [0, 1])
def test_the_exported_file_computes_the_same_with_normalization_folded(tokens, tmp_path):
    model = student(tokens=tokens)
    model.blocks = model.blocks[:1]
    path = export_onnx(model, tmp_path / "model.onnx", classes=tuple("abcde"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    parity = check_parity(model, path, pixels)
    assert parity.max_abs < 1e-4
    assert parity.agreement == 1
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}


def test_groups_take_the_place_of_batch_norm_and_are_saved(tmp_path):
    model = replace_norm(student(warm=False), "group")
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(model.train()(x)[:1], model(x[:1]))
    save_model(model, tmp_path)
    assert torch.equal(load_model(tmp_path).module(x), model.eval()(x))


def test_features_of_stem_and_blocks_can_be_compared():
    layers = list_layers(student(32, warm=False), 32)
    assert layers.named("patch_embed.stages.1") == "patch_embed.stages.1"
    assert layers.grid("patch_embed.stages.1") == (16, 16)
    assert layers.blocks() == ["blocks.0", "blocks.1", "blocks.2"]
    assert [layers.grid(name) for name in (layers.last(), "blocks.1")] == [(4, 4)] * 2
    assert layers.attentions()


def test_every_weight_learns():
    model = student(warm=False).train()
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_it_stands_alone():
    embed = ConvEmbed((20, 12), 4, 1, 32, width=8, stride=1)
    assert embed(torch.randn(1, 1, 20, 12)).shape == (1, 15, 32)
