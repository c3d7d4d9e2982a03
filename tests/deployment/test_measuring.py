"""Figures are what they say: operations counted by hand, times ordered, a tampered file caught."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pocketvit.deployment import check_parity, count_flops, count_parameters, measure, peak_memory
from pocketvit.deployment.latency import _latency
from pocketvit.deployment.signature import read_signature, write_signature
from pocketvit.errors import PocketError
from pocketvit.models.flops import count_bytes
from pocketvit.models.involution import Involution


def test_flops_of_a_convolution_and_a_linear_layer_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5))
    assert count_flops(model, 4) == 2 * (3 * 9 * 8 * 16) + 2 * (8 * 16 * 5)


def test_flops_see_fused_attention(plain):
    """A ViT by formula: patches, qkv, two attention products, projection and MLP in each block, the head."""
    n, d, depth = 17, 64, 2
    block = n * d * 3 * d + 2 * n * n * d + n * d * d + 2 * n * d * 4 * d
    expected = 2 * (16 * 192 * d + depth * block + d * 4)
    assert count_flops(plain.model, 32) == expected


def test_flops_of_involution_by_formula():
    """K*K*C*H*W multiply-accumulates for the generated kernels, besides the two convolutions that generate them."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 32, 1)
            self.inner = nn.Sequential(Involution(32, kernel_size=7, group_channels=16), Involution(32, 3))

        def forward(self, x):
            return self.inner(self.stem(x)).mean((2, 3))

    hw = 6 * 6
    generators = 2 * (32 * 8 * hw) + 8 * 49 * 2 * hw + 8 * 9 * 2 * hw
    assert count_flops(Net(), 6) == 2 * (3 * 32 * hw + generators + (49 + 9) * 32 * hw)


def test_counting_leaves_the_mode_alone_and_shared_weights_count_once():
    layer = nn.Linear(12, 12)
    model = nn.Sequential(nn.Flatten(), layer, layer, nn.Dropout()).train()
    assert count_parameters(model) == 12 * 12 + 12
    assert count_flops(model, 2) == 2 * 2 * 144
    assert model.training


def test_bytes_of_quantized_layers_are_those_in_their_tuples():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(10, 20))
    assert count_bytes(model) == 4 * count_parameters(model)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert 4 * 224 + 200 + 80 <= count_bytes(quantized) <= 4 * 224 + 200 + 80 + 32  # and a scale


def test_candidates_take_turns_and_slower_ones_read_slower(plain):
    calls: list[str] = []
    sides: set[tuple[str, int]] = set()

    class Sleeper(nn.Module):
        def __init__(self, name: str, seconds: float) -> None:
            super().__init__()
            self.name, self.seconds = name, seconds

        def forward(self, x):
            calls.append(self.name)
            sides.add((self.name, x.shape[-1]))
            time.sleep(self.seconds)
            return x

    before = torch.get_num_threads()
    candidates = {"a": Sleeper("a", 0.002), "b": Sleeper("b", 0.004), "file": plain.int8}
    found = measure(candidates, image_size={"a": 8, "b": 24}, seconds=0.1, min_runs=10)
    turns = calls[-2 * found["a"].runs :]
    assert turns == ["a", "b"] * found["a"].runs
    assert sides == {("a", 8), ("b", 24)}  # networks of different input sizes take turns too
    assert found["b"].p50 > found["a"].p50 >= found["a"].best >= 2
    assert found["a"].cpu < found["a"].p50  # sleeping is no processor time
    assert 0 < found["file"].p50 <= found["file"].p90
    assert torch.get_num_threads() == before


def test_calls_that_another_program_interrupted_do_not_count():
    wall, cpu = np.full(30, 3e-3), np.full(30, 2.9e-3)
    wall[:20] = 11e-3
    found = _latency(wall, cpu)
    assert (found.p50, found.p90, found.runs) == (pytest.approx(3), pytest.approx(3), 10)
    wall[:26] = 11e-3  # hardly one was left alone
    assert (_latency(wall, cpu).p50, _latency(wall, cpu).runs) == (pytest.approx(11), 30)


def test_peak_memory_of_a_fresh_process_grows_with_the_file(plain, tmp_path):
    small = peak_memory(plain.fp32)
    if small is None:
        pytest.skip("this system does not tell")
    assert 1 < small < 60  # not the hundred of the libraries
    model = onnx.load(plain.fp32)
    ballast = numpy_helper.from_array(np.ones((1, 8_000_000), np.float32), "ballast")
    model.graph.initializer.append(ballast)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["answer" if name == output else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("ReduceMax", ["ballast"], ["most"], keepdims=0))
    model.graph.node.append(onnx.helper.make_node("Mul", ["answer", "most"], [output]))
    onnx.save(model, tmp_path / "large.onnx")
    large = peak_memory(tmp_path / "large.onnx")
    assert large is not None
    assert large > small + 25


def test_a_file_that_cannot_run_is_named(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(PocketError, match=r"a\.onnx"):
        measure({"a": tmp_path / "a.onnx"})
    with pytest.raises(PocketError, match=r"a\.onnx"):
        peak_memory(tmp_path / "a.onnx")


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_tampered_file_is_not_let_pass(plain, tmp_path, factor):
    model = onnx.load(plain.fp32)
    weight = next(w for w in model.graph.initializer if w.name.endswith("patch_embed.proj.weight"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    write_signature(model, read_signature(model, "tampered.onnx"))
    onnx.save(model, tmp_path / "tampered.onnx")
    with pytest.raises(PocketError, match="does not compute what the PyTorch model computes"):
        check_parity(plain.model, tmp_path / "tampered.onnx", plain.pixels)
