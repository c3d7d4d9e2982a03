"""A budget of time: views and epochs fill it, every network has the same share, and a finished run can have more."""

from __future__ import annotations

import dataclasses
import time
import types

import pytest
from walk_fakes import CHOICES, Own, run_config

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.files import read_json, write_json
from pocketvit.road import Cost, Hours, Stage, Walk
from pocketvit.road.hours import as_before, fill, fill_hours, fill_with_student, reopened
from pocketvit.settings import Distill
from pocketvit.training import Stepper, budget, read_metrics


class Costing(Stage):
    """A stage that costs so much an epoch, a view, and at any rate."""

    def __init__(
        self,
        name: str,
        epoch: float = 0.0,
        view: float = 0.0,
        always: float = 0.0,
        networks: int = 0,
        others: float = 0.0,
    ) -> None:
        self.name, self.epoch, self.view, self.always = name, epoch, view, always  # type: ignore[misc]
        self.networks, self.others = networks, others

    def beside(self, walk: Walk) -> float:
        return self.others

    def trains(self, walk: Walk) -> int:
        return self.networks

    def cost(self, walk: Walk) -> Cost:
        settings = walk.settings
        return Cost(self.always + settings.epochs * self.epoch + settings.views * self.view)

    def run(self, walk: Walk) -> None:
        raise AssertionError("a plan walks nothing")


STAGES = (
    Costing("adapt", always=50.0),
    Costing("label", view=60.0),
    Costing("train", epoch=10.0),
    Costing("baselines", epoch=10.0),
    Costing("score", always=50.0),
)


def settings(hours, **changes) -> Distill:
    return Distill(images="digits", teacher=Own(), hours=hours, **changes)


def filled(hours, stages=STAGES, specs=("a teacher",), **changes) -> Distill:
    def state_of(trial):
        return Walk(trial, run_config(views=trial.views), None, specs=specs)

    return fill_hours(settings(hours, **changes), stages, state_of)


def test_epochs_and_views_fill_the_time():
    chosen = filled("20min")  # 1,100 s beside the rest; 30 % of them for labels of 60 s a view
    assert (chosen.views, chosen.epochs) == (5, (1100 - 5 * 60) // 20)
    assert filled("10h").views == 10
    assert filled("20min", views=2).epochs == (1100 - 2 * 60) // 20
    assert chosen.folds == 0


def test_no_time_for_an_epoch_says_what_everything_takes():
    with pytest.raises(PocketError, match=r"labelling 1 view .* 1 min, an epoch .* 20 s, the rest about 1\.7 min"):
        filled("2min")
    with pytest.raises(PocketError, match=r"--hours 0\.05 at least.*\(--no-baseline\)"):  # 100 + 60 + 20 s
        filled("2min")
    with pytest.raises(PocketError, match=r"or a smaller student\.$"):
        filled("2min", baseline=False)


def test_light_teachers_learn_in_the_same_time():
    stages = (Costing("adapt", epoch=10.0), *STAGES[1:])
    assert filled("20min", stages, specs=(), views=2).epochs == (1150 - 2 * 60) // 30


def test_what_stages_do_beside_training_is_not_for_the_networks(tmp_path):
    stages = (*STAGES, Costing("folds", epoch=10.0, always=100.0, networks=1, others=100.0))
    assert filled("20min", stages, views=2).epochs == (1000 - 2 * 60) // 30
    state = walk_of(tmp_path, 1.0)
    Hours(Costing("train", networks=1), stages[-1]).run(state)
    assert state.config.train.seconds == pytest.approx((3600 - 100) / 2, abs=60)


def test_a_short_time_has_a_small_student():
    """One that costs a step more than twice another; the costs are of images, which a stage cannot know here."""
    each = {"pocket_s": 40.0, "pocket_xs": 20.0, "pocket_xxs": 10.0}  # seconds an epoch of 25,000 images

    class Training(Costing):
        def cost(self, walk: Walk) -> Cost:
            return Cost(walk.settings.epochs * each[walk.settings.student])

    def chosen(hours, side=32):
        return fill_with_student(settings(hours), [Training("train")], state_of, 25_000, side)

    def state_of(trial):
        return Walk(trial, run_config(views=trial.views), None, specs=("a teacher",))

    assert (chosen("10min")[0].student, chosen("10min")[1]) == ("pocket_s", [])
    assert (chosen("3min")[0].student, chosen("3min")[0].epochs) == ("pocket_xs", 9)
    assert chosen("1min")[0].student == "pocket_xxs"
    assert "in so short a time it learns more than pocket_s" in chosen("1min")[1][0]
    assert chosen("0.5min")[0].student == "pocket_xxs"  # the others have no epoch
    small = dataclasses.replace(settings("1min"), student="pocket_xs")  # which a small teacher has
    assert fill_with_student(small, [Training("train")], state_of, 25_000, 32)[0].student == "pocket_xxs"
    assert chosen("1min", side=96)[0].student == "pocket_s"  # not measured
    with pytest.raises(PocketError, match=r"too short.*a smaller student, or leave the baseline out"):
        chosen("0.1min")
    untaught = dataclasses.replace(settings("0.1min"), teacher="none")  # it is the baseline itself
    with pytest.raises(PocketError, match=r"or a smaller student\.$"):
        fill_with_student(untaught, [Training("train")], state_of, 25_000, 32)


def test_light_teachers_that_would_eat_the_time_are_left_out(road):
    """60 s an epoch of theirs, 10 s of the student's; the student alone sees its images in a sixth of the time."""

    class Light(Costing):
        def cost(self, walk: Walk) -> Cost:
            return Cost(0.0 if walk.untaught else 60.0 * walk.settings.epochs)

    stages = (Light("adapt"), Costing("train", epoch=10.0))

    def state_of(trial):
        return Walk(trial, run_config(views=trial.views or 1), None)

    def chosen(hours, **changes):
        asked = Distill(images="digits", hours=hours, **changes)
        return fill(asked, stages, state_of, road.dataset, open_student=False)

    enough = 0.5 * 200  # epochs; so few images are seen no oftener
    short, told = chosen("30min")
    assert (short.untaught, short.epochs) == (True, 180)
    assert "learns more from the labels alone" in told[0]
    long, told = chosen("2.5h")
    assert (long.untaught, long.epochs >= enough, told) == (False, True, [])
    assert not chosen("30min", match="rkd")[0].untaught  # what needs a teacher is asked for
    assert not chosen("30min", few_labels=20)[0].untaught  # they learn from more labels than the student
    assert not chosen("30min", teacher="resnet18")[0].untaught


def walk_of(folder, hours) -> Walk:
    state = Walk(settings(hours, epochs=1, views=1), run_config(), folder)
    state.road = type("Road", (), {"processes": type("Who", (), {"rank": 0, "world": 1})})  # type: ignore[assignment]
    return state


def test_the_time_that_is_left_is_shared_evenly_and_is_the_same_after_a_stop(tmp_path):
    stage = Hours(Costing("train", networks=1), Costing("beside", networks=1), Costing("score", always=600.0))
    both = walk_of(tmp_path, 1.0)
    both.began = time.monotonic() - 1000
    stage.run(both)
    each = both.config.train.seconds
    assert each == pytest.approx((3600 - 1000 - 600) / 2, abs=60)
    again = walk_of(tmp_path, 1.0)
    stage.run(again)
    assert again.config.train.seconds == each


def test_more_hours_come_on_top(tmp_path):
    write_json(tmp_path / "hours.json", {"hours": 1.0, "each": 1234.0})
    state = walk_of(tmp_path, 1.5)
    Hours(Costing("train", networks=1), Costing("score", always=300.0)).run(state)
    assert state.config.train.seconds == pytest.approx(1234 + 1800 - 300, abs=60)


def test_a_decay_that_is_trained_anew_counts(tmp_path):
    write_json(tmp_path / "hours.json", {"hours": 1.0, "each": 1000.0})
    for folder in (tmp_path, tmp_path / "alone"):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "stable.safetensors").touch()
    stage = Hours(Costing("train", networks=1), Costing("baselines", networks=1), Costing("score", always=300.0))
    with pytest.raises(PocketError, match=r"from before the decay takes about 10 min.*--hours 1\.284 at least"):
        stage.run(walk_of(tmp_path, 1.2))
    state = walk_of(tmp_path, 1.5)
    stage.run(state)
    assert state.config.train.seconds == pytest.approx(1000 + (1800 - 300 - 2 * 300) / 2, abs=30)


def test_a_budget_that_labelling_used_up_is_told(tmp_path):
    state = walk_of(tmp_path, 0.01)
    state.began -= 100
    with pytest.raises(PocketError, match=r"leaves no time to train.*Give more in all: --hours 0\.045 at least"):
        Hours(Costing("train", networks=1)).run(state)


def test_more_time_that_is_refused_leaves_a_run_as_it_was(tmp_path):
    (tmp_path / "config.yaml").write_text("hours: 1.0")
    (tmp_path / "report.html").write_text("the report")
    write_json(tmp_path / "hours.json", {"hours": 1.0, "each": 60.0})
    run = types.SimpleNamespace(folder=tmp_path, report=tmp_path / "report.html")

    def go_on(text, given=None):
        with reopened(run, text):
            assert (tmp_path / "config.yaml").read_text() == text
            assert not (tmp_path / "report.html").exists()
            if given:
                write_json(tmp_path / "hours.json", given)
            raise PocketError("leaves no time to train, or the disk is full")

    with pytest.raises(PocketError):
        go_on("hours: 1.01")
    assert (tmp_path / "config.yaml").read_text() == "hours: 1.0"
    assert (tmp_path / "report.html").read_text() == "the report"
    with pytest.raises(PocketError):
        go_on("hours: 2.0", {"hours": 2.0, "each": 90.0})  # it was given, and stopped later
    assert (tmp_path / "config.yaml").read_text() == "hours: 2.0"


def test_hours_that_were_never_given_do_not_count(tmp_path):
    run = types.SimpleNamespace(folder=tmp_path, finished=False, settings=settings("1h", epochs=1))
    more = dataclasses.replace(settings("1h", epochs=1), hours="+0.5")
    assert as_before(more, run).time.hours == 1.5  # the first run was refused
    write_json(tmp_path / "hours.json", {"hours": 1.0, "each": 60.0})
    assert as_before(more, run).time.hours == 1.0  # it uses up its own first
    write_json(tmp_path / "hours.json", {"hours": 0.7, "each": 60.0})
    assert as_before(more, run).time.hours == 1.5


@pytest.mark.slow
def test_a_run_by_the_clock_is_extended_from_where_its_curve_stood(photos, tmp_path, monkeypatch):
    """Scenario 16, on a clock that a step moves by ten seconds."""
    watch = [0.0]
    monkeypatch.setattr(budget, "now", lambda: watch[0])
    take = Stepper.take

    def taking(stepper, batches):
        watch[0] += 10.0
        return take(stepper, batches)

    monkeypatch.setattr(Stepper, "take", taking)
    images = {"images": str(photos), "teacher": Own(), "out": str(tmp_path)}
    asked = {**images, **CHOICES, "epochs": None, "baseline": False}
    run = pocketvit.distill(hours="20min", **asked)
    first, shorter = read_json(run.folder / "hours.json"), read_metrics(run.folder / "metrics.jsonl")
    assert shorter[-1]["elapsed"] == pytest.approx(first["each"], rel=0.05)
    more = pocketvit.distill(hours="+20min", resume=True, **asked)
    assert more.folder == run.folder
    assert more.settings.hours == pytest.approx(2 / 3)
    longer = read_metrics(run.folder / "metrics.jsonl")
    assert longer[-1]["elapsed"] > 1.5 * shorter[-1]["elapsed"]
    before = [line["loss"] for line in shorter]
    kept = [line["loss"] for line in longer]
    assert kept[: len(before) // 2] == before[: len(before) // 2]  # nothing was trained anew
    again = pocketvit.distill(resume=str(run.folder), teacher=Own())
    assert again.finished
    assert read_metrics(run.folder / "metrics.jsonl") == longer
    with pytest.raises(PocketError, match="not less"):
        pocketvit.distill(resume=str(run.folder), teacher=Own(), hours=0.1)


def test_a_run_in_epochs_cannot_be_given_hours(walked):
    with pytest.raises(PocketError, match="planned in epochs"):
        pocketvit.distill(resume=str(walked.run.folder), teacher=Own(), hours="+1")
