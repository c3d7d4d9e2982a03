"""Every benchmark runs, and gives the figures that docs/benchmarks.md tells of."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))
# What makes a script small: constants of its module.
SMALLER: dict[str, dict[str, Any]] = {
    "datafree": {"DRAWN": 8, "INVERTED": 2, "STEPS": 5},
    "deployed": {"SIDE": 16, "TAUGHT": 64, "TEACHING": 64, "STUDENT": "pocket_xxs", "TEACHER": "cifar_resnet20"},
    "detection": {"BATCH": 2, "IMAGES": 8},
    "half_precision": {"BATCH": 2},
    "involution": {"_SHAPES": ((8, 32), (7, 32)), "_TURNS": {1: 1, 8: 1, 32: 1}},
    "methods": {"BATCH": 4},
    "muon": {"BATCH": 2},
    "patches": {
        "_EMBEDDINGS": ((32, 4, 2), (224, 16, 1)),
        "_MODELS": (("pocket_s", 32, 2), ("pocket_l", 224, 1)),
    },
    "photos": {"FILES": 30, "TURNS": 1, "SIDES": (300, 400), "_LABEL_AND_TRAIN": "import sys; print(len(sys.argv))"},
    "training": {"BATCH": 8},
}


@pytest.fixture
def brief(monkeypatch):
    """Let every candidate run twice on few images; return what is shared by the scripts."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    timing, steps = importlib.import_module("_timing"), importlib.import_module("_steps")
    alternate, noise = timing.alternate, steps.noise
    monkeypatch.setattr(timing, "alternate", lambda candidates, seconds, least=1: alternate(candidates, 0.0, 1))
    monkeypatch.setattr(steps, "noise", lambda images: noise(min(images, 64)))
    monkeypatch.setattr(steps, "BATCH", 8)
    monkeypatch.setattr(steps, "BLOCK", 1)
    monkeypatch.setattr(steps, "choose_precision", lambda *_: "fp32")
    return timing


def drawn(path: Path) -> str:
    """Write a few dark and light pictures as a file in MedMNIST's layout."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 32), ("val", 8), ("test", 8)):
        labels = np.arange(count)[:, None] % 2
        arrays[f"{split}_labels"] = labels
        arrays[f"{split}_images"] = rng.integers(0, 128, (count, 16, 16, 3)) + 120 * labels[..., None, None]
    np.savez(path, **{name: array.astype(np.uint8) for name, array in arrays.items()})
    return str(path)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_measures_what_its_page_tells_of(name, brief, monkeypatch, capsys, tmp_path):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for constant, value in SMALLER.get(name, {}).items():
        assert hasattr(module, constant)
        monkeypatch.setattr(module, constant, value)
    if name == "views":
        measure_size = module.measure_size
        monkeypatch.setattr(module, "measure_size", lambda size, *_: measure_size(size, 4, 1, 2, 0.0))
    images = drawn(tmp_path / "drawn.npz") if name == "deployed" else 64
    found = module.measure(argparse.Namespace(seconds=0.0, images=images, run="", stem="patch", vit=""))
    assert all(math.isfinite(value) for value in found.values())
    assert capsys.readouterr().out
    told = re.findall(
        rf"^\| `(\w+)` \| `benchmarks/{name}\.py`", (ROOT / "docs/benchmarks.md").read_text(), re.MULTILINE
    )
    assert set(told) <= set(found)
    assert f"python benchmarks/{name}.py" in module.__doc__


def test_a_benchmark_ends_with_a_line_of_json_that_names_the_machine(brief, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["some.py", "--json", "--images", "7"])
    brief.run(lambda flags: {"ratio": 2.0 * flags.images}, "Some benchmark.", images=1000)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["ratio"] == 14.0
    assert {"cpu", "cores", "threads", "torch"} <= set(line["machine"])
