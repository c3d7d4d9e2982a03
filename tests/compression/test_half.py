"""fp16 files: half the bytes, and LayerNorms that do not overflow."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from compression_fakes import CLASSES, INPUT, OTHERS, cosine, exported, run, student, weight_bytes
from onnx import TensorProto, numpy_helper

from pocketvit.compression import answers, to_fp16, write_integers
from pocketvit.deployment import export_onnx
from pocketvit.errors import PocketError
from pocketvit.views.preprocessing import Preprocessing


def test_half_the_bytes_and_the_same_answers(plain):
    model, graph = plain
    half = to_fp16(graph)
    assert weight_bytes(half) < 0.6 * weight_bytes(graph)
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert half.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert cosine(run(half, OTHERS), answers(model, OTHERS, INPUT)) > 0.9999


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    """A ViT with activations of some hundreds in front of its norms, as large trained ones have."""
    model = student()
    with torch.no_grad():
        model.pos_embed.mul_(4000)
    return model, exported(model, tmp_path_factory.mktemp("loud"))


def test_norms_of_large_activations_do_not_overflow(loud):
    """A LayerNorm squares its input: above 255 the variance is infinite in fp16, and the answer is nothing."""
    model, graph = loud
    inputs = []
    model.blocks[0].norm1.register_forward_pre_hook(lambda _, args: inputs.append(args[0].abs().max().item()))
    expected = answers(model, OTHERS, INPUT)
    assert max(inputs) > 255
    assert max(inputs) < 65504
    given = run(to_fp16(graph), OTHERS)
    assert np.isfinite(given).all()
    assert cosine(given, expected) > 0.999


def test_norms_stay_fp32(loud):
    half = to_fp16(loud[1])
    constants = {weight.name: weight.data_type for weight in half.graph.initializer}
    norms = [node for node in half.graph.node if node.op_type == "LayerNormalization"]
    assert norms
    assert all(constants[name] == TensorProto.FLOAT for node in norms for name in node.input if name in constants)


def test_a_quantized_graph_is_refused(plain):
    again = onnx.ModelProto()
    again.CopyFrom(plain[1])
    write_integers(again)
    with pytest.raises(PocketError, match="quantized already"):
        to_fp16(again)


def test_weights_that_fp16_cannot_hold_stay_fp32(tmp_path):
    model = student()
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[0, 0] = 1e5
    half = to_fp16(exported(model, tmp_path))
    arrays = [numpy_helper.to_array(weight) for weight in half.graph.initializer]
    floats = [array for array in arrays if array.dtype in (np.float16, np.float32)]
    assert max(float(np.abs(array).max(initial=0)) for array in floats) == pytest.approx(1e5)
    assert np.isfinite(run(half, OTHERS)).all()


def test_sizes_stay_fp32(tmp_path):
    class Larger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 4)

        def forward(self, x):
            return self.head(
                torch.nn.functional.interpolate(self.layer(x), scale_factor=2, mode="bilinear").mean((2, 3))
            )

    torch.manual_seed(0)
    model = Larger().eval()
    about = Preprocessing.plain(INPUT)
    half = to_fp16(onnx.load(export_onnx(model, tmp_path / "x.onnx", classes=CLASSES, preprocessing=about)))
    assert "Resize" in {node.op_type for node in half.graph.node}
    assert cosine(run(half, OTHERS), answers(model, OTHERS, INPUT)) > 0.9999
