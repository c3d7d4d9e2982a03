"""CONTRIBUTING.md tells the truth: its examples work as they stand, its picture of the house is the house."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from walk_fakes import CHOICES, Own

import pocketvit
from pocketvit import cli, objectives, tasks
from pocketvit.config import LossConfig
from pocketvit.errors import PocketError
from pocketvit.labels import FullLabels, encode_topk
from pocketvit.road import Open, plan, walk
from pocketvit.road.begin import begin
from pocketvit.settings import Distill, settings_of
from pocketvit.settings.pages import page
from pocketvit.tasks.registry import _TASKS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
HOUSE = ROOT / "src" / "pocketvit"


@pytest.fixture(scope="module")
def page_code():
    """Run every block of Python of the page, in order, as one program; forget what it registered afterwards."""
    program = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    names: dict[str, Any] = {"__name__": "contributing"}
    exec(compile(program, "CONTRIBUTING.md", "exec", dont_inherit=True), names)
    yield names
    objectives.OBJECTIVES.pop("mse")
    _TASKS.pop("cautious")


def test_the_stage_draws_views_and_says_what_it_costs(page_code, photos, tmp_path):
    mosaic = page_code["Mosaic"]()
    begun = begin(Distill(images=str(photos), teacher=Own(), out=str(tmp_path), device="cpu", **CHOICES))
    (tmp_path / "mine").mkdir()
    state = walk([Open()], begun.walk(tmp_path / "mine"))
    assert plan([mosaic], state, have=("images",))["mosaic"].bytes == 3 * 16 * 16**2
    walk([mosaic], state, have=("images",))
    assert (tmp_path / "mine" / "mosaic.png").is_file()
    assert plan([mosaic], state, have=("images",))["mosaic"].seconds == 0  # it is done
    names = [stage.name for stage in page_code["STAGES"]]
    assert names[:3] == ["open", "mosaic", "adapt"]


def test_the_task_is_found_by_its_name_and_answers_its_own_way(page_code, photos):
    dataset = page_code["cautious"](str(photos))
    task = tasks.task_named(dataset.task)
    assert task.answer(np.array([0.4, 0.35, 0.25], np.float32), dataset.classes, 1).text == "unsure"
    assert task.answer(np.array([0.1, 0.8, 0.1], np.float32), dataset.classes, 1).text == "green 80.0%"


def test_the_source_is_checked_and_split_like_any_other(page_code, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.array(["cat", "dog", "bird"] * 20))
    dataset = page_code["open_npy"](tmp_path)
    assert dataset.classes == ("bird", "cat", "dog")
    assert sorted(dataset.splits) == ["test", "train", "val"]
    assert sum(map(len, dataset.splits.values())) == 60
    image, target = dataset.train[0]
    assert image.shape == (8, 8, 3)
    assert dataset.classes[target] == ["cat", "dog", "bird"][int(dataset.train.names[0]) % 3]


def test_the_objective_is_the_squared_distance_and_refuses_the_largest_logits_alone(page_code):
    student, teacher = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    objective = tasks.task_named("classification").objective("mse")
    assert objective.function(student, FullLabels(teacher), temperature=2.0).tolist() == pytest.approx([13 / 3])
    assert objective.needs_at(1.0) == "full"
    assert tasks.task_named("classification").loss(LossConfig(objective="mse")) is not None
    with pytest.raises(PocketError, match="the objective mse needs the logits of all 3 classes"):
        objective.function(student, encode_topk(teacher, 2), temperature=1.0)


def test_the_verb_counts_and_its_setting_is_an_option_a_keyword_and_a_line_of_help(page_code, photos):
    count, kind = page_code["count"], page_code["Count"]
    assert count(str(photos), least=5).data.keys() == {"blue", "green", "red"}
    assert count(str(photos), least=100).data == {}
    assert cli.said(kind, ["photos/", "--least", "5"])["least"] == "5"
    assert "--least N" in page(kind)
    with pytest.raises(PocketError, match=r"--least -1: give a whole number of at least 0"):
        count(str(photos), least=-1)
    brought = {one.name for one in settings_of(kind)}
    assert {"images", "table", "val", "test", "group", "tile", "window"} <= brought


def test_objectives_are_the_choices_of_the_setting():
    choices = set(get_args(get_type_hints(Distill)["objective"])) - {"auto"}
    assert choices == {name for task in _TASKS.values() if task.name != "cautious" for name in task.objectives} - {
        "mse"
    }


def rooms() -> list[str]:
    """The rooms in the order of the picture."""
    picture = TEXT.split("src/pocketvit/\n", 1)[1].split("\nrecipes/", 1)[0]
    return [line.split()[0].removesuffix("/").removesuffix(".py") for line in picture.splitlines()]


def test_every_room_stands_in_the_picture():
    there = {path.stem for path in HOUSE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert {*rooms()} - {"__init__"} == {name for name in there if not name.startswith("_")}


def imports(path: Path) -> set[str]:
    """The rooms from which a module imports, anywhere in it, but for types alone."""
    inner = path.relative_to(HOUSE).parts[:-1]
    found: set[str] = set()

    def look(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.ImportFrom) and child.level > len(inner):
                found.update([child.module.split(".")[0]] if child.module else [one.name for one in child.names])
            look(child)

    look(ast.parse(path.read_text(encoding="utf-8")))
    return found


def test_no_module_imports_from_a_room_below_its_own():
    order = {room: number for number, room in enumerate(rooms())}
    backwards = [
        f"{path.relative_to(HOUSE)} imports {room}"
        for path in sorted(HOUSE.rglob("*.py"))
        for own in [path.relative_to(HOUSE).with_suffix("").parts[0]]
        for room in sorted(imports(path) & order.keys())
        if own in order and order[room] > order[own]
    ]
    assert backwards == []


def test_the_reference_has_a_page_for_every_public_module_and_what_rooms_export_is_there():
    import importlib
    import sys

    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from reference import public_modules
    finally:
        sys.path.pop(0)
    names = public_modules()
    assert {"pocketvit", "pocketvit.road.base", "pocketvit.settings.verbs"} <= {*names}
    for name in names:
        module = importlib.import_module(name)
        assert module.__doc__, f"{name} has no docstring"
        missing = [one for one in getattr(module, "__all__", ()) if not hasattr(module, one)]
        assert missing == [], f"{name} exports what it has not"
    assert pocketvit.distill.__doc__
