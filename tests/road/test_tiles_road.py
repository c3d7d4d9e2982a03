"""Large images walk the road in tiles: figures and predictions are per image."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from walk_fakes import CHOICES, COLOURS, Own

import pocketvit
from pocketvit.deployment.predict import predict_images


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Images of 40 x 56 pixels that are grey but for one corner, which has the colour of their class."""
    root = tmp_path_factory.mktemp("large") / "large"
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(10):
            pixels = 100 + random.integers(-20, 20, (40, 56, 3))
            pixels[:16, :16] = np.array(colour) + random.integers(-30, 30, (16, 16, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def test_tiles_are_scored_and_predicted_per_image(large, tmp_path):
    choices = CHOICES | {"epochs": 1, "views": 1, "tile": 16}
    run = pocketvit.distill(str(large), teacher=Own(), out=str(tmp_path), **choices)
    counts = run.results["dataset"]["counts"]
    assert sum(counts.values()) == 30 * 3 * 4  # 40 x 56 pixels in tiles of 16: 3 x 4
    rows = {row["key"]: row for row in run.results["rows"]}
    assert rows["student"]["n"] == counts["test"] // 12
    answers = np.load(run.folder / "predictions.npz")
    assert all(name.endswith(".png") for name in answers["names"])
    files = sorted(large.rglob("0.png"))
    exported = predict_images(run.folder / "model.onnx", files, top=3)
    live = predict_images(run.folder / "student", files, top=3)
    for one, other in zip(exported, live, strict=True):
        assert dict(one.data["topk"]) == pytest.approx(dict(other.data["topk"]), abs=1e-4)
    with zipfile.ZipFile(run.folder / "device.zip") as archive:
        archive.extractall(tmp_path / "device")
    script = next((tmp_path / "device").rglob("predict.py"))
    said = subprocess.run(
        [sys.executable, str(script), str(files[0]), "--json"], capture_output=True, text=True, check=True
    ).stdout
    int8 = predict_images(run.folder / "model-int8.onnx", files[:1], top=3)[0]
    assert dict(json.loads(said)["scores"]) == pytest.approx(dict(int8.data["topk"]), abs=1e-4)
