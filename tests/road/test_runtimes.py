"""`export --target RUNTIME`: fp32 and int8 there, checked on the run's images, whole or not at all."""

from __future__ import annotations

import dataclasses

import pytest

import pocketvit
from pocketvit.deployment.parity import Parity
from pocketvit.deployment.runtimes import RUNTIMES, base
from pocketvit.errors import PocketError
from pocketvit.road import runtimes

GOOD = Parity(0.0, 1.0, 1.0, "8 images")


@pytest.fixture
def openvino():
    pytest.importorskip("openvino")


def test_a_run_becomes_two_files_and_an_example(walked, tmp_path, openvino):
    told = pocketvit.export(walked.run.folder, target="openvino", out=tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.xml", "model.bin", "model-int8.xml", "model-int8.bin", "example.py", "golden.json"} <= names
    assert "parity on the run's images" in str(told)
    assert "under OpenVINO" in told.data["int8"]
    files = told.data["files"]
    assert files["model.xml"]["max_abs"] < 1e-3
    assert files["model-int8.xml"]["bytes"] < files["model.xml"]["bytes"]


def test_what_is_no_run_has_no_scales(walked, tmp_path, openvino):
    told = pocketvit.export(walked.run.folder / "student", target="openvino", out=tmp_path / "out")
    assert list(told.data["files"]) == ["model.xml"]
    assert "int8: none, for its scales are calibrated on the images of a run" in str(told)
    assert "parity on drawn pictures" in str(told)


def test_an_int8_file_that_loses_too_much_there_is_left_out(walked, tmp_path, openvino, monkeypatch):
    scores = {"model.xml": 1.0, "model-int8.xml": 0.5}
    monkeypatch.setattr(runtimes, "score_of_files", lambda *_: (lambda path: scores[path.name], " on a test"))
    told = pocketvit.export(walked.run.folder, target="openvino", out=tmp_path / "out")
    assert "under OpenVINO it is 50.00 points below fp32 on a test" in told.data["int8"]
    assert not list((tmp_path / "out").glob("model-int8*"))


@pytest.mark.parametrize(("cosine", "files"), [(0.6, ["model.xml"]), (0.99, ["model.xml", "model-int8.xml"])])
def test_an_int8_file_that_computes_something_else_is_left_out(cosine, files, walked, tmp_path, openvino, monkeypatch):
    found = dataclasses.replace(GOOD, cosine=cosine)
    monkeypatch.setattr(runtimes, "check_parity", lambda _, file, *__: found if "int8" in file.name else GOOD)
    monkeypatch.setitem(RUNTIMES, "openvino", dataclasses.replace(RUNTIMES["openvino"], calibrates=False))
    told = pocketvit.export(walked.run.folder / "student", target="openvino", out=tmp_path / "out")
    assert ("OpenVINO computes something else than the network" in told.data["int8"]) == (cosine < 0.9)
    assert list(told.data["files"]) == files
    assert bool(list((tmp_path / "out").glob("model-int8*"))) == (len(files) == 2)


def test_nothing_is_left_of_a_file_that_is_wrong(walked, tmp_path, openvino, monkeypatch):
    def wrong(*_):
        raise PocketError("does not compute what the PyTorch model computes")

    monkeypatch.setattr(runtimes, "check_parity", wrong)
    with pytest.raises(PocketError, match="does not compute"):
        pocketvit.export(walked.run.folder, target="openvino", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_runtime_that_is_not_installed_is_told_before_the_work(walked, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_there", lambda _: False)
    for target, line in (
        ("litert", r"python -m venv litert && litert/bin/pip install 'pocketvit\[litert\]'"),
        ("executorch", r"pip install 'pocketvit\[executorch\]'"),
    ):
        with pytest.raises(PocketError, match=line):
            pocketvit.export(walked.run.folder, target=target, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_does_not_run_here_is_written_and_said(walked, tmp_path, monkeypatch):
    def write(exported, path):
        path.write_text(exported.signature.precision)

    mute = dataclasses.replace(RUNTIMES["coreml"], tools=(), write=write, load=None, unchecked="not checked here")
    monkeypatch.setitem(RUNTIMES, "coreml", mute)
    told = pocketvit.export(walked.run.folder, target="coreml", out=tmp_path / "out")
    assert str(told).count("not checked here") == 4  # two files, the example, int8
    assert (tmp_path / "out" / "model-int8.mlpackage").read_text() == "int8"
    with pytest.raises(PocketError, match="cannot be run here"):
        pocketvit.predict(tmp_path / "out" / "model.mlpackage", tmp_path / "out" / "golden.png")
