"""Locality self-attention: a learned temperature a head, and no token looks at itself."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import Attention
from torch import nn

from pocketvit.config import TrainConfig
from pocketvit.errors import PocketError
from pocketvit.models import create_model, create_student
from pocketvit.models.local_attention import LocalAttention
from pocketvit.training.optim import build_optimizer


def local(dim=24, heads=3, **args):
    torch.manual_seed(0)
    return LocalAttention(Attention(dim, heads, **args)).eval()


def test_it_is_the_published_definition():
    """softmax(temperature * q k^T with the diagonal at -inf) v, head by head."""
    module, x = local(qkv_bias=True), torch.randn(2, 5, 24)
    nn.init.uniform_(module.temperature, 0.1, 2.0)
    q, k, v = (part.view(2, 5, 3, 8) for part in module.qkv(x).chunk(3, 2))
    heads = []
    for head in range(3):
        scores = module.temperature[head] * q[:, :, head] @ k[:, :, head].transpose(1, 2)
        scores[:, range(5), range(5)] = -torch.inf
        heads.append(scores.softmax(2) @ v[:, :, head])
    torch.testing.assert_close(module(x), module.proj(torch.cat(heads, 2)))


def test_no_token_sees_its_own_value():
    """With equal queries and keys each answer is the mean of the others; the class token is masked as well."""
    module = local()
    with torch.no_grad():
        module.qkv.weight.zero_()
        module.qkv.weight[48:] = torch.eye(24)
        module.proj.weight.copy_(torch.eye(24))
        module.proj.bias.zero_()
    x = torch.randn(1, 4, 24)
    torch.testing.assert_close(module(x), (x.sum(1, keepdim=True) - x) / 3)


def test_the_temperature_starts_at_the_usual_scale_one_a_head():
    module = local(dim=64, heads=4)
    torch.testing.assert_close(module.temperature.detach(), torch.full((4,), 16**-0.5))


def test_the_temperature_learns_and_is_not_decayed():
    model = create_student("pocket_xs", num_classes=3, image_size=16, attention="local")
    nn.init.normal_(model.head.weight)
    model(torch.randn(2, 3, 16, 16)).square().sum().backward()
    names = [f"blocks.{index}.attn.temperature" for index in range(4)]
    assert set(names) | {"pos_embed", "cls_token"} <= model.no_weight_decay()
    assert copy.deepcopy(model).no_weight_decay() == model.no_weight_decay()
    free = {
        id(p) for g in build_optimizer(model, TrainConfig()).param_groups if not g["weight_decay"] for p in g["params"]
    }
    for name in names:
        parameter = model.get_parameter(name)
        assert parameter.grad.abs().min() > 0
        assert id(parameter) in free


def test_a_plain_checkpoint_loads_but_for_the_temperature():
    plain = create_student("pocket_xs", num_classes=3, image_size=16)
    model = create_student("pocket_xs", num_classes=3, image_size=16, attention="local")
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert (sorted(missing), unexpected) == ([f"blocks.{index}.attn.temperature" for index in range(4)], [])


def test_normalized_queries_stay_normalized():
    """Networks with qk_norm keep it: the temperature scales what the norm returns."""
    module = local(qk_norm=True, norm_layer=nn.LayerNorm)
    x = torch.randn(1, 4, 24)
    before = module(x)
    with torch.no_grad():
        module.qkv.weight[:24] *= 7  # a query's length is normalized away
    torch.testing.assert_close(module(x), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("given", [{"attn_mask": torch.ones(4, 4, dtype=torch.bool)}, {"is_causal": True}])
def test_another_mask_is_refused(given):
    with pytest.raises(ValueError, match="mask of its own"):
        local()(torch.randn(1, 4, 24), **given)


def test_a_lone_token_is_refused_and_not_answered_with_nan():
    with pytest.raises(ValueError, match="two tokens"):
        local()(torch.randn(1, 1, 24))


def test_a_block_with_another_attention_is_named():
    with pytest.raises(PocketError, match="plain one"):
        create_model("pocketvit_vit", num_classes=3, image_size=32, attention="local", attn_layer="diff")
