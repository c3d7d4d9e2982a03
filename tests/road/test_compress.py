"""A finished run pruned, shared and quantized, one run folder each, with no teacher loaded (scenario 21)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from PIL import Image

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.files import read_json
from pocketvit.models import load_model
from pocketvit.models.flops import count_parameters
from pocketvit.road.reopen import reopen
from pocketvit.teachers import teacher as teachers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(walked, tmp_path_factory) -> Path:
    """A copy of the walked run with what its runs share, to compress in peace."""
    folder = tmp_path_factory.mktemp("compressing")
    shutil.copytree(walked.run.folder, folder / "photos-1")
    shutil.copytree(walked.run.folder.parent / "shared", folder / "shared")
    return folder / "photos-1"


@pytest.fixture(scope="module")
def chain(place) -> list[pocketvit.Run]:
    """Pruned, then shared, then static int8; a teacher that was loaded would raise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers.Teacher, "__init__", lambda *_, **__: pytest.fail("a teacher was loaded"))
        runs = [pocketvit.compress(place, prune=0.5, epochs=1, device="cpu")]
        runs.append(pocketvit.compress(runs[0].folder, share=2, epochs=1, device="cpu"))
        runs.append(pocketvit.compress(runs[1].folder, quantize="static", max_drop=100, device="cpu"))
    return runs


def test_each_step_is_a_run_beside_the_old_one(chain, place):
    assert [run.folder.name for run in chain] == [
        "photos-1-pruned-1",
        "photos-1-pruned-1-shared2-1",
        "photos-1-pruned-1-shared2-1-static-1",
    ]
    for run in chain:
        assert run.folder.parent == place.parent
        names = {path.name for path in run.folder.iterdir()}
        assert {"student", "model.onnx", "model-int8.onnx", "device.zip", "results.json", "report.html"} <= names


def test_every_step_is_smaller_on_disk(chain, place):
    sizes = [(folder / "model.onnx").stat().st_size for folder in (place, chain[0].folder, chain[1].folder)]
    assert sizes == sorted(sizes, reverse=True)
    counts = [count_parameters(load_model(folder).module) for folder in (place, chain[0].folder, chain[1].folder)]
    assert counts[1] <= counts[0] / 2
    assert counts[2] < 0.75 * counts[1]


def test_the_table_has_what_was_and_what_became_of_it(chain, place):
    rows = {row["key"]: row for row in chain[0].results["rows"]}
    assert {"teacher-1", "before-1", "before-1-int8", "student", "int8"} <= set(rows)
    before = {row["key"]: row for row in read_json(place / "results.json")["rows"]}["student"]
    assert rows["before-1-int8"]["calibrated"] == rows["before-1"]["calibrated"] == before["calibrated"]
    for key in ("before-1", "before-1-int8", "student", "int8"):
        assert rows[key]["accuracy"] is not None
        assert rows[key]["interval"]
        assert rows[key]["bytes"] > 0
    assert "pruned by 50%" in rows["student"]["name"]
    assert "not loaded" in rows["teacher-1"]["note"]
    assert rows["student"]["agreement"] is not None
    assert rows["student"]["bytes"] == (chain[0].folder / "model.onnx").stat().st_size
    assert "photos-1, student" in str(chain[0].table)
    rows = {row["key"]: row for row in chain[2].results["rows"]}
    assert {"before-1", "before-2", "before-3-int8", "int8"} <= set(rows)
    assert "before-3" not in rows  # the network is the same, and has a row already
    assert rows["student"]["name"] == "photos-1-pruned-1-shared2-1, student"
    assert chain[2].results["lead"].startswith("Against photos-1-pruned-1-shared2-1: ")
    assert str(chain[2].table).startswith("Against photos-1-pruned-1-shared2-1: ")
    assert not any("last checkpoint" in note for note in chain[2].results["notes"])


def test_a_pruned_student_is_timms_and_a_shared_one_says_that_it_is_not(chain):
    assert isinstance(load_model(chain[0].folder).module, timm.models.VisionTransformer)
    assert load_model(chain[0].folder).config["pocketvit"]["needs_pocketvit"] is False
    assert load_model(chain[1].folder).config["pocketvit"]["needs_pocketvit"] is True


def test_static_files_are_qdq_and_answer(chain, photos):
    operations = {node.op_type for node in onnx.load(chain[2].folder / "model-int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operations
    assert "DynamicQuantizeLinear" not in operations
    picture = next((photos / "red").glob("*.png"))
    assert chain[2].predict(picture)[0]["label"] in ("blue", "green", "red")
    assert any("calibrat" in note or "real images" in note for note in chain[2].results["notes"])


def test_the_same_again_after_a_stop(chain, monkeypatch):
    """Killed before its files were written, a resumed run ends in the very weights of an unbroken one."""
    place, whole = chain[0].folder, chain[1]
    monkeypatch.setattr("pocketvit.road.ship.export_onnx", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        pocketvit.compress(place, share=2, epochs=1, name="broken", device="cpu")
    monkeypatch.undo()
    broken = pocketvit.compress(place, share=2, epochs=1, name="broken", resume=True, device="cpu")
    assert broken.folder.name == "broken-1"
    for one, other in zip(whole.student.parameters(), broken.student.parameters(), strict=True):
        assert torch.equal(one, other)


def test_four_bits_are_trained_and_fit(place, caplog):
    caplog.set_level("INFO", "pocketvit")
    run = pocketvit.compress(place, quantize="qat", bits=4, epochs=1, max_drop=100, device="cpu")
    assert (run.folder / "model-int8.onnx").stat().st_size < (place / "model-int8.onnx").stat().st_size
    weight = load_model(run.folder).module.blocks[1].mlp.fc1.weight
    assert all(len(np.unique(row)) <= 16 for row in weight.detach().numpy())
    assert run.results["rows"]
    assert sum(message.startswith("images ") for message in caplog.messages) == 1  # told once, and in train.log
    assert "images " in (run.folder / "train.log").read_text()


def test_a_target_is_met_by_the_file_on_disk(place):
    limit = int(0.6 * (place / "model-int8.onnx").stat().st_size)
    run = pocketvit.compress(place, fit=f"{limit}B", recover=False, max_drop=100, device="cpu")
    assert (run.folder / "model-int8.onnx").stat().st_size <= limit
    assert "not recovered" in run.results["title"]
    chosen = next(note for note in run.results["notes"] if "to fit" in note)
    assert "after a brief recovery" not in chosen  # nothing was trained
    assert run.results["tried"]["recovered"] is False


def test_what_cannot_be_compressed_is_told_in_one_sentence(place, tmp_path):
    with pytest.raises(PocketError, match="nothing to do: give --prune"):
        pocketvit.compress(place)
    with pytest.raises(PocketError, match=r"9 consecutive blocks cannot share .* has 4\. Give 2 to 4"):
        pocketvit.compress(place, share=9, device="cpu")
    moved = shutil.copytree(place, tmp_path / "moved")
    text = (moved / "config.yaml").read_text()
    old = next(line for line in text.splitlines() if line.startswith("images:"))
    (moved / "config.yaml").write_text(text.replace(old, "images: gone"))
    with pytest.raises(PocketError, match=r"the images of .* are not at gone any more.*--images"):
        pocketvit.compress(moved, prune=0.5, device="cpu")
    shutil.rmtree(moved / "student")
    with pytest.raises(PocketError, match="has no student yet"):
        pocketvit.compress(moved, prune=0.5, device="cpu")


def test_a_run_whose_labels_are_gone_says_where_they_were(place, tmp_path):
    alone = shutil.copytree(place, tmp_path / "photos-1")
    with pytest.raises(PocketError, match=r"soft labels that .* learned from are not in .*--no-recover"):
        pocketvit.compress(alone, share=2, device="cpu")
    assert not list(tmp_path.glob("*/model.onnx.part"))


def test_shared_students_are_pruned_before(chain):
    with pytest.raises(PocketError, match="Prune first"):
        pocketvit.compress(chain[1].folder, prune=0.5, epochs=1, device="cpu")


def test_a_chain_is_traced_to_the_run_that_was_trained(chain):
    assert reopen(chain[2].folder).folder.name == "photos-1"


def test_the_window_is_the_students_whatever_images_are_there_now(tmp_path):
    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 30_000)):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(low, low + 20_000, (16, 16)).astype(np.uint16)
            Image.fromarray(pixels).save(tmp_path / "scans" / name / f"{number}.png")
    run = pocketvit.train(str(tmp_path / "scans"), model="pocket_xxs", epochs=1, out=str(tmp_path / "runs"))
    window = load_model(run.folder / "student").preprocessing.window
    for number in range(8):
        (tmp_path / "scans" / "light" / f"{number}.png").unlink()
    reopened = reopen(run.folder)
    assert reopened.dataset.train.window == window
    assert any("not those that" in note for note in reopened.notes)
