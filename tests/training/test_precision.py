"""Steps in bfloat16 and with channels innermost: the fast ways give the gradients of the plain ones."""

import pytest
import timm
import torch
from torch import nn
from training_fakes import CLASSES, INPUT, TASK, config

from pocketvit.config import LossConfig
from pocketvit.models import create_student
from pocketvit.models.innermost import planes_for_group_norm
from pocketvit.training import Stepper
from pocketvit.training.precision import autocast, few_tokens, training

CPU = torch.device("cpu")


def gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(x).float().square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_attention_taken_apart_has_the_gradients_of_the_fused_one():
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=2, embed_dim=24, depth=2, num_heads=2, num_classes=CLASSES
    )
    x = torch.randn(4, 3, 8, 8)
    exact = gradients(model, x)
    norms = sum(g.square().sum() for g in exact.values()).sqrt()
    off = {}
    for name, context in (("fused", autocast("bf16", CPU)), ("apart", training("bf16", CPU, apart=few_tokens(model)))):
        with context:
            found = gradients(model, x)
        off[name] = float(sum((found[k] - exact[k]).square().sum() for k in exact).sqrt() / norms)
    assert off["apart"] < 0.03
    assert off["apart"] < 1.5 * off["fused"]


def test_attention_over_many_tokens_stays_fused_for_what_it_would_hold():
    assert few_tokens(create_student("pocket_xxs", num_classes=2, image_size=32, stem="conv"))
    assert few_tokens(create_student("pocket_xxs", num_classes=2, image_size=160, stem="hybrid"))
    assert not few_tokens(create_student("pocket_xxs", num_classes=2, image_size=224, stem="hybrid"))
    assert not few_tokens(nn.Linear(2, 2))


def group_norm_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), timm.layers.GroupNormAct(12, 3), nn.Flatten(), nn.LazyLinear(2),
        nn.Unflatten(1, (2, 1)), nn.GroupNorm(1, 2), nn.Flatten(),
    )  # fmt: skip


@pytest.mark.parametrize("channels_last", [False, True])
def test_group_norm_by_planes_gives_the_same_answers_and_gradients(channels_last):
    x, model = torch.randn(3, 3, 8, 8), group_norm_net()
    model(x)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    answer, plain = model(x), gradients(model, x)
    layouts = []
    model[2].register_forward_hook(lambda module, given, _: layouts.append(given[0].stride()[1]))
    hooks = planes_for_group_norm(model)
    torch.testing.assert_close(model(x), answer, atol=1e-4, rtol=1e-3)
    for name, gradient in gradients(model, x).items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-4, rtol=1e-3)
    assert set(layouts) == {1 if channels_last else 64}  # as they came
    for hook in hooks:
        hook.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (model[1], model[5], model[9]))


def test_a_stepper_takes_its_hooks_out_again():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4 * 36, CLASSES))
    stepper = Stepper(model, INPUT, TASK.loss(LossConfig(weight=0.0)), config(), 4, task=TASK)
    assert model[1]._forward_pre_hooks
    stepper.close()
    assert not model[1]._forward_pre_hooks
    assert not model[1]._forward_hooks
