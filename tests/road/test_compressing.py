"""What `compress` says and refuses, without a walk: `test_compress` has those."""

from __future__ import annotations

import dataclasses
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import timm

from pocketvit.errors import PocketError
from pocketvit.files import write_json
from pocketvit.models import create_model
from pocketvit.models.detector import create_detector
from pocketvit.reporting.results import parse_results
from pocketvit.reporting.table import Table
from pocketvit.road import begin, report
from pocketvit.road import reopen as reopening
from pocketvit.road.compress import names_of, refuse, trains
from pocketvit.road.reopen import _bank_of, _images_of, teacher_rows
from pocketvit.rundir import Run
from pocketvit.settings import Distill, dump
from pocketvit.tasks import task_named

TEACHER = {"key": "teacher-1", "name": "teacher: own", "role": "teacher", "status": "measured", "bytes": 4000}
FIGURES = {"map": 0.5, "map_50": 0.7, "map_interval": [0.4, 0.6], "boxes": 80, "accuracy": None, "n": 20}


def origin(folder: Path, rows: list, **more) -> types.SimpleNamespace:
    return types.SimpleNamespace(folder=folder, results={"rows": rows, **more})


def asked(**settings) -> types.SimpleNamespace:
    usual = {"prune": None, "share": None, "quantize": "none", "fit": None, "recover": True}
    return types.SimpleNamespace(**(usual | settings))


def test_rows_are_named_by_what_they_are():
    assert names_of([], "static", "photos-1") == {
        "student": "photos-1, student", "int8": "photos-1, static int8 file"
    }  # fmt: skip
    assert names_of(["pruned by 50%", "recovered"], "none", "photos-1")["int8"] == "int8 file, pruned by 50%, recovered"
    assert names_of(["shared by 2"], "static", "photos-1")["student"] == "shared by 2"


def test_only_what_is_trained_needs_labels():
    assert not trains(asked(quantize="static"))
    assert not trains(asked(prune=0.5, recover=False))
    assert trains(asked(prune=0.5))
    assert trains(asked(quantize="qat"))


def test_teachers_keep_their_int8_rows_and_the_figures_of_boxes(road, tmp_path):
    int8 = {**TEACHER, "key": "teacher-1-int8", "role": "teacher-int8", "bytes": 1000, "latency_ms": {"p50": 1.0}}
    entries = teacher_rows(origin(tmp_path, [TEACHER | FIGURES, int8 | FIGURES]), road, tmp_path)
    assert [entry.role for entry in entries] == ["teacher", "teacher-int8"]
    for entry in entries:
        assert entry.extra["map_50"] == 0.7
        assert entry.extra["map_interval"] == [0.4, 0.6]
        assert entry.extra["boxes"] == 80
        assert "latency_ms" not in entry.extra
    names = np.array(road.scored.names)
    np.savez(tmp_path / "predictions.npz", **{"teacher-1-int8": np.ones((len(names), 3)), "names": names})
    rows = [TEACHER | FIGURES, int8 | FIGURES]
    for entry in teacher_rows(origin(tmp_path, rows, dataset={"fingerprint": "of other images"}), road, tmp_path):
        assert entry.probabilities is None  # they are answers to other images, however these are called
        assert set(entry.extra) == {"bytes"}
    same = origin(tmp_path, rows, dataset={"fingerprint": road.scored.fingerprint})
    whole, answered = teacher_rows(same, road, tmp_path)
    assert whole.extra["map"] == 0.5
    assert answered.extra == {"bytes": 1000}
    assert answered.probabilities is not None


def test_nobody_asks_for_the_twin_of_a_compressed_student():
    rows = [TEACHER, {"key": "student", "name": "pruned", "role": "student"}]
    assert "baseline" in [row.role for row in parse_results({"rows": rows, "teachers": [{}]}).rows]
    before = {"key": "before-1-int8", "name": "photos-1, int8 file", "role": "other"}
    small = parse_results({"rows": [*rows, before], "teachers": [{}]})
    assert "baseline" not in [row.role for row in small.rows]
    assert "baseline" not in [row.role for row in Table.of(small).rows]


def walked(folder: Path, rows: list, **settings) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        folder=folder, rows=rows, settings=types.SimpleNamespace(**settings),
        extra={"compressed_from": "runs/photos-1"}, road=types.SimpleNamespace(task=task_named("classification")),
    )  # fmt: skip


def test_the_smaller_file_is_compared_with_the_one_before(tmp_path):
    def row(key, size, accuracy):
        return {
            "key": key, "name": key, "bytes": size, "accuracy": accuracy, "interval": [accuracy - 0.1, accuracy + 0.05],
            "latency_ms": {"p50": size / 100},
        }  # fmt: skip

    rows = [row("before-1-int8", 900, 0.5), row("before-2-int8", 400, 0.8), row("int8", 200, 0.79)]
    told = report._against_before(walked(tmp_path, rows))
    assert told.startswith("against photos-1: 2.0× smaller, 2.0× faster, accuracy 1.0 points less, 95 % interval ")
    assert report._against_before(walked(tmp_path, rows[2:])) is None


def test_a_file_that_misses_its_budget_is_said(tmp_path):
    (tmp_path / "model-int8.onnx").write_bytes(bytes(2000))
    rows = [{"key": "int8", "latency_ms": {"p50": 3.0}}]
    small = types.SimpleNamespace(bytes=1000, ms=2.0)
    told = report._beyond(walked(tmp_path, rows, budget=small))
    assert told.startswith("model-int8.onnx does not fit 1,000 bytes and 2 ms: it needs 2,000 bytes")
    assert "takes 3 ms" in told
    assert "give a smaller --fit" in told
    assert report._is_too_large(walked(tmp_path, rows, budget=small))
    assert not report._is_too_large(walked(tmp_path, rows, budget=types.SimpleNamespace(bytes=None, ms=2.0)))
    assert report._beyond(walked(tmp_path, rows, budget=types.SimpleNamespace(bytes=3000, ms=None))) is None


def test_a_run_that_misses_its_budget_ends_with_an_exit_code(tmp_path):
    for name in ("config.yaml", "report.html"):
        (tmp_path / name).touch()
    for results, code in (({}, 0), ({"too_large": "model.onnx does not fit"}, 2)):
        write_json(tmp_path / "results.json", {"rows": [], **results})
        assert Run(tmp_path).exit_code == code


@pytest.mark.parametrize("way", [{"prune": 0.5}, {"share": 2}, {"fit": "100kB"}])
def test_a_detector_is_only_rounded(way):
    detector = create_detector("pocket_xxs", num_classes=2, image_size=32)
    with pytest.raises(PocketError, match="a detector is neither pruned nor made to share layers: --quantize"):
        refuse(asked(**way), detector)
    refuse(asked(quantize="static"), detector)


def test_what_has_no_vit_blocks_is_refused_before_a_run_begins():
    with pytest.raises(PocketError, match="is no VisionTransformer"):
        refuse(asked(prune=0.5), create_model("cifar_resnet20", num_classes=3))
    tiny = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    for args, words in (({"qk_norm": True}, "normalizes queries"), ({"global_pool": "map"}, "pools its tokens")):
        with pytest.raises(PocketError, match=words):
            refuse(asked(prune=0.5), timm.create_model("vit_tiny_patch16_224", **tiny, **args))
    refuse(asked(prune=0.5), timm.create_model("vit_tiny_patch16_224", **tiny))


def test_a_budget_and_a_named_student_exclude_each_other(photos):
    with pytest.raises(PocketError, match=r"--fit.*--student pocket_xs names one"):
        begin.begin(Distill(photos, fit="3MB", student="pocket_xs", teacher="cifar_resnet20"))


def test_the_bank_of_a_run_without_images_is_found_or_named(tmp_path):
    run = origin(tmp_path / "own-1", [])
    with pytest.raises(PocketError, match=r"--images FILE, images\.npz of the bank in .*banks"):
        _bank_of(run)
    bank = tmp_path / "shared" / "banks" / "own-drawn-1"
    bank.mkdir(parents=True)
    for name in ("images.npz", "bank.json"):
        (bank / name).touch()
    run.results["bank"] = "elsewhere/banks/own-drawn-1"  # it moved together with its run
    assert _bank_of(run) == str(bank / "images.npz")
    run.results["bank"] = str(bank)
    assert _bank_of(run) == str(bank / "images.npz")


def test_built_in_images_need_no_path(tmp_path, monkeypatch):
    monkeypatch.setattr(reopening, "open_dataset", lambda settings: settings.images)
    for name in ("digits", "scenes"):
        assert _images_of(origin(tmp_path, []), Distill(name), None)[1] == name
    with pytest.raises(PocketError, match=r"are not at gone any more.*--images PATH"):
        _images_of(origin(tmp_path, []), Distill("gone"), None)


def test_a_run_without_images_is_opened_with_those_that_it_made(road, tmp_path, monkeypatch):
    """As an ordinary source under the name of the run's images, by which its labels are found."""
    monkeypatch.setattr(reopening, "open_dataset", lambda _: road.dataset)
    (tmp_path / "images.npz").touch()
    made = Distill(data_free=True, teacher="cifar_resnet20", method="drawn", count=64)
    run = origin(tmp_path, [], dataset={"name": "own-no-images"})
    settings, dataset = _images_of(run, made, str(tmp_path / "images.npz"))
    assert (settings.data_free, settings.images) == (False, str(tmp_path / "images.npz"))
    assert dataset.name == "own-no-images"


def test_an_unfinished_run_is_told_before_anything_is_opened(tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "config.yaml").write_text(dump(Distill("digits", teacher="cifar_resnet20")))
    with pytest.raises(PocketError, match="is not finished; give its command again with --resume"):
        reopening.reopen(tmp_path)


def test_another_runs_folder_here_is_not_taken_for_the_one_beside(tmp_path, monkeypatch):
    for place in ("here/runs/photos-1", "there/runs/photos-1", "there/runs/photos-1-pruned-1"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.yaml").touch()
    monkeypatch.chdir(tmp_path / "here")
    runs = tmp_path / "there" / "runs"
    assert reopening._beside("runs/photos-1", runs / "photos-1-pruned-1") == runs / "photos-1"
    shutil.rmtree(runs / "photos-1")
    assert reopening._beside("runs/photos-1", runs / "photos-1-pruned-1") == Path("runs/photos-1")


def test_relative_paths_of_a_run_are_read_from_where_it_was_made(tmp_path, monkeypatch):
    for place in ("here/data", "there/data", "there/runs/photos-1", "there/archive/photos-1"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    settings = Distill(images="data", test="gone", teacher="resnet18")
    found = reopening._rebased(settings, tmp_path / "there" / "runs" / "photos-1")
    assert (found.images, found.test) == (str(tmp_path / "there" / "data"), "gone")
    assert reopening._rebased(settings, tmp_path / "there" / "archive" / "photos-1") == settings
    demo = dataclasses.replace(settings, images="digits")
    assert reopening._rebased(demo, tmp_path / "there" / "runs" / "photos-1").images == "digits"
