"""The teacher's first layers as stem: where a network is cut, what stays as it is, what is saved and exported."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

from pocketvit.config import TrainConfig
from pocketvit.deployment.export import export_onnx
from pocketvit.deployment.parity import check_parity
from pocketvit.errors import PocketError
from pocketvit.models import create_model, create_student, load_model, save_model
from pocketvit.models.inputs import NORMS
from pocketvit.models.saving import recipe_of
from pocketvit.models.taps import list_layers
from pocketvit.models.teacher_stem import MOST, choose_layer, first_layers
from pocketvit.training.optim import build_optimizer

SIDE = 32


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    model = create_model("cifar_resnet20", num_classes=4)
    model.train()(torch.randn(8, 3, SIDE, SIDE))  # statistics that are not those of the first moment
    return model.eval()


def student(teacher, *, layer="layer2", size=SIDE, norm="imagenet", **changes):
    mean, std = NORMS[norm]
    cut = {**recipe_of(teacher), "layer": layer, "mean": mean, "std": std}
    torch.manual_seed(1)
    model = create_student("pocket_xs", num_classes=4, image_size=size, stem="teacher", cut=cut, **changes)
    model.patch_embed.take(teacher)
    nn.init.normal_(model.head.weight, std=0.5)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "side", "ends"),
    [
        ("cifar_resnet20", 32, ["layer1", "layer2", "layer3"]),
        ("cifar_rednet11", 32, ["stages.0", "stages.1", "stages"]),
        ("resnet18", 96, ["act1", "layer1", "layer2", "layer3", "layer4"]),
        ("mobilenetv2_100", 96, ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "bn2"]),
        ("efficientnet_b0", 96, ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "bn2"]),  # with squeeze-excitation
        ("convnext_atto", 96, ["stages.0", "stages.1", "stages.2", "norm_pre"]),
        ("edgenext_xx_small", 96, ["stages.0", "stages.1", "stages.2", "norm_pre"]),  # with attention over channels
        ("vit_tiny_patch16_224", 224, []),
    ],
)
def test_stages_end_where_the_picture_becomes_smaller(name, side, ends):
    found = list_layers(timm.create_model(name), side).stages()
    assert found[:-1] == ends[:-1]
    assert len(found[len(ends) - 1 :]) <= 1


def test_the_deepest_stage_but_the_last_that_is_light_and_fine_enough(teacher):
    resnet = timm.create_model("resnet18")
    assert choose_layer(teacher, SIDE, places=4, weights=0) == "layer2"
    assert choose_layer(resnet, 128, places=8, weights=0) == "layer2"  # 0.7 M; layer3 has 2.8 M
    assert choose_layer(resnet, 128, places=8, weights=2 * MOST) == "layer3"
    assert choose_layer(resnet, 128, places=32, weights=2 * MOST) == "layer1"
    with pytest.raises(PocketError, match=r"ResNet is too heavy or too coarse .* 65 x 65 tokens of 128 pixels"):
        choose_layer(resnet, 128, places=65, weights=0)
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"):
        with pytest.raises(PocketError, match=r"has none \(--init-from teacher"):
            choose_layer(timm.create_model(name), 224, places=14, weights=0)


def test_a_student_that_has_such_layers_hands_them_on(teacher):
    first = student(teacher)
    second = student(teacher)
    nn.init.zeros_(second.patch_embed.layers.conv1.weight)
    second.patch_embed.take(first)
    assert torch.equal(second.patch_embed.layers.conv1.weight, teacher.conv1.weight)


def test_a_network_of_fixed_size_is_told_as_such():
    with pytest.raises(PocketError, match=r"Cait takes no pictures of 32 pixels"):
        choose_layer(timm.create_model("cait_xxs24_224"), 32, places=4, weights=0)


def test_a_network_that_torch_cannot_follow_is_named():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.one(x) if x.mean() > 0 else self.one(-x)

    with pytest.raises(PocketError, match=r"Branching cannot be cut at one, because torch\.fx cannot follow"):
        first_layers(Branching(), "one")


@pytest.mark.parametrize("norm", ["imagenet", "half", "none"])
def test_the_layers_see_what_the_teacher_sees(norm, teacher):
    """Of a picture with ImageNet's normalization they make what the teacher makes of it with its own."""
    model = student(teacher, norm=norm)
    picture = torch.rand(2, 3, SIDE, SIDE)
    (usual_mean, usual_std), (mean, std) = (
        [torch.tensor(one).view(1, 3, 1, 1) for one in NORMS[name]] for name in ("imagenet", norm)
    )
    seen = {}
    model.patch_embed.norm.register_forward_hook(lambda module, inputs, output: seen.update(map=inputs[0]))
    model((picture - usual_mean) / usual_std)
    theirs = first_layers(teacher, "layer2")((picture - mean) / std)["layer2"]
    assert torch.allclose(seen["map"], theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "patch", "grid"), [(32, None, 4), (28, None, 4), (32, 4, 8), (33, None, 5), (32, 2, 16)]
)
def test_tokens_of_any_picture(size, patch, grid, teacher):
    model = student(teacher, size=size, patch_size=patch)
    assert model.patch_embed.grid_size == (grid, grid)
    assert model.patch_embed(torch.randn(2, 3, size, size)).shape == (2, grid * grid, 96)
    assert model(torch.randn(2, 3, size, size)).shape == (2, 4)


def test_a_network_of_grey_pictures_lends_none():
    grey = timm.create_model("resnet18", in_chans=1)
    with pytest.raises(PocketError, match="see three channels"):
        student(grey, size=64)


def test_patches_finer_than_the_map_are_refused(teacher):
    with pytest.raises(PocketError, match=r"layer2 of cifar_resnet20 gives 16 x 16 places .* too few for patches of 1"):
        student(teacher, patch_size=1)


def test_training_moves_the_blocks_and_leaves_the_layers(teacher):
    model = student(teacher)
    before = {name: value.clone() for name, value in model.patch_embed.layers.state_dict().items()}
    optimizer = build_optimizer(model, TrainConfig(optimizer="muon", learning_rate=0.01))
    model.train()
    head = model.head.weight.clone()
    for _ in range(2):
        model(torch.randn(4, 3, SIDE, SIDE)).square().mean().backward()
        optimizer.step()
    after = model.patch_embed.layers.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not torch.equal(head, model.head.weight)
    pixels = torch.randn(1, 3, SIDE, SIDE, requires_grad=True)
    model(pixels).sum().backward()  # a student may be a teacher that images are made from
    assert pixels.grad.abs().sum() > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_answers_alike(copied, teacher):
    model, pictures = student(teacher), torch.randn(3, 3, SIDE, SIDE)
    again = copied(model)
    assert torch.equal(again(pictures), model(pictures))
    assert list(again.state_dict()) == list(model.state_dict())


def test_it_saves_loads_and_takes_no_other_networks_layers(teacher, tmp_path):
    model = student(teacher, norm="half")
    loaded = load_model(save_model(model, tmp_path / "student", classes="abcd"))
    pictures = torch.randn(3, 3, SIDE, SIDE)
    assert torch.equal(loaded.module(pictures), model(pictures))
    assert not any(weight.requires_grad for weight in loaded.module.patch_embed.layers.parameters())
    with pytest.raises(PocketError, match="the stem is of another network than ResNet"):
        model.patch_embed.take(timm.create_model("test_resnet"))


def test_it_exports(teacher, tmp_path):
    model = student(teacher)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, SIDE, SIDE), dtype=np.uint8)
    file = export_onnx(model, tmp_path / "model.onnx", classes=tuple("abcd"))
    assert not {node.op_type for node in onnx.load(file).graph.node} & {"BatchNormalization"}
    parity = check_parity(model, file, pixels)
    assert parity.agreement == 1


def test_an_involution_network_lends_its_layers_too():
    network = create_model("cifar_rednet11", num_classes=4).eval()
    model = student(network, layer="stages.1")
    assert model(torch.randn(2, 3, SIDE, SIDE)).shape == (2, 4)
