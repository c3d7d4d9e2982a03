"""Exported folders are whole or not there, and a run's own int8 file is the one that ships."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from pocketvit.deployment import files
from pocketvit.errors import PocketError


def write(folder: Path, text: str, failure: BaseException | None = None) -> None:
    with files.whole(folder) as made:
        (made / "model.onnx").write_text(text)
        if failure is not None:
            raise failure


def test_nothing_half_written_stays(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "new", "half", KeyboardInterrupt())
    assert not (tmp_path / "new").exists()
    old = tmp_path / "old"
    write(old, "before")
    with pytest.raises(PocketError):
        write(old, "half", PocketError("no device.zip"))
    assert [(path.name, path.read_text()) for path in old.iterdir()] == [("model.onnx", "before")]
    write(old, "after")
    assert [(path.name, path.read_text()) for path in old.iterdir()] == [("model.onnx", "after")]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder with an int8 file, and an exporter that writes words; returns the folder."""
    folder = tmp_path / "photos-1"
    folder.mkdir()
    for name in ("config.yaml", "results.json", "model.onnx"):
        (folder / name).touch()
    (folder / "model-int8.onnx").write_text("layers that stay fp32")
    about = types.SimpleNamespace(view_size=8)
    monkeypatch.setattr(files, "opened", lambda *_: (None, ("a",), about, None, "photos-1"))
    monkeypatch.setattr(files, "export_onnx", lambda _, path, **__: path.write_text("fp32"))
    monkeypatch.setattr(files, "quantize_int8", lambda _, path: path.write_text("quantized again"))
    monkeypatch.setattr(files, "check_parity", lambda _, path, __: path.read_text())
    monkeypatch.setattr(files, "write_device_zip", lambda out, path: Path(out).write_text(path.read_text()))
    monkeypatch.setattr(files, "open_graph", lambda _: (None, types.SimpleNamespace(weights="digest")))
    return folder


def test_a_runs_own_int8_file_ships(run, tmp_path):
    folder, checks = files.export_files(run, tmp_path / "out")
    assert checks == {"model.onnx": "fp32", "model-int8.onnx": "layers that stay fp32"}
    assert (folder / "device.zip").read_text() == "layers that stay fp32"


@pytest.mark.parametrize("asked", [{"picture_size": (8, 8)}, {"classes": ("b",)}, {"input_size": 16}])
def test_what_is_asked_otherwise_is_quantized_anew(run, tmp_path, asked):
    _, checks = files.export_files(run, tmp_path / "out", **asked)
    assert checks["model-int8.onnx"] == "quantized again"


def test_where_no_int8_file_was_good_enough_none_is_made(run, tmp_path):
    (run / "model-int8.onnx").unlink()
    folder, checks = files.export_files(run, tmp_path / "out")
    assert checks == {"model.onnx": "fp32"}
    assert (folder / "device.zip").read_text() == "fp32"


def test_the_browser_gets_a_runs_own_int8_file(run, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "write_web", lambda _, path, __: f"{path.name}: {path.read_text()}")
    told = files.export_web(run, tmp_path / "web", runtime=tmp_path)[1]
    assert told == "model.onnx: layers that stay fp32"
