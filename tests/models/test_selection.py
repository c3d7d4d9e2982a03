"""Weight selection: what a ViT takes from a larger one, element by element."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from pocketvit.errors import PocketError
from pocketvit.models import create_model, create_student
from pocketvit.models.detector import create_detector
from pocketvit.models.selection import evenly, select_weights


def filled(model: nn.Module) -> nn.Module:
    """Return a network of which no two weights are alike."""
    generator = torch.Generator().manual_seed(1)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


def vit(width: int = 128, depth: int = 6, heads: int = 4, **more) -> nn.Module:
    args = {"img_size": 32, "patch_size": 8, "embed_dim": width, "depth": depth, "num_heads": heads, **more}
    return timm.create_model("vit_tiny_patch16_224", num_classes=7, **args)


def test_channels_are_evenly_spaced_and_the_ends_among_them():
    assert evenly(3, 9).tolist() == [0, 4, 8]
    assert evenly(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert len(set(evenly(64, 96).tolist())) == 64


def test_whole_heads_and_the_same_channels_everywhere():
    small, big = vit(64, 2, 2), filled(vit())
    assert select_weights(small, big) == "2 of 6 blocks, 64 of 128 channels, patches, positions"
    channels, heads = evenly(64, 128), evenly(2, 4)
    for mine, theirs in zip(small.blocks, big.blocks, strict=False):
        assert torch.equal(mine.norm1.weight, theirs.norm1.weight[channels])
        assert torch.equal(mine.mlp.fc2.weight, theirs.mlp.fc2.weight[channels][:, evenly(256, 512)])
        q, k, v = theirs.attn.qkv.weight.unflatten(0, (3, 4, 32)).unbind(0)
        for got, wanted in zip(mine.attn.qkv.weight.unflatten(0, (3, 2, 32)), (q, k, v), strict=True):
            assert torch.equal(got, wanted[heads][..., channels])
        there = theirs.attn.proj.weight.unflatten(1, (4, 32))
        assert torch.equal(mine.attn.proj.weight.unflatten(1, (2, 32)), there[channels][:, heads])
    assert torch.equal(small.patch_embed.proj.weight, big.patch_embed.proj.weight[channels])
    assert torch.equal(small.pos_embed, big.pos_embed[..., channels])
    assert torch.equal(small.cls_token, big.cls_token[..., channels])
    assert torch.equal(small.norm.bias, big.norm.bias[channels])


def test_the_same_network_is_a_copy_except_for_its_head():
    for stem in ("patch", "hybrid", "conv", "shifted"):
        big = filled(create_student("pocket_xxs", num_classes=4, image_size=32, stem=stem))
        small = create_student("pocket_xxs", num_classes=4, image_size=32, stem=stem)
        select_weights(small, big)
        there = big.state_dict()
        differing = {name for name, tensor in small.state_dict().items() if not torch.equal(tensor, there[name])}
        assert differing - {"norm_input.weight"} <= {"head.weight", "head.bias"} | {
            name for name in there if stem == "shifted" and name.startswith("patch_embed")
        }


def test_more_and_narrower_heads_keep_neighbours_together():
    small, big = vit(96, 2, 3), filled(vit(128, 2, 2))  # three heads of 32 channels out of two of 64
    select_weights(small, big)
    rows = big.blocks[0].attn.qkv.weight[evenly(96, 128)][:, evenly(96, 128)]
    assert torch.equal(small.blocks[0].attn.qkv.weight[:96], rows)


def test_another_size_of_picture_and_patch_is_resampled():
    small, big = vit(64, 2, 2, img_size=28, patch_size=7, class_token=False, global_pool="avg"), filled(vit())
    assert select_weights(small, big).endswith("patches, positions")
    assert torch.allclose(small.pos_embed, big.pos_embed[:, 1:, evenly(64, 128)])  # four by four in both
    assert torch.equal(small.fc_norm.weight, big.norm.weight[evenly(64, 128)])
    assert small(torch.randn(2, 3, 28, 28)).isfinite().all()


def test_a_detector_starts_from_a_classifier():
    small = create_detector("pocket_xxs", num_classes=2, image_size=64, stem="patch")
    big = filled(create_student("pocket_s", num_classes=9, image_size=64))
    assert select_weights(small, big).startswith("4 of 5 blocks, 64 of 128 channels")
    rows = big.blocks[3].mlp.fc1.weight[evenly(256, 512)]
    assert torch.equal(small.body.blocks[3].mlp.fc1.weight, rows[:, evenly(64, 128)])


@pytest.mark.parametrize(
    ("small", "big", "words"),
    [
        (lambda: vit(64, 8, 2), vit, "the student has 8 blocks, and the network to start from 6"),
        (lambda: vit(192, 2, 6), vit, "192 channels, and .* 128"),
        (vit, lambda: create_model("cifar_resnet20", num_classes=7), "CifarResNet. is no VisionTransformer"),
        (lambda: create_model("cifar_resnet20", num_classes=7), vit, r"the student .CifarResNet. is no"),
        (vit, lambda: timm.create_model("eva02_tiny_patch14_224"), "Eva. is no VisionTransformer"),
    ],
)
def test_what_cannot_be_a_start_is_told(small, big, words):
    with pytest.raises(PocketError, match=words):
        select_weights(small(), big())
