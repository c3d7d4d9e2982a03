"""int8 files are really int8: a quarter of the size, nearly the same answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pocketvit.deployment import OnnxModel, check_parity, export_onnx, quantize_int8
from pocketvit.errors import PocketError
from pocketvit.models import create_model

from .conftest import ABOUT, CLASSES


def weight_bytes(path) -> int:
    return sum(numpy_helper.to_array(weight).nbytes for weight in onnx.load(path).graph.initializer)


def test_weights_take_a_quarter(plain):
    """Biases, norms and scales stay fp32: a few hundredths."""
    assert weight_bytes(plain.int8) < 0.29 * weight_bytes(plain.fp32)
    assert plain.int8.stat().st_size < 0.4 * plain.fp32.stat().st_size  # the graph itself weighs 20 kB of 50 here


def test_every_matrix_product_with_weights_runs_in_int8(plain):
    operations = Counter(node.op_type for node in onnx.load(plain.int8).graph.node)
    assert operations["MatMulInteger"] == 2 * 4  # qkv, proj, fc1, fc2 in each block
    assert operations["Gemm"] == 1  # the head of four classes, whose scales and nodes would weigh more than its weights


def test_answers_stay_close(plain):
    parity = check_parity(plain.model, plain.int8, plain.pixels)
    assert parity.cosine > 0.99
    assert parity.agreement >= 0.9


def test_an_int8_answer_does_not_depend_on_the_images_beside_it(plain):
    """Activations share one scale a batch, so that an int8 file is always run image by image, as on the device."""
    model = OnnxModel(plain.int8)
    extreme = np.concatenate([plain.pixels[:1], np.full((1, 3, 32, 32), 255, np.uint8)])
    np.testing.assert_array_equal(model.probabilities(extreme)[0], model.probabilities(plain.pixels)[0])


def test_preprocessing_inside_is_never_quantized(with_picture):
    before, after = (
        {w.name: w for w in onnx.load(path).graph.initializer if w.name.startswith("picture_")}
        for path in (with_picture.fp32, with_picture.int8)
    )
    parts = ("picture_fit", "picture_resize", "picture_scale", "picture_shift")
    assert all(any(name.startswith(part) for name in before) for part in parts)
    for name, weight in before.items():
        np.testing.assert_array_equal(numpy_helper.to_array(weight), numpy_helper.to_array(after[name]))
    assert check_parity(with_picture.model, with_picture.int8, with_picture.pixels).cosine > 0.99


def test_convolutions_shrink_too(tmp_path):
    """Their products stay fp32; their weights are stored as int8 and widened when the file is opened."""
    torch.manual_seed(0)
    model = create_model("cifar_resnet20", num_classes=4).eval()
    fp32 = export_onnx(model, tmp_path / "a.onnx", classes=CLASSES, preprocessing=ABOUT)
    int8 = quantize_int8(fp32, tmp_path / "b.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    assert int8.stat().st_size < 0.3 * fp32.stat().st_size
    assert check_parity(model, fp32, pixels).max_abs < 1e-3
    assert check_parity(model, int8, pixels).cosine > 0.99


def test_the_file_says_that_it_is_int8(plain):
    assert OnnxModel(plain.int8).signature.precision == "int8"
    assert OnnxModel(plain.int8).classes == CLASSES


def test_a_table_without_rows_gets_one_scale(tmp_path):
    """One scale for each of 12,288 numbers would make the file larger instead."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(1, 3 * 64 * 64))

        def forward(self, x):
            return (x.flatten(1) + self.table).unflatten(1, (3, -1)).mean(2)

    model, about = Table(), replace(ABOUT, view_size=64, input_size=64)
    fp32 = export_onnx(model, tmp_path / "a.onnx", classes=CLASSES[:3], preprocessing=about)
    int8 = quantize_int8(fp32, tmp_path / "b.onnx")
    assert weight_bytes(int8) < 0.27 * weight_bytes(fp32)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    assert check_parity(model, int8, pixels).max_abs < 0.01


def test_a_file_that_is_not_onnx_is_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"not a model")
    with pytest.raises(PocketError, match=r"a\.onnx"):
        quantize_int8(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()
