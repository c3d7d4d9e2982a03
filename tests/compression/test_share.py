"""Blocks that share layers: fewer weights, saved once, loaded again, the same in the exported file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compression_fakes import INPUT, PIXELS, cosine, exported, run, student, weight_bytes

from pocketvit.compression import answers, prune, share
from pocketvit.errors import PocketError
from pocketvit.models import create_model, load_model
from pocketvit.models.inputs import config_of
from pocketvit.models.saving import save_model


def count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def linear_weights(model) -> int:
    names = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    return sum(p.numel() for name, p in model.named_parameters() if any(f"{one}." in name for one in names))


def test_linear_layers_of_a_group_are_there_once_and_begin_as_their_mean():
    model = student(depth=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = share(model, 2)
    assert linear_weights(small) == linear_weights(model) // 2
    mean = (before["blocks.2.mlp.fc1.weight"] + before["blocks.3.mlp.fc1.weight"]) / 2
    torch.testing.assert_close(small.blocks[2].mlp.fc1.weight, mean)
    assert small.blocks[3].mlp.fc1 is small.blocks[2].mlp.fc1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_blocks_that_were_alike_answer_as_before():
    """Head mixing and the depthwise convolution begin as the identity."""
    model = student(depth=2)
    model.blocks[1].load_state_dict(model.blocks[0].state_dict())
    torch.testing.assert_close(
        answers(share(model, 2), PIXELS[:8], INPUT), answers(model, PIXELS[:8], INPUT), rtol=1e-4, atol=1e-4
    )


def test_the_last_group_is_smaller_where_the_depth_is_no_multiple():
    model = student(depth=3)
    small = share(model, 2)
    torch.testing.assert_close(small.blocks[2].attn.qkv.weight, model.blocks[2].attn.qkv.weight)


def test_the_pictures_that_a_shared_student_is_fed_stay_as_they_were():
    model = student()
    vars(model)["pretrained_cfg"] = {**config_of(model), "mean": (0.5, 0.4, 0.3), "crop_pct": 0.8}
    told = config_of(share(model, 2))
    assert (told["mean"], told["crop_pct"]) == ((0.5, 0.4, 0.3), 0.8)


def test_sharing_survives_saving_and_export(tmp_path):
    model = student(depth=4, embed_dim=96, num_heads=3)
    small = share(model, 4)
    save_model(small, tmp_path / "student", classes=("a", "b", "c", "d"))
    again = load_model(tmp_path / "student")
    assert again.config["pocketvit"]["needs_pocketvit"] is True
    assert count(again.module) == count(small)
    torch.testing.assert_close(answers(again.module, PIXELS[:8], INPUT), answers(small, PIXELS[:8], INPUT))
    graph = exported(small, tmp_path)
    assert weight_bytes(graph) < 1.1 * 4 * count(small)
    assert cosine(run(graph, PIXELS[:8]), answers(small, PIXELS[:8], INPUT)) > 0.9999


def test_what_cannot_share_is_refused():
    with pytest.raises(PocketError, match=r"this student has 2\. Give 2\."):
        share(student(), 3)
    with pytest.raises(PocketError, match="no VisionTransformer"):
        share(create_model("resnet18", num_classes=4))
    shared = share(student(), 2)
    with pytest.raises(PocketError, match="share their layers already"):
        share(shared, 2)
    with pytest.raises(PocketError, match="Prune first"):
        prune(shared, 0.5)


def test_every_shared_layer_learns(tmp_path):
    small = share(student(), 2).train()
    small(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert all(parameter.grad is not None and np.isfinite(parameter.grad.norm()) for parameter in small.parameters())
