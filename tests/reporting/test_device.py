"""A device's own figures come back as a row of the run that its file is from."""

from __future__ import annotations

import hashlib
import json

import pytest

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.files import read_json


@pytest.fixture
def run(make_run, tmp_path):
    folder = make_run(tmp_path / "digits-1")
    (folder / "model-int8.onnx").write_bytes(b"a file")
    return folder


def measured(tmp_path, **changes):
    found = {
        "model": "model-int8.onnx", "sha256": hashlib.sha256(b"a file").hexdigest(), "golden": {"matches": True},
        "latency_ms": {"p50": 4.5, "p90": 5.0, "runs": 100}, "bytes": 6, "threads": 2,
        "machine": "aarch64 Linux, onnxruntime 1.20",
    }  # fmt: skip
    path = tmp_path / "phone.json"
    path.write_text(json.dumps(found | changes), encoding="utf-8")
    return path


def test_a_device_is_a_row_that_the_report_shows_once(run, tmp_path):
    for p50 in (9.0, 4.5):  # measured again
        path = measured(tmp_path, latency_ms={"p50": p50, "p90": 10.0})
        said = str(pocketvit.report(run, device=path))
    assert "on aarch64 Linux" in said
    rows = read_json(run / "results.json")["rows"]
    (row,) = [row for row in rows if row["key"].startswith("device-")]
    int8 = next(row for row in rows if row["role"] == "int8")
    assert (row["latency_ms"]["p50"], row["accuracy"]) == (4.5, int8["accuracy"])
    assert "on aarch64 Linux" in (run / "report.html").read_text(encoding="utf-8")


def test_devices_that_were_reached_by_name_are_rows_of_their_own(run, tmp_path):
    for device in ("pi", "jetson", "pi"):  # of the same machine string
        pocketvit.report(run, device=measured(tmp_path, device=device))
    names = [row["name"] for row in read_json(run / "results.json")["rows"] if row["key"].startswith("device-")]
    assert [name.rpartition(", ")[2] for name in names] == ["on jetson", "on pi"]


def test_files_threads_and_devices_of_the_same_kind_are_rows_of_their_own(run, tmp_path):
    (run / "model.onnx").write_bytes(b"fp32")
    fp32 = hashlib.sha256(b"fp32").hexdigest()
    for changes in ({}, {"sha256": fp32}, {"threads": 4}, {}):
        pocketvit.report(run, device=measured(tmp_path, **changes))
    pocketvit.report(run, device=measured(tmp_path).rename(tmp_path / "other-phone.json"))
    rows = [row for row in read_json(run / "results.json")["rows"] if row["key"].startswith("device-")]
    assert len(rows) == 4
    assert "(other-phone.json)" in rows[-1]["note"]


def test_a_device_that_computes_something_else_has_no_accuracy(run, tmp_path):
    pocketvit.report(run, device=measured(tmp_path, golden={"matches": False}))
    row = read_json(run / "results.json")["rows"][-1]
    assert "accuracy" not in row
    assert "DOES NOT MATCH" in row["note"]


def test_files_of_others_are_refused(run, tmp_path):
    with pytest.raises(PocketError, match="another file than those of"):
        pocketvit.report(run, device=measured(tmp_path, sha256="0" * 64))
    for p50 in (float("nan"), -1, "soon"):
        with pytest.raises(PocketError, match=r"is not what `python bench\.py --json"):
            pocketvit.report(run, device=measured(tmp_path, latency_ms={"p50": p50, "p90": 5.0}))
    path = tmp_path / "other.json"
    for text in ("{}", "[1]", "no JSON"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(PocketError, match=r"is not what `python bench\.py --json"):
            pocketvit.report(run, device=path)
    with pytest.raises(PocketError, match="--device"):
        pocketvit.report([run, run], device=path)
