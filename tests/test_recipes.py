"""Recipes are documents: each says what it shows, costs and found, and what it describes can be made."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from pocketvit.config import RunConfig
from pocketvit.models import create_student

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))


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
