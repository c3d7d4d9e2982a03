"""What every verb says and returns: text for people, strict JSON on standard output for programs."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from walk_fakes import draw_photos, tiny

import pocketvit
from pocketvit import cli
from pocketvit.road import begin
from pocketvit.road import train as train_module

pytestmark = pytest.mark.slow
OWN = ["--teacher", "walk_fakes:make_own", "--teacher-size", "16", "--teacher-norm", "half"]


@pytest.fixture
def pocket(capfd, monkeypatch, tmp_path):
    """Return a function that runs a command in an empty folder: pocket("pack", ...) -> (exit code, JSON)."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        capfd.readouterr()
        code = cli.main([*map(str, arguments), "--json"])
        out, err = capfd.readouterr()
        assert "Traceback" not in err, err
        assert out.count("\n") == 1, out + err  # nothing else goes to standard output
        return code, json.loads(out, parse_constant=pytest.fail)

    yield command
    logging.getLogger("pocketvit").setLevel(logging.NOTSET)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_distill_plan_writes_nothing(pocket, photos, tmp_path):
    """Scenario 2."""
    (photos_here,) = [shutil.copytree(photos, tmp_path / "mine")]
    (photos_here / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    shutil.copy(photos_here / "red" / "00.png", photos_here / "red" / "copy.png")
    before = files_below(tmp_path)
    code, data = pocket("distill", "mine", *OWN, "--plan", "--student", "pocket_xs", "--patch", 8)
    assert code == 0
    assert files_below(tmp_path) == before
    assert sum(data["counts"].values()) == 61
    assert "broken.png" in data["broken"][0][0]
    assert data["bytes"] > 0
    assert data["hours"] == pytest.approx(sum(data["seconds"].values()) / 3600)


def test_distill_returns_the_results_of_a_run(pocket, walked):
    code, data = pocket("distill", "--resume", walked.run.folder)
    assert code == 0
    assert data["folder"] == str(walked.run.folder)
    assert [row["key"] for row in data["rows"]][:2] == ["teacher-1", "student"]


def test_pack_label_verify_and_label_again(pocket, photos, tmp_path):
    code, packed = pocket("pack", photos)
    assert code == 0
    assert {split: value["images"] for split, value in packed.items()} == {"train": 48, "val": 6, "test": 6}
    code, planned = pocket("label", photos, *OWN, "--views", 2, "--plan")
    assert code == 0
    assert planned["bytes"] > 0
    assert not (tmp_path / "runs" / "shared" / "labels").exists()
    code, written = pocket("label", photos, *OWN, "--views", 2)
    assert code == 0
    assert list(written["teachers"].values()) == [[0, 1]]
    code, more = pocket("label", photos, *OWN, "--views", 3)
    assert (code, more["store"]) == (0, written["store"])
    assert list(more["teachers"].values()) == [[0, 1, 2]]
    code, verified = pocket("label", photos, *OWN, "--views", 3, "--verify")
    assert code == 0
    assert len(verified["verified"]) == 1


def test_what_label_stored_is_found_by_distill(pocket, photos, monkeypatch, caplog):
    caplog.set_level("INFO", "pocketvit")
    pocket("label", photos, *OWN, "--views", 2)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "train_network", stop)
    assert cli.main(["distill", str(photos), *OWN, "--views", "2", "--student", "pocket_xs", "--patch", "8"]) == 130
    assert "labels   reused from" in caplog.text


def test_predict_reports_broken_files_and_goes_on(pocket, walked, tmp_path):
    shutil.copy(walked.run.folder / "model.onnx", tmp_path / "m.onnx")
    Image.fromarray(np.full((20, 30, 3), (200, 60, 60), np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    for model in (walked.run.folder, walked.run.folder / "student", "m.onnx"):
        code, data = pocket("predict", model, "empty.png", "good.png", "--top", 2)
        assert code == 1
        broken, good = data["predictions"]
        assert (broken["file"], good["file"]) == ("empty.png", "good.png")
        assert broken["error"]
        assert len(good["topk"]) == 2
    assert pocket("predict", walked.run.folder, "good.png")[0] == 0


def test_bench_measures_with_and_without_images(pocket, walked, photos):
    folder = walked.run.folder
    code, data = pocket("bench", folder, folder / "model-int8.onnx", "--images", photos)
    assert code == 0
    student, int8 = data["rows"]
    assert (student["n"], int8["n"]) == (6, 6)
    rows = {row["key"]: row for row in walked.run.results["rows"]}
    assert (student["accuracy"], int8["accuracy"]) == (rows["student"]["accuracy"], rows["int8"]["accuracy"])
    assert min(student["latency_ms"]["p50"], int8["latency_ms"]["p50"], int8["bytes"]) > 0
    code, data = pocket("bench", folder / "model.onnx")
    assert code == 0
    assert data["rows"][0]["bytes"] == (folder / "model.onnx").stat().st_size
    assert "accuracy" not in data["rows"][0]


def test_export_of_any_model(pocket, tmp_path):
    torch.save(tiny(3).state_dict(), tmp_path / "mine.pth")
    code, data = pocket(
        "export", "mine.pth", "--arch", "test_resnet", "--input-size", 32, "--classes", "a, b,c", "--out", "there"
    )
    assert code == 0
    assert set(data["files"]) == {"model.onnx", "model-int8.onnx"}
    for name, file in data["files"].items():
        assert file["bytes"] == (tmp_path / "there" / name).stat().st_size
        assert file["cosine"] > 0.99
    assert (tmp_path / "there" / "device.zip").is_file()
    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    _, data = pocket("predict", "there/model.onnx", "x.png", "--top", 3)
    assert sorted(name for name, _ in data["predictions"][0]["topk"]) == ["a", "b", "c"]


def test_report_writes_page_and_card(pocket, walked, tmp_path):
    code, data = pocket("report", walked.run.folder, "--out", "page.html", "--no-images")
    assert code == 0
    assert data["report"] == "page.html"
    assert "<table" in (tmp_path / "page.html").read_text()
    assert data["cards"] == [str(walked.run.folder / "student" / "README.md")]


def test_train_from_scratch_and_from_weights(pocket, tmp_path):
    draw_photos(tmp_path / "mine", count=10)
    plain = ["--size", 32, "--epochs", 1, "--precision", "fp32", "--augment", "none"]
    code, data = pocket("train", "mine", "--model", "test_resnet", *plain)
    assert code == 0
    assert data["folder"] == "runs/mine-test_resnet-1"
    assert [row["key"] for row in data["rows"]] == ["student", "int8"]
    assert "trained from scratch" in data["notes"]
    torch.save(tiny(10).state_dict(), tmp_path / "mine.pth")
    code, data = pocket("train", "mine", "--model", "test_resnet", "--init", "mine.pth", "--freeze", *plain[:2])
    assert code == 0
    assert "linear probe" in data["notes"]
    again = pocket("train", "mine", "--config", "runs/mine-test_resnet-2/config.yaml")
    assert again[0] == 0
    # a run of `train` is a teacher: what it knows needs no fine-tuning
    code, data = pocket("label", "mine", "--teacher", "runs/mine-test_resnet-2", "--views", 1)
    assert code == 0
    assert not list((tmp_path / "runs" / "shared").glob("teachers/*"))


def test_run_walks_a_recipe(pocket, tmp_path):
    text = "def recipe(images, folder, small):\n    return f'| {images} | {folder} | {small} |'\n"
    (tmp_path / "mine.py").write_text(text)
    code, data = pocket("run", "mine.py", "--images", "digits", "--small")
    assert code == 0
    assert data == {"folder": "runs/mine-small", "table": "| digits | runs/mine-small | True |"}


def test_demo_walks_the_road_with_few_labels(monkeypatch, tmp_path):
    """The demo itself takes minutes; `make demo` runs it."""
    seen = []
    monkeypatch.setattr(begin, "walk", lambda stages, state: seen.append(state))
    run = pocketvit.demo(out=str(tmp_path), seed=3)
    resumed = pocketvit.demo(out=str(tmp_path), seed=3, resume=True)
    named = pocketvit.demo(out=str(tmp_path), resume=str(run.folder))
    assert run.folder == resumed.folder == named.folder == tmp_path / "demo-1"
    for state in seen:
        assert (state.settings.images, state.settings.few_labels, state.config.train.seed) == ("digits", 50, 3)
        assert state.config.view.flip == 0  # a mirrored digit is another thing
