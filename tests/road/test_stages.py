"""The road is a list: a stage and a task from outside the package walk it, and a gap in the list is told."""

from __future__ import annotations

import types

import numpy as np
import pytest
from walk_fakes import CHOICES, Own, run_config

from pocketvit import tasks
from pocketvit.errors import PocketError
from pocketvit.files import read_json
from pocketvit.road import DISTILL, Cost, Label, Open, Score, Stage, Train, Walk, plan, walk
from pocketvit.road.begin import begin
from pocketvit.road.images import open_dataset
from pocketvit.road.report import _approximated
from pocketvit.settings import Distill


class Count(Stage):
    """A user's own stage: it counts the images that the teachers labelled, and costs three seconds."""

    name = "count"
    reads = ("images", "labels")
    writes = ("counted",)

    def __init__(self) -> None:
        self.seen: list[int] = []

    def cost(self, state: Walk) -> Cost:
        return Cost(seconds=3.0, told=("counted",))

    def run(self, state: Walk) -> None:
        self.seen.append(state.store.num_images())
        state.notes.append("counted")


def start(photos, folder, **changes) -> Walk:
    """Where `distill` starts its walk."""
    asked = {"teacher": Own(), **CHOICES, **changes}
    settings = Distill(images=str(photos), out=str(folder), device="cpu", **asked)
    return begin(settings).walk(folder / "mine")


def test_a_stage_of_ones_own_takes_its_place_in_the_list(photos, tmp_path):
    own = Count()
    state = walk([*DISTILL[:3], own, Train()], start(photos, tmp_path, epochs=1, views=1))
    assert own.seen == [48]
    assert "student" in state.networks
    spent = read_json(tmp_path / "mine" / "seconds.json")
    assert {"open", "adapt", "label", "count", "train"} == spent.keys()


def test_the_plan_is_the_sum_of_the_stages(photos, tmp_path):
    state = walk([Open()], start(photos, tmp_path, epochs=1, views=1))
    state.teachers = list(state.specs)
    costs = plan([Label(), Count()], state, have=("images", "teachers"))
    assert costs["count"] == Cost(seconds=3.0, told=("counted",))
    assert costs["label"].bytes > 0
    walk([Label()], state, have=("images", "teachers"))
    assert plan([Label()], state, have=("images", "teachers"))["label"] == Cost()  # it is done


def test_a_stage_whose_input_is_missing_says_which_command_makes_it():
    with pytest.raises(PocketError, match=r"the stage train needs labels.*`pocketvit label IMAGES"):
        walk([Train()], Walk(None, run_config(), None), have=("images", "teachers"))
    with pytest.raises(PocketError, match=r"the stage score needs student and files"):
        walk([Score()], Walk(None, run_config(), None), have=("images",))


@tasks.register
class Reversed(tasks.Classification):
    """A task from outside: the class that is least likely is the answer that counts."""

    name = "reversed"

    def judge(self, probabilities, targets, classes, **others):
        turned = (1 - np.asarray(probabilities, np.float64)) / (len(classes) - 1)
        return super().judge(turned, targets, classes, **others)

    def right(self, logits, batch):
        return super().right(-logits, batch)


def test_a_task_of_ones_own_walks_the_road_and_is_asked_everywhere(photos, tmp_path):
    import dataclasses

    from pocketvit.deployment.opening import open_model

    state = start(photos, tmp_path, epochs=1, views=1)
    state.images = dataclasses.replace(state.images, task="reversed")
    state.settings = dataclasses.replace(state.settings, baseline=False, no_images=True)
    walk(DISTILL, state)
    rows = {row["key"]: row for row in state.rows}
    assert rows["teacher-1"]["accuracy"] == 0.0  # `Own` is always right, and here the least likely class counts
    results = read_json(tmp_path / "mine" / "results.json")
    assert results["dataset"]["task"] == "reversed"
    pixels = state.road.pixels(state.road.scored)
    for place in ("student", "model.onnx"):
        given = open_model(tmp_path / "mine" / place).probabilities(pixels)
        assert np.allclose(given, state.arrays["student"], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "approximated"),
    [
        ({"top_k": 2, "objective": "zscore"}, True),
        ({"top_k": 2, "objective": "kl", "temperature": 1}, False),  # which needs no others
        ({"objective": "zscore"}, False),  # all are stored
        ({"top_k": 2, "teacher": "none"}, False),
    ],
)
def test_logits_are_approximated_where_some_are_missing(photos, tmp_path, changes, approximated):
    state = walk([Open()], start(photos, tmp_path, approximate_tail=True, **changes))
    assert _approximated(state) is approximated


def test_a_run_whose_images_moved_says_where_to_name_them(tmp_path):
    gone = types.SimpleNamespace(images="parts", resume="runs/parts-1", verb="distill")
    with pytest.raises(PocketError, match=r"not at parts any more.*`pocketvit distill IMAGES --resume runs/parts-1`"):
        open_dataset(gone)
