"""Exported folders are whole or not there, and a run's own int8 file is the one that ships."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from pocketvit.deployment import files
from pocketvit.deployment.opening import open_model
from pocketvit.errors import PocketError
from pocketvit.files import whole_folder
from pocketvit.models import create_model
from pocketvit.models.saving import save_model
from pocketvit.tasks import task_named
from pocketvit.views.preprocessing import Preprocessing


def write(folder: Path, text: str, failure: BaseException | None = None) -> None:
    with whole_folder(folder) as made:
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


def test_a_folder_of_the_users_stays_and_an_int8_file_of_before_goes(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, "half", KeyboardInterrupt())
    assert tmp_path.is_dir()
    for name in ("model-int8.onnx", "model-int8.pte", "mine.txt"):
        (tmp_path / name).touch()
    write(tmp_path, "none of it in int8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "model-int8.pte", "model.onnx"]


def test_where_nothing_can_be_written_it_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PocketError, match="could not write"):
        write(tmp_path / "file" / "out", "whole")


def saved(folder: Path) -> Preprocessing:
    about = Preprocessing(
        view_size=32, input_size=32, mean=(0.4,) * 3, std=(0.2,) * 3, aspect="pad", window=(0, 4095), tile=64
    )
    model = create_model(
        "vit_tiny_patch16_224", num_classes=2, image_size=32, patch_size=8, embed_dim=64, num_heads=2, depth=1
    )
    save_model(model, folder, classes=("a", "b"), preprocessing=about, task=task_named("multilabel"))
    return about


@pytest.mark.parametrize("spec", ["{}", "local-dir:{}", "{}/model.safetensors"])
def test_what_is_named_replaces_itself_alone_of_what_a_student_says(tmp_path, spec):
    about, model = saved(tmp_path / "student"), spec.format(tmp_path / "student")
    _, classes, found, task, _ = files.opened(model, None, None, None, "half", None)
    assert (classes, task.name) == (("a", "b"), "multilabel")
    assert found == Preprocessing(**{**vars(about), "mean": (0.5,) * 3, "std": (0.5,) * 3})
    _, _, found, _, _ = files.opened(model, None, None, 48, None, ("c", "d"))
    assert found == Preprocessing(**{**vars(about), "view_size": 48, "input_size": 48})
    if not spec.endswith("safetensors"):  # which may be taken by itself
        with pytest.raises(PocketError, match="Leave --arch and --weights away"):
            files.opened(model, "resnet18", None, None, None, None)


def test_outputs_without_names_are_called_by_number(tmp_path):
    for outputs in (0, 2):
        model = create_model("resnet18", num_classes=outputs)
        save_model(model, tmp_path / str(outputs))
    assert files.opened(tmp_path / "2", None, None, None, None, None)[1] == ("0", "1")
    with pytest.raises(PocketError, match="has no classes, only features"):
        files.opened(tmp_path / "0", None, None, None, None, None)


def test_networks_of_others_are_fed_as_they_say(tmp_path):
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=64, num_heads=2, depth=1, num_classes=3
    )
    _, classes, about, task, _ = files.opened(model, None, None, 32, "half", None)
    assert (classes, about, task.name) == (
        ("0", "1", "2"),
        Preprocessing.plain((32, (0.5,) * 3, (0.5,) * 3)),
        "classification",
    )


@dataclasses.dataclass(frozen=True)
class Sealed:
    """A signature, of a file that says what its weights are."""

    classes: tuple[str, ...]
    weights: str = "digest"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder with an int8 file, and an exporter that writes words; returns the folder."""
    folder = tmp_path / "photos-1"
    folder.mkdir()
    for name in ("config.yaml", "results.json", "model.onnx"):
        (folder / name).touch()
    (folder / "model-int8.onnx").write_text("layers that stay fp32")
    about = types.SimpleNamespace(view_size=8)
    named = []
    monkeypatch.setattr(files, "opened", lambda *a: (named.append(a[-1] or ("a",)), named[-1], about, None, "photos-1"))
    monkeypatch.setattr(files, "export_onnx", lambda _, path, **__: path.write_text("fp32"))
    monkeypatch.setattr(files, "quantize_int8", lambda _, path: path.write_text("quantized again"))
    monkeypatch.setattr(files, "check_parity", lambda _, path, __: path.read_text())
    monkeypatch.setattr(files, "write_device_zip", lambda out, path: Path(out).write_text(path.read_text()))

    def open_graph(path):
        return path.read_text(), Sealed(("a",) if path.parent == folder else named[-1])

    monkeypatch.setattr(files, "open_graph", open_graph)
    monkeypatch.setattr(
        files, "save_int8", lambda graph, signature, path: path.write_text(f"{graph}, {','.join(signature.classes)}")
    )
    return folder


def test_a_runs_own_int8_file_ships(run, tmp_path):
    folder, checks = files.export_files(run, tmp_path / "out")
    assert checks == {"model.onnx": "fp32", "model-int8.onnx": "layers that stay fp32"}
    assert (folder / "device.zip").read_text() == "layers that stay fp32"


@pytest.mark.parametrize("asked", [{"picture_size": (8, 8)}, {"norm": "half"}, {"input_size": 16}])
def test_what_is_asked_otherwise_is_quantized_anew_and_said(run, tmp_path, asked, caplog):
    caplog.set_level("INFO", "pocketvit")
    _, checks = files.export_files(run, tmp_path / "out", **asked)
    assert checks["model-int8.onnx"] == "quantized again"
    assert "made anew and not scored" in caplog.text


def test_other_names_of_classes_are_written_into_a_runs_own_int8_file(run, tmp_path, monkeypatch):
    _, checks = files.export_files(run, tmp_path / "out", classes=("b",))
    assert checks["model-int8.onnx"] == "layers that stay fp32, b"
    monkeypatch.setattr(files, "write_web", lambda _, path, *__, **___: path.read_text())
    assert files.export_web(run, tmp_path / "web", runtime=tmp_path, classes=("c",))[1] == "layers that stay fp32, c"


@pytest.mark.parametrize("asked", [{}, {"picture_size": (8, 8)}, {"classes": ("b",)}])
def test_where_no_int8_file_was_good_enough_none_is_made(run, tmp_path, asked):
    (run / "model-int8.onnx").unlink()
    folder, checks = files.export_files(run, tmp_path / "out", **asked)
    assert checks == {"model.onnx": "fp32"}
    assert (folder / "device.zip").read_text() == "fp32"


def test_the_browser_gets_a_runs_own_int8_file(run, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "write_web", lambda _, path, *__, **___: f"{path.name}: {path.read_text()}")
    told = files.export_web(run, tmp_path / "web", runtime=tmp_path)[1]
    assert told == "model.onnx: layers that stay fp32"
    (run / "model-int8.onnx").unlink()  # none was good enough
    assert files.export_web(run, tmp_path / "web", runtime=tmp_path)[1] == "model.onnx: fp32"


def test_a_network_of_grey_pictures_is_exported_and_opened_for_colour_ones(tmp_path):
    """`load_model` gives it as it is, which takes no picture that a camera makes."""
    own = timm.create_model("resnet10t", in_chans=1, num_classes=3).eval()
    about = Preprocessing.plain((32, (0.4,) * 3, (0.2,) * 3))
    folder = save_model(own, tmp_path / "grey", classes=("a", "b", "c"), preprocessing=about)
    views = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    grey = (views.float() / 255 * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    with torch.no_grad():
        expected = own((grey - 0.4) / 0.2)
    module, _, said, _, _ = files.opened(folder, None, None, None, None, None)
    with torch.no_grad():
        torch.testing.assert_close(module(said.to_input(views)), expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(open_model(folder).probabilities(views), expected.softmax(1).numpy(), atol=1e-4)
