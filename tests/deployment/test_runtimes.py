"""Files of other runtimes: they answer as the network there, say of themselves what they are, or are not written."""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pocketvit.deployment import Network, check_parity, export_onnx, measure, open_model, peak_memory
from pocketvit.deployment.example import write_example
from pocketvit.deployment.opening import open_file, size_of
from pocketvit.deployment.package import scores_on_device, script
from pocketvit.deployment.runtimes import RUNTIMES, Exported, Runtime
from pocketvit.deployment.runtimes import base as runtimes_base
from pocketvit.deployment.signature import Signature
from pocketvit.errors import PocketError
from pocketvit.models.detector import create_detector
from pocketvit.tasks import task_named
from pocketvit.views.preprocessing import Preprocessing

from .conftest import ABOUT, CLASSES, MEAN, STD, tiny_vit

SIGNATURE = Signature(CLASSES, ABOUT)


def installed(name: str) -> Runtime:
    """A runtime whose tools are here and that runs here; else the test is skipped."""
    for tool in RUNTIMES[name].tools:
        pytest.importorskip(tool)
    if RUNTIMES[name].load is None:
        pytest.skip(f"{name} does not run on this system")
    return RUNTIMES[name]


def ported(runtime: Runtime, folder: Path, model: nn.Module, signature: Signature = SIGNATURE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    about = {"classes": signature.classes, "preprocessing": signature.preprocessing, "task": signature.task}
    onnx = export_onnx(model, folder / "source.onnx", fixed_batch=True, **about)
    file = folder / f"model{runtime.suffix}"
    runtime.write(Exported(model, signature, onnx), file)
    return file


@pytest.fixture(scope="module", params=RUNTIMES)
def made(request, tmp_path_factory) -> tuple[Runtime, Path]:
    """Each runtime, and a file of a tiny ViT."""
    runtime = installed(request.param)
    return runtime, ported(runtime, tmp_path_factory.mktemp(request.param), tiny_vit())


def test_a_file_answers_as_its_network_and_says_what_it_is(made, plain):
    _, file = made
    parity = check_parity(plain.model, file, plain.pixels)
    assert parity.max_abs < 1e-3
    assert parity.agreement == 1
    assert open_file(file).signature == SIGNATURE


def test_another_network_than_the_files_is_found_out(made, plain):
    _, file = made
    other = tiny_vit()
    nn.init.normal_(other.head.weight)
    with pytest.raises(PocketError, match="does not compute what the PyTorch model computes"):
        check_parity(other, file, plain.pixels)


def test_predict_and_bench_open_it(made, plain):
    _, file = made
    expected = Network(plain.model, classes=CLASSES, task=SIGNATURE.task, preprocessing=ABOUT)
    np.testing.assert_allclose(
        open_model(file).probabilities(plain.pixels), expected.probabilities(plain.pixels), atol=1e-4
    )
    assert measure({"it": file}, seconds=0.0, min_runs=3)["it"].best > 0
    assert peak_memory(file) is None
    assert size_of(file) > 4 * sum(weight.numel() for weight in plain.model.parameters())


def test_the_example_answers_as_the_network(made, plain, tmp_path):
    runtime, file = made
    for part in file.parent.glob("model.*"):
        (tmp_path / part.name).write_bytes(part.read_bytes())
    model = Network(plain.model, classes=CLASSES, task=SIGNATURE.task, preprocessing=ABOUT)
    assert "checked" in write_example(tmp_path, runtime, model)
    golden = json.loads((tmp_path / "golden.json").read_text(encoding="utf-8"))
    assert [name for name, _ in golden["scores"]] == list(CLASSES)
    found = scores_on_device(tmp_path, "example.py", golden["picture"], file.name)
    np.testing.assert_allclose(found, [score for _, score in golden["scores"]], atol=1e-4)
    nn.init.normal_((other := tiny_vit()).head.weight)
    with pytest.raises(PocketError, match=r"example\.py answers otherwise"):
        write_example(tmp_path, runtime, Network(other, classes=CLASSES, task=SIGNATURE.task, preprocessing=ABOUT))


def test_a_broken_file_is_one_sentence(made, tmp_path):
    runtime, file = made
    broken = tmp_path / file.name
    for part in file.parent.glob(f"{file.stem}.*"):
        (tmp_path / part.name).write_bytes(part.read_bytes())
    broken.write_bytes(file.read_bytes()[:200])
    with pytest.raises(PocketError, match=f"cannot open .*model{runtime.suffix}"):
        open_file(broken)
    with pytest.raises(PocketError, match="there is no file"):
        open_file(tmp_path / f"none{runtime.suffix}")


class Spots(nn.Module):
    """A detector: a box a quarter of the picture, as sure of its three classes as the quarter's channels are bright."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        scores_BPC = torch.sigmoid(nn.functional.adaptive_avg_pool2d(x_BCHW, 2)).flatten(2).transpose(1, 2)
        left = torch.tensor([0.0, 0.5, 0.0, 0.5])
        top = torch.tensor([0.0, 0.0, 0.5, 0.5])
        boxes_PX = torch.stack([left, top, left + 0.5, top + 0.5], 1)
        return torch.cat([boxes_PX.expand(len(x_BCHW), 4, 4) + 0 * scores_BPC[..., :1], scores_BPC], 2)


@pytest.mark.parametrize("name", RUNTIMES)
def test_boxes_are_matched(name, tmp_path, plain):
    runtime = installed(name)
    signature = Signature(("red", "green", "blue"), ABOUT, task_named("detection"))
    file = ported(runtime, tmp_path, Spots(), signature)
    parity = check_parity(Spots(), file, plain.pixels[:4])
    assert parity.agreement == 1
    assert parity.counted == "the boxes of 4 images"
    model = Network(Spots(), classes=signature.classes, task=signature.task, preprocessing=ABOUT)
    assert "checked" in write_example(tmp_path, runtime, model)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_missing_tool_says_the_line_that_gets_it(name, monkeypatch, tmp_path):
    monkeypatch.setattr(runtimes_base, "_there", lambda _: False)
    with pytest.raises(PocketError, match=r"not installed here: .*pip install 'pocketvit\[\w+\]'"):
        RUNTIMES[name].check()
    if RUNTIMES[name].load is not None:
        with pytest.raises(PocketError, match=r"not installed here: .*pip install 'pocketvit\[\w+\]'"):
            open_file(tmp_path / f"model{RUNTIMES[name].suffix}")


@pytest.mark.parametrize("name", RUNTIMES)
def test_an_example_needs_its_runtime_and_little_else(name):
    ours = {"answers", "boxes", "preprocessing"}
    allowed = {*ours, *RUNTIMES[name].tools, *sys.stdlib_module_names} | ({"torch"} if name == "executorch" else set())
    imported = set()
    for node in ast.walk(ast.parse(script(RUNTIMES[name].example))):
        if isinstance(node, ast.Import):
            imported |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    assert {one.partition(".")[0] for one in imported} <= allowed


def test_modules_are_looked_for_without_importing_them():
    assert runtimes_base._there("json")
    assert not runtimes_base._there("no_such_module_here")
    assert not runtimes_base._there("no_such_package_here.inner")


def test_a_converters_failure_is_one_sentence():
    failure = pytest.raises(PocketError, match=r"XYZ cannot take this network \(RuntimeError: no such op\)")
    with failure, runtimes_base.converting("XYZ"):
        raise RuntimeError("\n no such op.\n a page of advice")


def test_a_file_of_somebody_else_is_told(tmp_path):
    openvino = pytest.importorskip("openvino")
    onnx = export_onnx(tiny_vit(), tmp_path / "a.onnx", classes=CLASSES, preprocessing=ABOUT)
    openvino.save_model(openvino.Core().read_model(onnx), tmp_path / "theirs.xml")
    with pytest.raises(PocketError, match="was not exported by PocketViT"):
        open_file(tmp_path / "theirs.xml")


def test_weights_of_openvino_that_are_not_those_of_its_file_are_refused(tmp_path, plain):
    file = ported(installed("openvino"), tmp_path, plain.model)
    weights = file.with_suffix(".bin")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(PocketError, match=r"\.bin is damaged"):
        open_file(file)


def test_files_of_openvino_are_two_whatever_else_is_called_so(tmp_path, plain):
    file = ported(installed("openvino"), tmp_path, plain.model)
    both = file.stat().st_size + file.with_suffix(".bin").stat().st_size
    (tmp_path / "model.onnx").write_bytes(b"others" * 100)
    assert size_of(file) == both
    for part in (file, file.with_suffix(".bin")):
        part.rename(tmp_path / f"m[1]{part.suffix}")
    assert size_of(tmp_path / "m[1].xml") == both
    (tmp_path / "m[1].bin").unlink()
    with pytest.raises(PocketError, match=r"m\[1\]\.xml has no weights beside it: copy m\[1\]\.bin there, too"):
        open_file(tmp_path / "m[1].xml")


def test_a_student_that_finds_boxes_becomes_a_file(tmp_path):
    runtime = installed("openvino")
    torch.manual_seed(0)
    model = create_detector("pocket_xxs", num_classes=3, image_size=64).eval()
    signature = Signature(("a", "b", "c"), Preprocessing.plain((64, MEAN, STD)), task_named("detection"))
    file = ported(runtime, tmp_path, model, signature)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    assert check_parity(model, file, pixels).max_abs < 1e-4


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_package_for_core_ml_says_what_it_is(precision, tmp_path, plain):
    coremltools = pytest.importorskip("coremltools")
    signature = replace(SIGNATURE, precision=precision)
    file = ported(RUNTIMES["coreml"], tmp_path, plain.model, signature)
    model = coremltools.models.MLModel(str(file), skip_model_load=True)
    assert Signature.from_json(model.user_defined_metadata["pocketvit"]) == signature
    assert size_of(file) < 3 * sum(weight.numel() for weight in plain.model.parameters())  # 16 bits, and a program
    about = model.get_spec().description
    assert (about.input[0].name, about.output[0].name) == ("pixels", "logits")


def test_int8_says_so(tmp_path, plain):
    runtime = installed("openvino")
    file = ported(runtime, tmp_path, plain.model, replace(SIGNATURE, precision="int8"))
    assert open_file(file).signature.precision == "int8"
