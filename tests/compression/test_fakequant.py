"""Networks that round: what they round to, that they can learn, and that the file computes the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compression_fakes import INPUT, OTHERS, PIXELS, cosine, exported, run, student
from torch import nn

from pocketvit.compression import answers, fake_quantize, freeze, grids_of, quantizable, share, write_integers
from pocketvit.compression.calibration import Ranges
from pocketvit.compression.fakequant import best_scale, only, quantized, round_through
from pocketvit.errors import PocketError
from pocketvit.views.resize import to_input


@pytest.mark.parametrize("activations", ["dynamic", "static"])
@pytest.mark.parametrize("bits", [8, 7])
def test_eight_bits_change_little(plain, activations, bits):
    model, _ = plain
    rounded = fake_quantize(model, PIXELS, INPUT, activations=activations, bits=bits)
    given, expected = answers(rounded, OTHERS, INPUT), answers(model, OTHERS, INPUT)
    assert not torch.equal(given, expected)
    assert cosine(given, expected) > 0.97  # of random weights, which leave answers close together


def test_the_network_itself_is_left_alone(plain):
    model, _ = plain
    before = answers(model, OTHERS, INPUT)
    fake_quantize(model, PIXELS, INPUT, bits=2)
    assert torch.equal(answers(model, OTHERS, INPUT), before)
    assert not quantized(model)


def test_fewer_bits_are_worse_and_the_edges_keep_eight(plain):
    model, _ = plain
    expected = answers(model, OTHERS, INPUT)
    errors = []
    for bits in (8, 4, 2):
        rounded = fake_quantize(model, PIXELS, INPUT, bits=bits)
        errors.append(float((answers(rounded, OTHERS, INPUT) - expected).square().mean()))
        assert quantized(rounded)["patch_embed.proj"].bits == 8
        assert quantized(rounded)["blocks.1.mlp.fc2"].bits == bits
    assert errors == sorted(errors)


def test_layers_may_have_bits_of_their_own_or_stay(plain):
    model, _ = plain
    rounded = fake_quantize(model, PIXELS, INPUT, bits={"blocks.0.mlp.fc1": 2}, keep=["blocks.1.attn.qkv"])
    layers = quantized(rounded)
    assert layers["blocks.0.mlp.fc1"].bits == 2
    assert layers["blocks.0.mlp.fc2"].bits == 8
    assert "blocks.1.attn.qkv" not in layers
    with pytest.raises(PocketError, match=r"blocks\.9\.attn\.qkv: there are no such layers\. There are patch_embed"):
        fake_quantize(model, PIXELS, INPUT, keep=["blocks.9.attn.qkv"])


def test_what_has_no_layers_is_refused():
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * x.mean((2, 3))

    with pytest.raises(PocketError, match="has no layers that can be quantized"):
        fake_quantize(Mean(), PIXELS, INPUT)


def test_gradients_pass_a_rounding_as_if_it_were_not_there():
    x = torch.tensor([0.2, 1.7], requires_grad=True)
    round_through(x).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("learned", [True, False])
def test_a_rounding_network_learns(plain, learned):
    model, _ = plain
    rounded = fake_quantize(model, PIXELS, INPUT, bits=2, learned=learned).train()
    wanted = answers(model, PIXELS, INPUT)
    pixels = (PIXELS.float() / 255 - 0.5) / 0.25
    optimizer = torch.optim.Adam(rounded.parameters(), lr=2e-3)
    errors = []
    for _ in range(12):
        error = (rounded(pixels) - wanted).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0]
    assert learned == any("weight_scale" in name for name, _ in rounded.named_parameters())


def test_cutting_the_largest_off_pays_with_few_bits():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    weight[:, 0] = 4.0
    assert (best_scale(weight, 2) < weight.abs().amax(1) / 1).all()
    torch.testing.assert_close(best_scale(weight, 8), weight.abs().amax(1) / 127)


def test_only_named_layers_round_for_a_while(plain):
    model, _ = plain
    rounded = fake_quantize(model, PIXELS, INPUT, bits=4)
    with only(rounded, ()):
        assert torch.allclose(answers(rounded, OTHERS, INPUT), answers(model, OTHERS, INPUT), atol=1e-5)
    assert all(layer.rounds for layer in quantized(rounded).values())


@pytest.mark.parametrize("bits", [7, 4, 2])
def test_the_file_computes_what_the_training_saw(plain, tmp_path, bits):
    model, _ = plain
    rounded = fake_quantize(model, PIXELS, INPUT, bits=bits)
    frozen = freeze(rounded)
    assert not quantized(frozen)
    assert {type(layer) for _, layer in quantizable(frozen)} == {nn.Linear, nn.Conv2d}
    graph = exported(frozen, tmp_path)
    grids = grids_of(rounded)
    assert set(write_integers(graph, grids)) == set(grids)
    assert cosine(run(graph, OTHERS), answers(rounded, OTHERS, INPUT)) > 0.995  # sums that end between two integers


def test_integers_times_scale_are_the_rounded_weights(plain):
    model, _ = plain
    rounded = fake_quantize(model, PIXELS, INPUT, bits=4)
    for name, grid in grids_of(rounded).items():
        np.testing.assert_allclose(
            grid.weight(), quantized(rounded)[name].rounded_weight().detach().numpy(), rtol=1e-5, atol=1e-7
        )


def test_shared_layers_are_quantized_once():
    shared = share(student(depth=4), 2)
    rounded = fake_quantize(shared, PIXELS, INPUT)
    assert rounded.blocks[1].mlp.fc1 is rounded.blocks[0].mlp.fc1
    assert "blocks.1.mlp.fc1" not in quantized(rounded)
    assert cosine(answers(rounded, OTHERS, INPUT), answers(shared, OTHERS, INPUT)) > 0.99


@pytest.mark.parametrize("shape", [(64, 192), (64, 197, 192), (64, 50, 384), (64, 65, 128), (3, 7)])
def test_ranges_are_taken_from_every_channel(shape):
    channels = shape[-1]
    seen = Ranges()
    seen.add(torch.arange(channels).float().expand(shape))
    (kept,) = seen.values
    assert len(kept.unique()) == channels
    assert torch.bincount(kept.long()).float().std() <= 1 + 0.01 * len(kept) / channels


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_learned_scales_move_in_proportion_to_themselves(plain, optimizer):
    model, _ = plain
    rounded = fake_quantize(model, PIXELS, INPUT, bits=8, activations="static").train()
    before = {name: grid.scale.copy() for name, grid in grids_of(rounded).items()}
    steps = optimizer(rounded.parameters(), lr=1e-3)
    for _ in range(20):
        loss = rounded((PIXELS.float() / 255 - 0.5) / 0.25).square().mean()
        steps.zero_grad()
        loss.backward()
        steps.step()
    for name, grid in grids_of(rounded).items():
        assert (np.abs(np.log(grid.scale / before[name])) < 0.021).all()  # 20 steps of a thousandth, each way
        assert grid.input_scale is None or grid.input_scale > 0


@pytest.mark.parametrize("learned", [True, False])
def test_rows_of_zeros_stay_finite_in_training(learned):
    model = student()
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[3] = 0
    rounded = fake_quantize(model, PIXELS, INPUT, learned=learned).train()
    optimizer = torch.optim.Adam(rounded.parameters(), lr=1e-3)
    for _ in range(3):
        rounded(to_input(OTHERS, *INPUT)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(bool(value.isfinite().all()) for value in rounded.state_dict().values())


def test_layers_that_run_in_training_alone_are_left(tmp_path):
    class Helped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.helper, self.head = nn.Linear(768, 64), nn.Linear(64, 64), nn.Linear(64, 32)

        def forward(self, x):
            x = self.body(x.flatten(1))
            return self.head(self.helper(x) if self.training else x)

    rounded = fake_quantize(Helped(), PIXELS, INPUT)
    assert set(grids_of(rounded)) == {"body", "head"}
