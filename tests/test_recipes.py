"""Recipes are documents that run: each says what it shows, costs and found, and goes from its images to its table."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketvit.config import RunConfig
from pocketvit.experiments import run_arms
from pocketvit.models import create_model, create_student

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("[!_]*.py"))
# Those of the experiments with arms, and what of the drawn images below each takes; {} is where these lie.
IMAGES = {
    "biomedical": "{}/cells.npz",
    "deit_tiny_cifar100": "{}/pictures.npz",
    "gating": "{}/pictures.npz",
    "light_teachers": "{}/cells.npz",
    "replayed_views": "{}/cifar",
    "resampling": "{}/cells.npz",
    "small_batches": "{}/pictures.npz,{}/cells.npz",
    "which_method": "{}/cifar",
}

# Constants that would make many steps of few images.
FEWER: dict[str, dict[str, Any]] = {
    "biomedical": {"SHOWN": 640},  # images
    "small_batches": {"SEEDS": range(1)},
}


@pytest.fixture(params=RECIPES)
def recipe(request, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    return importlib.import_module(request.param)


def test_a_recipe_says_what_it_shows_and_where_its_result_stands(recipe):
    for part in ("Shows", "Paper", "Data", "Cost", "Command", "Result"):
        assert f"\n{part} " in recipe.__doc__
    assert f"pocketvit run recipes/{recipe.__name__}.py" in recipe.__doc__
    result = recipe.__doc__.split("\nResult", 1)[1].split()[0]
    text = (ROOT / result).read_text(encoding="utf-8")
    assert recipe.__name__ in text


@pytest.mark.parametrize("small", [False, True])
def test_the_student_of_a_recipe_can_be_made(recipe, small):
    make = getattr(recipe, "config", None)
    if make is None:
        pytest.skip("it uses another recipe's student")
    config = make(small=small, **({"views": 3} if "views" in inspect.signature(make).parameters else {}))
    assert isinstance(config, RunConfig)
    network = config.network
    create_student(network.name, num_classes=10, image_size=config.view.view_size, patch_size=network.patch)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A few noisy pictures in four shades of red, of 32 and of 28 pixels, and teachers that have learned nothing."""
    folder, rng = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0)
    for name, side in (("pictures", 32), ("cells", 28)):
        arrays = {}
        for split, count in (("train", 32), ("val", 8), ("test", 8)):
            labels = np.arange(count)[:, None] % 4
            noise = rng.integers(0, 128, (count, side, side, 3), dtype=np.uint8)
            noise[..., 0] += (40 * labels[..., None]).astype(np.uint8)
            arrays |= {f"{split}_images": noise, f"{split}_labels": labels}
        np.savez(folder / f"{name}.npz", **arrays)
    for name in ("cifar_resnet20", "cifar_resnet56"):
        torch.manual_seed(0)
        network = create_model(name, num_classes=4)
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        with torch.no_grad():
            network.train()(torch.randn(32, 3, 32, 32))  # running statistics, without which logits leave fp16
        torch.save({"state_dict": network.state_dict()}, folder / f"{name}.th")
    (folder / "cifar").mkdir()
    shutil.copy(folder / "pictures.npz", folder / "cifar" / "cifar10.npz")
    shutil.copy(folder / "cifar_resnet20.th", folder / "cifar" / "cifar10_resnet20-drawn.th")
    return folder


@pytest.mark.parametrize("name", IMAGES)
def test_a_recipe_runs_to_its_table(name, drawn, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    module = importlib.import_module(name)

    def run_some(road, arms, seeds, folder):
        """Train the first two arms and the last one with one seed; the rest counts as the first."""
        chosen = {arm.key: arm for arm in (*arms[:2], arms[-1])}
        found = run_arms(road, list(chosen.values()), seeds[:1], folder)
        for arm in arms:
            if arm.key not in chosen:
                shutil.copytree(folder / arms[0].key, folder / arm.key)
        return {arm.key: found.get(arm.key, found[arms[0].key]) * len(seeds) for arm in arms}

    monkeypatch.setattr(module, "run_arms", run_some)
    # Emulated where a processor has no bf16, and then ten times as slow.
    monkeypatch.setattr("pocketvit.training.step.autocast", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("pocketvit.experiments.tables.write_report", lambda *_, **__: None)  # tested with the arms
    for other, constants in FEWER.items():
        for constant, few in constants.items():
            monkeypatch.setattr(importlib.import_module(other), constant, few)
    folder = tmp_path / name
    text = module.recipe(IMAGES[name].format(drawn, drawn), folder, True)
    assert len([line for line in text.splitlines() if line.startswith("| ")]) > 2
    assert "nan" not in text
    assert list(folder.rglob("table.md"))


def test_every_int8_file_has_its_place_in_the_table_and_is_not_made_twice(drawn, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    module = importlib.import_module("int8_students")
    some = ("xxs-patch", "xxs-conv-several")
    monkeypatch.setattr(module, "STUDENTS", {key: module.STUDENTS[key] for key in some})
    monkeypatch.setattr(module, "CALIBRATED", 16)
    monkeypatch.setattr(module, "SHOWN", 8_000)  # enough that not all pictures are answered alike
    folder = tmp_path / "int8_students"

    def rows() -> list[str]:
        text = module.recipe(str(drawn / "cells.npz"), folder, True)
        return [line for line in text.splitlines() if line.startswith("| ")]

    first = rows()
    assert [line.split(" | ")[0] for line in first] == ["| student", "| ---", *(f"| {key}" for key in some), *(
        f"| **{of}**" for of in ("worst", "median")
    )]  # fmt: skip
    assert {len(line.split(" | ")) for line in first} == {3 + len(module.FILES)}
    for key in some:
        assert sorted(path.stem for path in (folder / key).glob("*.onnx")) == sorted(["fp32", *module.FILES])
    monkeypatch.setattr(module, "calibrated", None)
    monkeypatch.setattr(module, "write_int8", None)
    assert rows() == first


def test_a_picture_of_four_images_has_the_labels_of_all_of_them(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    module = importlib.import_module("int8_students")
    images = np.stack([np.full((4, 4, 3), 10 * label, np.uint8) for label in range(6)])
    np.savez(tmp_path / "plain.npz", test_images=images, test_labels=np.arange(6)[:, None])
    with np.load(module.four_in_one(str(tmp_path / "plain.npz"), tmp_path / "four.npz")) as made:
        pictures, labels = made["test_images"], made["test_labels"]
    assert pictures.shape == images.shape
    for picture, present in zip(pictures, labels, strict=True):
        corners = {
            int(corner) // 10 for corner in (picture[0, 0, 0], picture[0, 3, 0], picture[3, 0, 0], picture[3, 3, 0])
        }
        assert corners == set(np.flatnonzero(present))
