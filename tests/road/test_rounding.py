"""No int8 file is let out that loses more than was allowed; what stays fp32 is named."""

from __future__ import annotations

import dataclasses

import onnx
import pytest

import pocketvit
from pocketvit.deployment import OnnxModel
from pocketvit.road import rounding
from pocketvit.road.reopen import reopen
from pocketvit.road.rounding import USUAL, Rounding, file_score, write_int8
from pocketvit.road.ship import FP32

pytestmark = pytest.mark.slow
VIEWS = " on 240 views of 48 training images, by fp32's own probabilities"


@pytest.fixture(scope="module")
def source(walked):
    return reopen(walked.run.folder)


@pytest.fixture(scope="module")
def road(source):
    return source.road("cpu")


def products(path) -> int:
    return sum(node.op_type == "MatMulInteger" for node in onnx.load(path).graph.node)


def write(source, road, folder, how=USUAL) -> str:
    fp32 = source.chain[0].folder / FP32
    return write_int8(source.student.module, fp32, folder / "int8.onnx", road, source.input, how)


def test_a_file_that_loses_nothing_is_whole(source, road, tmp_path):
    told = write(source, road, tmp_path)
    assert told == f"nothing lost{VIEWS} (6 validation images are too few)"
    assert products(tmp_path / "int8.onnx") == 16


def test_layers_that_cost_too_much_stay_fp32_and_are_named(source, road, tmp_path, monkeypatch):
    def score(graph):
        return 1.0 if sum(node.op_type == "MatMulInteger" for node in graph.graph.node) <= 10 else 0.9

    monkeypatch.setattr(rounding, "file_score", lambda *_: (score, " on a test"))
    told = write(source, road, tmp_path)
    kept = products(tmp_path / "int8.onnx")
    assert 0 < kept <= 10
    assert told.count("blocks.") >= 16 - kept
    assert "layers stay fp32" in told
    assert OnnxModel(tmp_path / "int8.onnx").signature.precision == "int8"


def test_a_file_that_cannot_be_good_is_refused(source, road, tmp_path, monkeypatch):
    scores = iter([1.0, *[0.5] * 50])
    monkeypatch.setattr(rounding, "file_score", lambda *_: (lambda _: next(scores), ""))
    with pytest.raises(pocketvit.PocketError, match="with every layer in fp32"):
        write(source, road, tmp_path, Rounding("static"))
    assert not (tmp_path / "int8.onnx").exists()


def test_without_labels_the_fp32_file_is_the_measure(source, road):
    fp32 = source.chain[0].folder / FP32
    unlabelled = dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, val=None))
    score, words = file_score(unlabelled, OnnxModel(fp32).signature, fp32)
    assert words == VIEWS
    assert score(onnx.load(fp32)) == 1.0


def test_a_distilled_run_says_what_its_int8_file_lost(walked):
    assert any(note.startswith("the int8 file: ") for note in walked.run.results["notes"])


def test_files_for_phones_are_qdq_of_one_picture(walked, tmp_path):
    told = pocketvit.export(walked.run.folder, target="phone", out=tmp_path / "phone")
    graph = onnx.load(tmp_path / "phone" / "model-int8.onnx").graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
    assert "Not measured on a phone" in str(told)
    assert (tmp_path / "phone" / "device.zip").is_file()
