"""An assistant: it learns from the teachers, the student learns from it, and both are found again."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import torch
from walk_fakes import CHOICES, SIDE, Own, run_config

from pocketvit import cli, distill
from pocketvit.config import NetworkConfig, TrainConfig
from pocketvit.errors import PocketError
from pocketvit.models import load_model
from pocketvit.road import assist
from pocketvit.road.label import label_road
from pocketvit.road.reopen import reopen
from pocketvit.road.synthesize import check_controls
from pocketvit.road.train import train_network
from pocketvit.settings import Distill
from pocketvit.teachers import load_teacher
from pocketvit.training import Stepper, read_metrics

ASKED = CHOICES | {"student": "pocket_xxs", "assistant": "pocket_xs", "epochs": 1, "views": 1}


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("assisted") / "runs"
    return distill(str(photos), teacher=Own(), out=str(out), **ASKED)


def row(run, key):
    return next(one for one in run.results["rows"] if one["key"] == key)


def test_the_assistant_stands_in_the_table_between_teacher_and_student(run):
    assert row(run, "assistant")["name"] == "assistant: pocket_xs"
    assert row(run, "assistant")["parameters"] > row(run, "student")["parameters"]
    assert row(run, "student")["name"] == "student, distilled by way of pocket_xs"


def test_the_student_learned_the_assistants_labels_and_these_are_reopened(run):
    store, keys, _ = reopen(run.folder).labels(reopen(run.folder).road("cpu"))
    assert keys == run.results["labels"]
    assert [key.rpartition("-")[0] for key in keys] == ["assistant-pocket_xs"]
    assert {key.rpartition("-")[0] for key in store.teachers()} == {"Own", "assistant-pocket_xs"}
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(*(store.read(key, 0).logits.numpy() for key in store.teachers()), atol=0.1)


def test_the_student_is_the_one_that_these_labels_make(road, tmp_path):
    """By hand: the same trainings one after the other, with the stores between them."""
    config = run_config(
        network=NetworkConfig("pocket_xxs", patch=8), train=TrainConfig(epochs=1, batch_size=8, precision="fp32")
    )
    teacher = load_teacher(Own(), input_size=SIDE, norm="half", classes=road.dataset.classes)
    settings = Distill(student="pocket_xxs", assistant="pocket_xs")
    state = assist.Walk(settings, config, tmp_path / "run", road=road, teachers=[teacher])
    state.store = label_road(road, [teacher], config.labels)
    for stage in (assist.Assist(), assist.LabelAgain()):
        stage.run(state)
    assert state.tutors == [state.assistant]
    student = train_network(road, config, tmp_path / "run", teachers=state.tutors, store=state.store)

    first = dataclasses.replace(config, network=assist.assistant_config(settings, config).network)
    assistant = train_network(road, first, tmp_path / "a", teachers=[teacher], store=state.store)
    middle = load_teacher(assistant, input_size=SIDE, norm=road.input[1:], classes=road.dataset.classes)
    own = label_road(road, [middle], config.labels, folder=tmp_path / "labels")
    again = train_network(road, config, tmp_path / "b", teachers=[middle], store=own)
    assert all(
        torch.equal(a, b) for a, b in zip(student.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_a_stop_within_the_assistant_costs_no_step(photos, tmp_path, run, monkeypatch):
    def stopped(self, batches):
        if self.step == 3:
            raise KeyboardInterrupt
        return take(self, batches)

    take = Stepper.take
    options = {"teacher": Own(), "out": str(tmp_path), **ASKED}
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "take", stopped)
        with pytest.raises(KeyboardInterrupt):
            distill(str(photos), **options)
    again = distill(str(photos), resume=True, **options)
    assert again.folder.name == run.folder.name
    assert len(read_metrics(again.folder / "assistant" / "metrics.jsonl")) == 1
    weights = [load_model(one.folder / "student").module.state_dict() for one in (run, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_without_one_the_road_is_as_it_was(road, tmp_path):
    state = assist.Walk(Distill(student="pocket_xxs"), run_config(), tmp_path, road=road, teachers=[object()])
    for stage in (assist.Assist(), assist.LabelAgain()):
        assert stage.cost(state).seconds == stage.trains(state) == 0
        stage.run(state)
    assert state.tutors == state.teachers
    assert not list(tmp_path.glob("assistant*"))


def test_a_plan_counts_its_training_and_its_labels(photos):
    plan = distill(str(photos), teacher=Own(), plan=True, **ASKED)
    assert min(plan.data["seconds"][name] for name in ("assistant", "assistant-labels", "train")) > 0
    assert "assist   pocket_xs" in str(plan)


def test_pretrained_weights_are_trained_gently_beside_a_student_from_scratch():
    config = run_config(train=TrainConfig(epochs=2, batch_size=64, optimizer="muon", learning_rate=5e-3))
    found = assist.assistant_config(Distill(student="pocket_xs", assistant="vit_tiny_patch16_224.augreg_in21k"), config)
    assert (found.train.optimizer, found.train.learning_rate) == ("adamw", pytest.approx(3e-4))
    assert assist.assistant_config(Distill(student="pocket_xs", assistant="pocket_m"), config).train == config.train


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--assistant", "pocket_q"], "--assistant: unknown model 'pocket_q'. Did you mean pocket_"),
        (["--assistant", "pocket_m", "--tokens", "2"], "--tokens 2: the student's only teacher is the assistant"),
        (["--assistant", "pocket_m", "--init-from", "teacher"], "--init-from teacher: the student's teacher"),
        (["--assistant", "local-dir:nowhere"], "--assistant: there is no nowhere"),
    ],
)
def test_what_makes_no_sense_is_told_at_once(photos, options, says, capsys, tmp_path):
    assert cli.main(["distill", str(photos), "--out", str(tmp_path), *options]) == 2
    assert says in capsys.readouterr().err


def test_a_student_without_images_has_none(capsys):
    assert cli.main(["distill", "--data-free", "--teacher", "walk_fakes:make_own", "--assistant", "pocket_m"]) == 2
    assert "--assistant pocket_m: the controls" in capsys.readouterr().err


def test_controls_are_not_taught_otherwise_than_the_student_beside_them():
    """Of a bank that was made before, too: the difference would be the assistant's as well as the images'."""
    bank = types.SimpleNamespace(synthetic="drawn", test=["picture"])
    asked = {"teacher": "x", "test": "t", "assistant": "pocket_s"}
    with pytest.raises(PocketError, match=r"--assistant pocket_s: the controls beside .*give --controls none\."):
        check_controls(Distill("bank.npz", **asked), bank)
    check_controls(Distill("bank.npz", **asked, controls="none"), bank)
    check_controls(Distill("bank.npz", **asked), types.SimpleNamespace(synthetic="", test=["picture"]))
