"""Normalization as a choice: definitions on hand cases, and any network's BatchNorm replaced."""

import copy

import pytest
import timm
import torch
from torch import nn

from pocketvit.errors import PocketError
from pocketvit.models import create_model, load_model, save_model
from pocketvit.models.norms import (
    StandardizedConv2d,
    batch_norms,
    keep_where_few,
    small_batch_warning,
    standardize,
    zero_init_last,
)
from pocketvit.models.renorm import replace_norm

KINDS = ("group", "group-ws", "layer", "instance", "frozen")


def stem(channels: int = 8) -> nn.Sequential:
    """A convolution and a BatchNorm that has seen something."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, channels, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    model(torch.randn(16, 3, 6, 6) + 1)
    return model


def by_hand(x: torch.Tensor, groups: int, norm: nn.Module) -> torch.Tensor:
    """Wu & He 2018, equations 1 to 6."""
    parts = x.reshape(len(x), groups, -1)
    mean, variance = parts.mean(2, keepdim=True), parts.var(2, keepdim=True, correction=0)
    normalized = ((parts - mean) / (variance + norm.eps).sqrt()).reshape(x.shape)
    return normalized * norm.weight[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize(("kind", "groups"), [("group", 4), ("layer", 1), ("instance", 8)])
def test_normalizes_over_its_groups_with_batchnorms_own_affine_weights(kind, groups):
    model = stem()
    weight, bias = model[1].weight.clone(), model[1].bias.clone()
    norm = replace_norm(model, kind)[1]
    assert torch.equal(norm.weight, weight)
    assert torch.equal(norm.bias, bias)
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(norm(x), by_hand(x, groups, norm))


@pytest.mark.parametrize(("channels", "groups", "wanted"), [(64, 32, 32), (48, 32, 8), (7, 32, 1), (64, 16, 16)])
def test_channels_that_do_not_divide_get_fewer_groups(channels, groups, wanted):
    assert replace_norm(nn.BatchNorm2d(channels), "group", groups=groups).num_groups == wanted


def test_standardized_filters_follow_the_formula_and_leave_their_own_weights():
    model = stem()
    weight = model[0].weight.clone()
    convolution = replace_norm(model, "group-ws")[0]
    assert isinstance(convolution, StandardizedConv2d)
    assert torch.equal(convolution.weight, weight)
    flat = weight.flatten(1)
    wanted = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(standardize(weight), wanted.view_as(weight))
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(convolution(x), torch.conv2d(x, wanted.view_as(weight)))


def test_only_convolutions_that_a_norm_follows_are_standardized():
    model = replace_norm(create_model("cifar_rednet11", num_classes=3), "group-ws")
    involution = model.stages[0][0].involution
    assert isinstance(involution.reduce, StandardizedConv2d)
    assert type(involution.span) is nn.Conv2d  # makes the kernels; nothing normalizes them
    biased = replace_norm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)), "group-ws")
    assert [type(biased[0]), type(biased[2])] == [StandardizedConv2d, nn.Conv2d]


def test_a_frozen_norm_answers_as_before_and_changes_in_no_step():
    model = stem().eval()
    x = torch.randn(2, 3, 6, 6)
    wanted = model(x)
    frozen = replace_norm(model, "frozen").train()
    torch.testing.assert_close(frozen(x), wanted)
    before = {name: value.clone() for name, value in frozen[1].state_dict().items()}
    frozen(x + 3).sum().backward()
    assert set(before) == {"weight", "bias", "running_mean", "running_var"}
    assert not list(frozen[1].parameters())
    assert all(torch.equal(before[name], value) for name, value in frozen[1].state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_activation_stays(kind):
    fused = timm.layers.BatchNormAct2d(8, act_layer=nn.LeakyReLU).eval()
    plain = nn.BatchNorm2d(8).eval()
    x = torch.randn(2, 8, 4, 4)
    wanted = nn.functional.leaky_relu(replace_norm(plain, kind)(x), fused.act.negative_slope)
    torch.testing.assert_close(replace_norm(fused, kind)(x), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "cifar_resnet8", "cifar_rednet11"])
def test_any_network_is_converted_saved_and_loaded(name, kind, tmp_path):
    torch.manual_seed(0)
    model = replace_norm(create_model(name, num_classes=3), kind).eval()
    assert not batch_norms(model)
    folder = save_model(model, tmp_path / "model", classes=("a", "b", "c"))
    loaded = load_model(folder)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded.module(x), model(x))
    assert loaded.config["architecture"] == "pocketvit_renormed"
    assert loaded.config["pocketvit"]["needs_pocketvit"]


def test_a_network_that_timm_made_alone_is_saved_too(tmp_path):
    model = replace_norm(timm.create_model("test_resnet", num_classes=3), "group", groups=8).eval()
    loaded = load_model(save_model(model, tmp_path / "model")).module
    assert loaded.bn1.num_groups == model.bn1.num_groups == 8
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(x), model(x))


@pytest.mark.parametrize("kind", ["group", "group-ws", "layer"])
def test_no_answer_depends_on_the_batch(kind):
    torch.manual_seed(0)
    model = replace_norm(create_model("test_resnet", num_classes=3), kind).train()
    x = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "cifar_resnet8", "cifar_rednet11"])
def test_residual_blocks_start_as_their_shortcuts(name):
    model = replace_norm(create_model(name, num_classes=3), "group")
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
    count = zero_init_last(model)
    zeros = [norm for norm in model.modules() if isinstance(norm, nn.GroupNorm) and not norm.weight.any()]
    blocks = [module for module in model.modules() if type(module).__name__.endswith(("BasicBlock", "Bottleneck"))]
    assert count == len(zeros) == len(blocks) > 1


def test_batch_leaves_a_network_as_it_is_and_nothing_to_replace_is_an_error():
    model = stem()
    assert type(replace_norm(model, "batch")[1]) is nn.BatchNorm2d
    with pytest.raises(PocketError, match="no BatchNorm"):
        replace_norm(create_model("pocket_xs", num_classes=3, image_size=16), "group")
    with pytest.raises(PocketError, match="weight norm"):
        replace_norm(model, "weight norm")


def test_the_warning_counts_images_of_layers_that_are_in_training_mode():
    model = stem().train()
    assert small_batch_warning(model, 16) is None
    assert "from batches of 15 images" in small_batch_warning(model, 15)
    assert small_batch_warning(model.eval(), 2) is None
    assert small_batch_warning(replace_norm(stem(), "frozen").train(), 2) is None
    assert small_batch_warning(replace_norm(stem(), "group").train(), 1) is None


def test_a_synchronized_norm_counts_the_images_of_all_processes():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(stem()).train()
    assert small_batch_warning(model, 8, world=2) is None
    assert small_batch_warning(stem().train(), 8, world=2) is not None


def test_a_trained_network_keeps_statistics_where_a_batch_has_no_better():
    model = timm.create_model("test_resnet.r160_in1k", num_classes=2)
    assert "keep their statistics: they were folded" in keep_where_few(copy.deepcopy(model), 64)
    exactly = copy.deepcopy(model)
    for _, layer in batch_norms(exactly):
        layer.running_var -= layer.eps  # so that the layer divides by one
    assert "they were folded" in keep_where_few(exactly, 64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
    live, few = copy.deepcopy(model), copy.deepcopy(model)
    assert keep_where_few(live, 16) == ""
    assert "batches of 8 images have no better ones" in keep_where_few(few, 8)
    x = torch.randn(4, 3, 32, 32)
    wanted = model.eval()(x)
    few = copy.deepcopy(few.train())  # as an average of weights does
    assert torch.allclose(few.train()(x), wanted, atol=1e-5)
    assert not torch.allclose(live.train()(x), wanted, atol=1e-2)
    few(x).sum().backward()
    assert next(layer for _, layer in batch_norms(few)).weight.grad is not None
    assert small_batch_warning(few, 2) is None
