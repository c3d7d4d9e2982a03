"""What a verdict would ship in the student's place lies in the run as a file that answers."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from PIL import Image
from timm.models import save_for_hf
from walk_fakes import CHOICES, Own, tiny

import pocketvit
from pocketvit.deployment.opening import open_model
from pocketvit.files import read_json
from pocketvit.reporting.verdict import Verdict
from pocketvit.road import instead

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("alone", "model-int8.onnx"),
        ("against", "model-int8.onnx"),
        ("teacher-1-int8", "model-int8.onnx"),
        ("teacher-1", "model.onnx"),
    ],
)
def test_what_the_verdict_would_ship_is_kept(photos, tmp_path, monkeypatch, key, file):
    monkeypatch.setattr(instead, "verdict", lambda *given: Verdict((), "", key))
    more = {}
    if key == "against":
        save_for_hf(tiny(), tmp_path / "other")
        more = {"against": f"local-dir:{tmp_path / 'other'}"}
    run = pocketvit.distill(str(photos), teacher=Own(), out=str(tmp_path / "runs"), **CHOICES, **more)
    row = next(row for row in read_json(run.folder / "results.json")["rows"] if row["key"] == key)
    assert row["file"] == "instead/device.zip"
    with zipfile.ZipFile(run.folder / row["file"]) as packed:
        assert file in packed.namelist()
    model = open_model(run.folder / "instead" / file)
    assert model.classes == ("blue", "green", "red")
    if key.startswith("teacher"):  # the very file that was measured
        assert (run.folder / "instead" / file).stat().st_size == row["bytes"]
        with Image.open(photos / "red" / "00.png") as red:
            assert model.label([np.asarray(red)])[0].argmax() == 2
