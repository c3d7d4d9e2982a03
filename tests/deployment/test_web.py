"""The page for the browser sees what the network was trained on, and answers as the file does here."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import types
import urllib.request
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from pocketvit.deployment import web
from pocketvit.deployment.device.preprocessing import prepare
from pocketvit.deployment.package import draw_golden
from pocketvit.errors import PocketError

NODE = shutil.which("node")
ABOUT = {"input_size": 20, "view_size": 24, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "tile": None}
CASES = [
    {"aspect": "crop", "resample": "lanczos", "lobes": 3},
    {"aspect": "pad", "resample": "lanczos", "lobes": 3},
    {"aspect": "stretch", "resample": "lanczos", "lobes": 3},
    {"aspect": "crop", "resample": "bicubic", "lobes": 3},
    {"aspect": "pad", "resample": "bilinear", "lobes": 3},
    {"aspect": "crop", "resample": "nearest", "lobes": 3},
    {"aspect": "crop", "resample": "lanczos", "lobes": 5, "tile": 32},
]
SCRIPT = """
import { readFileSync } from "node:fs";
import { prepare, probabilities } from "./preprocessing.mjs";
const { picture, cases } = JSON.parse(readFileSync("picture.json"));
const given = { ...picture, data: Uint8Array.from(picture.data) };
console.log(JSON.stringify({
  pixels: cases.map((about) => prepare(given, about).map((tile) => Array.from(tile))),
  softmax: probabilities([1, 2, 4], "softmax"),
  sigmoid: probabilities([0, 2], "sigmoid"),
}));
"""


@pytest.mark.skipif(NODE is None, reason="needs node, which runs the page's own code")
def test_the_pages_pixels_are_those_of_the_training(tmp_path):
    (tmp_path / "preprocessing.mjs").write_text((files(web.__package__) / "web" / "preprocessing.mjs").read_text())
    (tmp_path / "run.mjs").write_text(SCRIPT)
    picture = draw_golden(53, 71)
    cases = [{**ABOUT, **case} for case in CASES]
    given = {"height": 53, "width": 71, "data": picture.ravel().tolist()}
    (tmp_path / "picture.json").write_text(json.dumps({"picture": given, "cases": cases}))
    done = subprocess.run([NODE, "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    for about, tiles in zip(cases, found["pixels"], strict=True):
        expected = prepare(picture, about)
        assert len(tiles) == len(expected)
        np.testing.assert_allclose(np.array(tiles).reshape(expected.shape), expected, atol=1e-6)
    exponents = np.exp([1, 2, 4])
    np.testing.assert_allclose(found["softmax"], exponents / exponents.sum())
    np.testing.assert_allclose(found["sigmoid"], 1 / (1 + np.exp([0, -2])))


def runtime(folder: Path) -> Path:
    """Files of the names that onnxruntime-web's have, and nothing in them."""
    folder.mkdir(parents=True)
    for name in web.RUNTIME:
        (folder / name).write_text("// stands in")
    return folder


def test_the_folder_is_whole_and_asks_no_other_server(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(web.shutil, "which", lambda _: None)
    told = web.write_web(tmp_path / "web", plain.int8, runtime(tmp_path / "dist"))
    assert "not checked" in told
    names = {str(path.relative_to(tmp_path / "web")) for path in (tmp_path / "web").rglob("*") if path.is_file()}
    assert names == {*web.PAGE, *(f"ort/{name}" for name in web.RUNTIME), "model.json", plain.int8.name}
    for name in web.PAGE:
        assert "http" not in (tmp_path / "web" / name).read_text()
    about = json.loads((tmp_path / "web" / "model.json").read_text())
    assert about["file"] == plain.int8.name
    assert about["preprocessing"]["input_size"] == 32


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_a_model_that_does_not_run_there_leaves_nothing_behind(plain, tmp_path):
    with pytest.raises(PocketError, match=r"does not run this model.*Nothing was written"):
        web.write_web(tmp_path / "web", plain.int8, runtime(tmp_path / "dist"))
    assert not (tmp_path / "web").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dist"]


def test_pictures_inside_the_file_are_refused(with_picture, tmp_path):
    with pytest.raises(PocketError, match="has its preprocessing inside: export it without --picture"):
        web.write_web(tmp_path / "web", with_picture.int8, runtime(tmp_path / "dist"))


def test_a_missing_runtime_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PocketError, match="npm install onnxruntime-web"):
        web.find_runtime()
    with pytest.raises(PocketError, match="is not in"):
        web.find_runtime(tmp_path)
    found = runtime(tmp_path / "node_modules" / "onnxruntime-web" / "dist")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert web.find_runtime() == found
    assert web.find_runtime(found.parent) == found


def test_the_server_gives_modules_their_type(tmp_path):
    (tmp_path / "app.mjs").write_text("1")
    with web.server(tmp_path, 0) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{page.server_address[1]}/app.mjs") as answer:
            assert answer.headers["Content-Type"] == "text/javascript"
        with pytest.raises(PocketError, match=r"--port \d+ cannot be used"):
            web.server(tmp_path, page.server_address[1])
        page.shutdown()


def test_a_check_that_does_not_end_is_one_sentence(tmp_path, monkeypatch):
    def forever(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    about = types.SimpleNamespace(source_size=(8, 8))
    model = types.SimpleNamespace(signature=about, preprocessing=types.SimpleNamespace(tile=None), label=lambda _: [0])
    monkeypatch.setattr(web.shutil, "which", lambda _: "node")
    monkeypatch.setattr(web.subprocess, "run", forever)
    (tmp_path / "web").mkdir()
    with pytest.raises(PocketError, match="gave no answer to one picture within 300 seconds: nothing was written"):
        web._check(tmp_path / "web", model)


def test_a_page_may_be_opened_to_other_devices_and_says_where(tmp_path):
    with web.server(tmp_path, 0) as page:
        assert web.address_of(page) == f"http://127.0.0.1:{page.server_address[1]}"
    with web.server(tmp_path, 0, "0.0.0.0") as page:
        assert web.address_of(page).endswith(f":{page.server_address[1]}")
    with pytest.raises(PocketError, match=r"--host 203\.0\.113\.1 --port 0 cannot be used"):
        web.server(tmp_path, 0, "203.0.113.1")
