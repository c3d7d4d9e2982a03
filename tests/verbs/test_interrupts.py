"""Ctrl-C in every verb: one message, exit code 130, and what was finished is kept."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from pocketvit import cli
from pocketvit.settings import VERBS

OWN = "--teacher walk_fakes:make_own --teacher-size 16 --teacher-norm half"
# For each verb a command, and a function under way in which Ctrl-C is pressed.
PLACES = {
    "demo": ("demo", "pocketvit.road.large.train_teacher"),
    "distill": (f"distill photos {OWN} --student pocket_xs --patch 8", "pocketvit.road.label.label_road"),
    "predict": ("predict RUN photo.png", "pocketvit.deployment.predict.decode"),
    "bench": ("bench RUN", "pocketvit.road.bench.measure_rows"),
    "report": ("report RUN --out page.html", "pocketvit.reporting.page._gather"),
    "train": ("train photos --model test_resnet --size 32", "pocketvit.road.train.fit"),
    "label": (f"label photos {OWN}", "pocketvit.road.label.write_labels"),
    "compress": ("compress RUN --share 2 --out runs", "pocketvit.road.compress.train_network"),
    "serve": ("serve RUN", "pocketvit.deployment.web.find_runtime"),
    "synthesize": (f"synthesize {OWN} --count 20", "pocketvit.synthesis.methods.make_bank"),
    "export": ("export RUN", "pocketvit.deployment.files.check_parity"),
    "pack": ("pack photos", "pocketvit.sources.pack_dataset"),
    "run": ("run recipe.py", None),
    "compare": (
        f"compare photos {OWN} --methods kl --student pocket_xs --patch 8",
        "pocketvit.road.label.write_labels",
    ),
}


@pytest.fixture
def place(walked, photos, tmp_path, monkeypatch):
    """A folder with photographs, a picture and a recipe that presses Ctrl-C."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photos)
    Image.new("RGB", (16, 16)).save(tmp_path / "photo.png")
    (tmp_path / "recipe.py").write_text("def recipe(images, folder, small):\n    raise KeyboardInterrupt\n")
    return tmp_path


@pytest.mark.parametrize("name", VERBS)
def test_ctrl_c_is_one_message_in_every_verb(name, place, walked, monkeypatch, capfd):
    command, target = PLACES[name]
    pressed = []

    def press(*_, **__):
        pressed.append(True)
        raise KeyboardInterrupt

    if target is not None:
        module, function = target.rsplit(".", 1)
        monkeypatch.setattr(importlib.import_module(module), function, press)
    words = command.replace("RUN", str(walked.run.folder)).split()
    code = cli.main(words)
    out, err = capfd.readouterr()
    assert code == 130
    assert pressed or target is None
    assert out == ""
    assert "Traceback" not in err
    resume = " --resume" if name in ("demo", "distill", "train", "compress", "synthesize") else ""
    assert err.endswith(f"interrupted. What was finished is kept; go on with: pocketvit {' '.join(words)}{resume}\n")
    assert not [path for path in place.rglob("*") if path.name.endswith(".part")]


def test_before_a_run_is_there_the_same_command_is_typed_again(place, monkeypatch, capfd):
    """With --resume it would be refused, or an older run of that name be opened."""

    def press(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("pocketvit.road.images"), "open_images", press)
    assert cli.main(["distill", "photos"]) == 130
    assert capfd.readouterr().err.endswith("What was finished is kept; go on with: pocketvit distill photos\n")
    assert not (place / "runs").exists() or not list((place / "runs").glob("photos-*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_real_signal_ends_the_command_within_seconds(place):
    """Pressed while threads render and a network learns; then `--resume` takes it up."""
    command = [sys.executable, "-m", "pocketvit", *PLACES["distill"][0].split(), "--epochs", "500", "--views", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, os.path.dirname(__file__)])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        end, metrics = time.monotonic() + 120, place / "runs/photos-1/metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < end:  # it begins empty
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert time.monotonic() - start < 30
    assert out == ""
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("interrupted. What was finished is kept; go on with: ")
    assert (place / "runs/photos-1/checkpoints/last.safetensors").is_file()
