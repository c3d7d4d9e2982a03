"""Sparse inversion: what is taken out of a ViT is exact, what is stopped stays, and other networks stay dense."""

import numpy as np
import pytest
import synthesis_fakes
import timm
import torch

from pocketvit.errors import PocketError
from pocketvit.models import create_student
from pocketvit.synthesis import InversionConfig, Priors, Procedural, invert_bank
from pocketvit.synthesis.inversion import Inverter
from pocketvit.synthesis.moving import Move
from pocketvit.synthesis.pruning import PatchPruning, attention_to, cost_share, kept_of, pruned, stops, why_dense
from pocketvit.teachers import load_teacher

STEMS = ("patch", "hybrid", "conv", "shifted", "summed", "concatenated", "coadvise")
STAY = Move(0, 0, torch.zeros(2, dtype=torch.bool))


def vit(stem="patch", **options):
    torch.manual_seed(0)
    tokens = 2 if stem == "coadvise" else 0
    return create_student("pocket_xxs", num_classes=3, image_size=32, stem=stem, tokens=tokens, **options).eval()


@pytest.fixture
def pictures():
    return torch.from_numpy(Procedural(3, 32).take(np.arange(2))).float() / 255


def hooks(module):
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in module.modules())


@pytest.mark.parametrize("stem", STEMS)
def test_kept_tokens_alone_are_what_the_blocks_of_every_stem_see(stem, pictures):
    model = vit(stem)
    assert why_dense(model, 32) == ""
    with pruned(model, 32, 2, pictures.device, 0.5) as pruning:
        pruning.look(STAY, listen=True)
        whole = model(pictures)
        pruning.stop(0.5)
        pruning.look(STAY, listen=False)
        part = model(pictures)
    assert hooks(model) == 0
    assert pruning.kept.shape == (2, kept_of(pruning.grid**2, 0.5, 1))
    torch.testing.assert_close(model(pictures), whole, rtol=0, atol=0)
    # By hand: embed, add positions, choose, and go through the blocks.
    tokens = model._pos_embed(model.patch_embed(pictures))
    rows = torch.cat([pruning.kept + number * pruning.grid**2 for number in range(pruning.sets)], 1) + pruning.prefix
    chosen = torch.stack([torch.cat([one[: pruning.prefix], one[own]]) for one, own in zip(tokens, rows, strict=True)])
    torch.testing.assert_close(part, model.forward_head(model.norm(model.blocks(model.norm_pre(chosen)))))


def test_attention_is_that_of_the_softmax_that_fused_attention_hides(pictures):
    for attention in ("plain", "local"):
        model = vit(attention=attention)
        layer = model.blocks[-1].attn
        seen = []
        handle = layer.qkv.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        model(pictures)
        handle.remove()
        q, k, v = seen[0].unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        # The output for values that are the unit vectors is the softmax itself.
        units = torch.eye(v.shape[2]).expand(*v.shape[:2], -1, -1)
        scale = layer.temperature[:, None, None] if attention == "local" else layer.scale
        mask = ~torch.eye(v.shape[2], dtype=torch.bool) if attention == "local" else None
        wanted = torch.nn.functional.scaled_dot_product_attention(q * scale, k, units, attn_mask=mask, scale=1.0)
        torch.testing.assert_close(attention_to(layer, seen[0], first=False), wanted.mean((1, 2)))
        torch.testing.assert_close(attention_to(layer, seen[0], first=True), wanted[:, :, 0].mean(1))


def test_patches_without_attention_go_and_are_found_under_every_move(pictures):
    model = vit()
    pruning = PatchPruning(model, 32, 2, pictures.device)
    move = Move(4, -8, torch.tensor([False, True]))  # whole patches of 4 pixels
    numbers = torch.arange(64).view(1, 1, 8, 8).expand(2, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    seen = move(numbers)[:, 0, ::4, ::4].flatten(1)  # which patch stands where
    pruning.look(move, listen=False)
    assert torch.equal(seen.gather(1, pruning._places), torch.arange(64).expand(2, 64))
    attention = torch.where(seen % 8 < 4, 1.0, 0.0)  # the left half of the picture, wherever it is seen
    pruning._seen = [attention]
    pruning.stop(0.5)
    assert torch.equal(pruning.kept, torch.arange(64).view(8, 8)[:, :4].flatten().expand(2, 32))
    assert torch.equal(pruning.mask()[0, 0], (torch.arange(32) < 16).expand(32, 32))
    pruning.remove()


def inverted(teacher, images, ratio, steps=12):
    config = InversionConfig(4, batch=4, steps=steps, prune_ratio=ratio)
    targets = torch.arange(4) % 3
    with Priors(teacher, config.priors) as priors:
        return Inverter(teacher, priors, config).run(images, targets, 0)


def test_stopped_patches_stay_as_they_began_and_a_ratio_of_none_is_dense():
    model = vit()
    teacher = load_teacher(model, input_size=32, norm="none", classes=synthesis_fakes.CLASSES)
    images = torch.from_numpy(Procedural(3, 32).take(np.arange(4)))
    sparse = inverted(teacher, images, 0.3)
    changed = (sparse != images).any(1).unflatten(1, (8, 4)).unflatten(3, (8, 4)).any(4).any(2).flatten(1)
    assert changed.sum(1).tolist() == [kept_of(64, 0.3, 4)] * 4
    assert torch.equal(inverted(teacher, images, 0.3), sparse)
    # So small a share stops nothing: hooks and all, it is the dense result to the bit.
    assert torch.equal(inverted(teacher, images, 0.001), inverted(teacher, images, 0.0))
    assert not torch.equal(inverted(teacher, images, 0.0), sparse)


def test_gradients_flow_to_kept_patches_alone(pictures):
    model = vit()
    with pruned(model, 32, 2, pictures.device, 0.3) as pruning:
        pruning.look(STAY, listen=True)
        x = pictures.clone().requires_grad_()
        (dense,) = torch.autograd.grad(model(x).square().sum(), x)
        pruning.stop(0.3)
        pruning.look(STAY, listen=False)
        (sparse,) = torch.autograd.grad(model(x).square().sum(), x)
    assert (dense != 0).all()
    assert torch.equal((sparse != 0).any(1, keepdim=True), pruning.mask())


def test_networks_whose_tokens_are_no_patches_are_inverted_as_before_and_it_is_said(tmp_path, caplog):
    caplog.set_level("INFO", "pocketvit")
    teacher = synthesis_fakes.teacher_of(synthesis_fakes.colour_network())
    invert_bank(tmp_path / "dense", teacher, InversionConfig(8, steps=4, confidence=0), progress=False)
    sparse = InversionConfig(8, steps=4, confidence=0, prune_ratio=0.3)
    bank = invert_bank(tmp_path / "bank", teacher, sparse, progress=False)
    assert "all of them, in every step: ColourNet cannot be shown a part (it is no plain ViT)" in caplog.text
    assert bank.provenance["provenance"]["config"]["prune_ratio"] == 0.3
    for module, size, words in (
        (timm.create_model("swin_tiny_patch4_window7_224"), 224, "no plain ViT"),
        (vit(), 30, "do not divide pictures of 30 pixels"),
        (timm.create_model("vit_tiny_patch16_224", patch_drop_rate=0.1), 224, "drops patches itself"),
    ):
        assert words in why_dense(module, size)
    with pytest.raises(PocketError, match="a prune_ratio of 1"):
        invert_bank(tmp_path / "none", teacher, InversionConfig(8, prune_ratio=1.0))


def test_a_bank_asked_for_without_pruning_says_what_it_said_before():
    assert "prune_ratio" not in InversionConfig().record
    assert InversionConfig(prune_ratio=0.3).record["prune_ratio"] == 0.3


def test_the_four_stops_come_early_and_save_what_the_plan_says():
    assert stops(4000) == (50, 100, 200, 300)
    assert stops(30) == (0, 1, 2, 3)
    assert stops(2) == (0, 1)
    assert kept_of(196, 0.3, 4) == 47
    assert kept_of(4, 0.9, 4) == 1
    assert cost_share(4000, 0.3) == pytest.approx(0.28, abs=0.02)
    assert cost_share(30, 0.0) == 1
