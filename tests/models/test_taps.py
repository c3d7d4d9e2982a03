"""Layers are found by path or timm's feature names, listed in order, and recorded only while wanted."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from pocketvit.errors import PocketError
from pocketvit.models import create_model, create_student
from pocketvit.models.taps import Taps, find_layer, list_layers


@pytest.fixture(scope="module")
def vit():
    return list_layers(create_student("pocket_xs", num_classes=3, image_size=16, patch_size=4, tokens=1), 16)


@pytest.fixture(scope="module")
def conv():
    return list_layers(create_model("cifar_resnet20", num_classes=3), 16)


def test_a_layer_is_named_by_its_path_or_as_timm_names_features():
    model = timm.create_model("test_convnext", num_classes=3)
    assert find_layer(model, "stages.1")[0] == find_layer(model, "stages_1")[0] == "stages.1"


def test_an_unknown_layer_names_near_ones(conv):
    with pytest.raises(PocketError, match=r"no layer 'layer9'.*layer3"):
        conv.named("layer9")


def test_a_layer_without_places_is_refused(conv):
    with pytest.raises(PocketError, match=r"'linear'.*no feature map"):
        conv.named("linear")


def test_the_last_layer_of_a_network_is_what_is_pooled(vit, conv):
    assert conv.last() == "layer3"
    assert conv.grid("layer3") == (4, 4)
    assert conv.channels("layer3") == 64
    assert vit.last() == "norm"
    assert vit.grid("norm") == (4, 4)
    assert vit.channels("norm") == 96


def test_stages_are_the_last_layers_of_each_grid(conv):
    assert conv.stages() == ["layer1", "layer2", "layer3"]


def test_tokens_become_a_map_without_the_class_token(vit):
    tokens = torch.arange(2 * 18 * 96.0).reshape(2, 18, 96)  # a class and a distillation token, 4 x 4 patches
    grid = vit.map("blocks.0", tokens)
    assert grid.shape == (2, 96, 4, 4)
    assert torch.equal(grid[1, :, 2, 3], tokens[1, 2 + 4 * 2 + 3])


def test_maps_with_channels_last_are_turned():
    """As timm's Swin gives them."""

    class Last(nn.Module):
        output_fmt = "NHWC"

        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 5, 4, 4)
            self.turn = nn.Identity()

        def forward(self, x):
            return self.turn(self.body(x).permute(0, 2, 3, 1)).mean((1, 2))

    layers = list_layers(Last(), 8)
    assert layers.channels("turn") == 5
    assert layers.grid("turn") == (2, 2)
    assert layers.map("turn", torch.zeros(1, 2, 2, 5)).shape == (1, 5, 2, 2)


def test_listing_leaves_the_network_as_it_was():
    model = create_model("cifar_resnet20", num_classes=3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    list_layers(model, 16)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_taps_record_once_and_stop_when_removed():
    model = create_model("cifar_resnet20", num_classes=3).eval()
    taps = Taps(model, ["layer2"])
    model(torch.zeros(1, 3, 16, 16))
    assert taps.take()["layer2"].shape == (1, 32, 8, 8)
    assert taps.take() == {}
    taps.remove()
    model(torch.zeros(1, 3, 16, 16))
    assert taps.take() == {}


def test_taps_for_training_ignore_evaluation():
    model = create_model("cifar_resnet20", num_classes=3).eval()
    taps = Taps(model, ["layer2"], training_only=True)
    model(torch.zeros(2, 3, 16, 16))
    assert taps.take() == {}
    model.train()(torch.zeros(2, 3, 16, 16))
    assert set(taps.take()) == {"layer2"}


@pytest.mark.parametrize(
    "name",
    ["swin_tiny_patch4_window7_224", "edgenext_xx_small", "pvt_v2_b0", "mobilevit_xxs", "regnety_002"],
)
def test_stages_are_the_networks_own_parts_with_a_grid_that_shrinks(name):
    layers = list_layers(timm.create_model(name, num_classes=3), 224)
    stages = layers.stages()
    sides = [layers.grid(stage)[0] for stage in stages]
    assert sides == sorted(set(sides), reverse=True)
    assert sides[-3:] == [28, 14, 7]
    assert all(stage.count(".") <= 1 for stage in stages)
    assert all(word not in stage for stage in stages for word in ("attn", "mlp", "downsample"))


def test_a_class_token_that_comes_late_is_no_patch_of_the_layers_before():
    layers = list_layers(timm.create_model("cait_xxs24_224", num_classes=3), 224)
    assert layers.grid("blocks.23") == (14, 14)
    assert layers.map("blocks.23", torch.zeros(1, 196, 192)).shape == (1, 192, 14, 14)
