"""Muon: orthogonal updates of matrices, AdamW for the rest, and every shape of layer goes where it belongs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from training_fakes import config, tiny_vit

from pocketvit.models import create_model, create_student
from pocketvit.training.muon import Muon, orthogonalize
from pocketvit.training.optim import build_optimizer, matrix_parts


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_definition(matrix: torch.Tensor) -> torch.Tensor:
    """Jordan's iteration in float64, one matrix at a time."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(8, 8), (8, 10), (8, 40), (1, 5)])
@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_the_short_cut_is_the_iteration_whatever_the_spectrum(shape, spread):
    matrices = noise(3, *shape) * torch.logspace(0, -spread, shape[0])[:, None]
    expected = torch.stack([by_definition(one) for one in matrices])
    torch.testing.assert_close(orthogonalize(matrices).double(), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_come_close_to_one_and_singular_vectors_stay(dtype):
    matrix = noise(1, 12, 30)
    found = orthogonalize(matrix, dtype)[0]
    assert found.dtype == torch.float32
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix[0], full_matrices=False)
    polar = u @ v
    assert (found * polar).sum() / (found.norm() * polar.norm()) > 0.98


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_matrices_are_turned_in_the_arithmetic_of_the_run(precision, dtype):
    assert build_optimizer(tiny_vit(), config(optimizer="muon", precision=precision)).dtype == dtype


def test_nothing_becomes_of_nothing():
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 7)), torch.zeros(2, 3, 7))


def test_a_step_is_the_formula():
    """Two steps of a tall, a wide and a qkv matrix and of a convolution, by the lines of the module's docstring."""
    shapes, parts = [(12, 4), (4, 12), (12, 4), (6, 3, 3, 3)], [1, 1, 3, 1]
    weights = [nn.Parameter(noise(*shape, seed=n)) for n, shape in enumerate(shapes)]
    expected = [p.detach().clone() for p in weights]
    momenta = [torch.zeros_like(p) for p in weights]
    optimizer = Muon([{"params": weights, "parts": parts, "muon": True}], lr=0.1, weight_decay=0.5)
    for step in range(2):
        for n, p in enumerate(weights):
            p.grad = noise(*p.shape, seed=10 + 4 * step + n)
            momenta[n] = 0.95 * momenta[n] + 0.05 * p.grad
            nesterov = 0.05 * p.grad + 0.95 * momenta[n]
            expected[n] = expected[n] * (1 - 0.1 * 0.5)
            pieces = []
            for piece in nesterov.flatten(1).chunk(parts[n]):
                wide = piece if piece.shape[0] <= piece.shape[1] else piece.T
                turned = by_definition(wide).float()
                turned = turned if wide is piece else turned.T
                pieces.append(0.2 * max(piece.shape) ** 0.5 * turned)
            expected[n] -= 0.1 * torch.cat(pieces).view_as(p)
        optimizer.step()
    for p, value in zip(weights, expected, strict=True):
        torch.testing.assert_close(p.detach(), value, atol=1e-5, rtol=1e-4)


def test_the_other_groups_are_adamw():
    ours, theirs = (nn.Linear(5, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    muon = Muon([{"params": list(ours.parameters()), "lr": 3e-3, "weight_decay": 0.1}])
    adamw = torch.optim.AdamW(theirs.parameters(), lr=3e-3, weight_decay=0.1, betas=(0.9, 0.99))
    for step in range(4):
        for model, optimizer in ((ours, muon), (theirs, adamw)):
            model.zero_grad()
            model(noise(7, 5, seed=step)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))


def test_parameters_without_a_gradient_stay():
    used, unused = nn.Parameter(noise(3, 4)), nn.Parameter(noise(3, 4))
    before = unused.detach().clone()
    optimizer = Muon([{"params": [used, unused], "muon": True}])
    used.grad = noise(3, 4)
    optimizer.step()
    assert torch.equal(unused.detach(), before)
    assert unused not in optimizer.state


def test_a_state_is_loaded_back_and_goes_on_alike():
    model = tiny_vit(drop=0.0)
    optimizer = build_optimizer(model, config(optimizer="muon"))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        optimizer.zero_grad()
        model(noise(4, 3, 8, 8, seed=seed)).square().sum().backward()
        optimizer.step()

    step(model, optimizer, 0)
    again = copy.deepcopy(model)
    restored = build_optimizer(again, config(optimizer="muon"))
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer, 1)
    step(again, restored, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def groups_of(model: nn.Module) -> dict[str, str]:
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for group in build_optimizer(model, config(optimizer="muon", weight_decay=0.05)).param_groups:
        kind = "muon" if group["muon"] else "adamw"
        found |= {names[id(p)]: f"{kind} {group['weight_decay']:g} {group['initial_lr']:g}" for p in group["params"]}
    return found


def test_matrices_go_to_muon_and_ends_and_vectors_to_adamw():
    model = create_student("pocket_xs", num_classes=5, image_size=16, stem="conv", tokens=1)
    found = groups_of(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    matrices = {name for name, kind in found.items() if kind == "muon 0.05 0.003"}
    linear = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    expected = {f"blocks.{block}.{layer}.weight" for block in range(len(model.blocks)) for layer in linear}
    stem = {"stages.1.0.weight", "stages.1.3.conv1.weight", "stages.1.3.conv2.weight", "proj.weight"}
    assert matrices == expected | {f"patch_embed.{name}" for name in stem}
    ends = {name for name, kind in found.items() if kind == "adamw 0.05 0.0018"}
    assert ends == {"patch_embed.stages.0.0.weight", "head.weight", "head_dist.weight"}
    assert {kind for name, kind in found.items() if name not in matrices | ends} == {"adamw 0 0.0018"}


def test_the_parts_of_a_weight():
    model = create_student("pocket_xs", num_classes=5, image_size=16)
    parts = matrix_parts(model)
    assert {parts[block.attn.qkv.weight] for block in model.blocks} == {3}
    assert {parts[block.mlp.fc1.weight] for block in model.blocks} == {1}
    grouped, depthwise = nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 3, groups=8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), grouped, depthwise, nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8, 2))
    assert matrix_parts(model) == {grouped.weight: 2, model[3].weight: 1}


def test_frozen_and_shared_weights_are_taken_once_or_not_at_all():
    model = create_student("pocket_xs", num_classes=5, image_size=16)
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    model.blocks[2].mlp.fc1.weight.requires_grad_(False)
    count = len(matrix_parts(create_student("pocket_xs", num_classes=5, image_size=16)))
    assert len(matrix_parts(model)) == count - 2
    assert "blocks.2.mlp.fc1.weight" not in groups_of(model)


@pytest.mark.parametrize("name", ["cifar_rednet20", "mobilenetv3_small_050", "mobilenetv4_conv_small"])
def test_networks_that_are_no_vits_can_be_trained_with_it(name):
    model = create_model(name, num_classes=3)
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(model, config(optimizer="muon", weight_decay=0.0))
    model(noise(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.grad.abs().sum() > 0}
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_parameters_without_groups_are_refused_rather_than_given_to_adamw():
    with pytest.raises(TypeError, match="build_optimizer"):
        Muon(nn.Linear(4, 4).parameters())
