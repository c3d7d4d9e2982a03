"""Methods side by side: what a name stands for, that a comparison goes on, and what it says of its figures."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from walk_fakes import Own, run_config

from pocketvit import cli, compare
from pocketvit.config import LossConfig
from pocketvit.errors import PocketError
from pocketvit.experiments import arms, comparing
from pocketvit.experiments.comparing import _folder
from pocketvit.experiments.methods import parse_methods, served
from pocketvit.files import read_json
from pocketvit.road.baselines import without_teachers
from pocketvit.rundir import Run
from pocketvit.settings import Compare
from pocketvit.teachers import load_teacher
from pocketvit.training import read_metrics

CHOICES = {
    "student": "pocket_xs", "patch": 8, "stem": "patch", "epochs": 1, "batch_size": 24, "images_limit": 24,
    "precision": "fp32", "augment": "light", "optimizer": "adamw",
}  # fmt: skip


def names(*asked, teachers=1):
    return parse_methods(list(asked), LossConfig(), teachers=teachers)


def teacher():
    return load_teacher(Own(), input_size=16, norm="half", classes=("blue", "green", "red"))


def parent(compared):
    return str(Path(compared.data["folder"]).parent)


@pytest.fixture(scope="module")
def compared(photos, tmp_path_factory):
    """A comparison of three methods over two seeds."""
    out = tmp_path_factory.mktemp("compared")
    return compare(str(photos), teacher=teacher(), methods="kl,alone,kl+rkd", seeds=2, out=str(out), **CHOICES)


def test_a_method_is_parts_that_change_the_loss():
    alone, plain, both = names("alone, dkd", "kl+rkd+fitnets")
    assert (alone.name, alone.taught, alone.live) == ("alone", False, False)
    assert (plain.loss.objective, plain.taught, plain.live) == ("dkd", True, False)
    assert both.loss.objective == "kl"
    assert [(term.objective, term.weight) for term in both.loss.terms] == [("rkd", 1.0), ("fitnets", 1.0)]
    assert both.live
    (weighed,) = names("zscore+learned", teachers=2)
    assert (weighed.loss.teacher_weights, weighed.loss.objective, weighed.live) == ("learned", "zscore", False)
    assert [method.name for method in names("kl,kl", "kl")] == ["kl"]


def test_an_assistant_stands_for_the_teachers_and_two_students_for_each_other():
    whole, both = names("assistant,kl+assistant", teachers=2)
    assert (whole.assisted, whole.taught, whole.live, whole.loss) == (True, True, False, LossConfig())
    assert (both.assisted, both.loss.objective) == (True, "kl")
    (pair,) = names("mutual")
    assert (pair.mutual, pair.taught) == (True, False)
    assert (pair.loss.objective, pair.loss.temperature, pair.loss.weight) == ("kl", 1.0, 0.5)
    assert [method.shown for method in (whole, both, pair)] == ["assistant (with zscore)", "kl+assistant", "mutual"]


def test_the_same_parts_in_another_order_are_one_method():
    assert [one.name for one in names("kl+rkd,rkd+kl,kl")] == ["kl+rkd", "kl"]


def test_what_a_method_does_not_say_is_shown():
    assert [method.shown for method in names("alone,kl,rkd,kl+rkd")] == [
        "alone", "kl", "rkd (with zscore), live teachers", "kl+rkd, live teachers",
    ]  # fmt: skip


def test_self_distillation_needs_no_teacher_but_an_average(photos, tmp_path):
    (own,) = names("alone+mean_teacher")
    assert (own.taught, own.live, own.averaged) == (False, False, True)
    with pytest.raises(PocketError, match=r"--ema 0\.999"):
        compare(str(photos), methods="alone+mean_teacher", out=str(tmp_path))


def test_alone_is_the_baseline_of_distill_and_keeps_what_is_added_to_it(road):
    alone, own, kl = names("alone,alone+mean_teacher,kl")
    config = dataclasses.replace(run_config(), loss=alone.loss)
    baseline = without_teachers(config, road).loss
    assert comparing._loss(alone, config, road) == baseline
    assert comparing._loss(own, config, road).terms == own.loss.terms != ()
    assert comparing._loss(own, config, road).label_smoothing == baseline.label_smoothing > 0
    assert comparing._loss(kl, config, road) == kl.loss


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("zscor", "Did you mean zscore"),
        ("alone,similarty", "Did you mean similarity"),
        ("kl+dkd", "one objective"),
        ("alone+kl", "alone is without a teacher"),
        ("alone+rkd", "what can be added to it is mean_teacher"),
        ("kl+learned", "there is one"),
        ("alone+assistant", "alone is without a teacher"),
        ("kl+mutual", "two students and no teacher"),
        (" , ", "names no method"),
        ("rkd+rkd", "stands there once"),
        ("alone+alone", "stands there once"),
        ("kl+", "stands there once"),
    ],
)
def test_methods_that_make_no_sense_are_refused(asked, says):
    with pytest.raises(PocketError, match=says):
        names(asked)


def test_only_objectives_that_the_labels_serve_are_compared_by_default():
    assert served(10, True, 2.0) == ["alone", "kl", "hard", "zscore", "dkd", "dist"]
    assert served(2, True, 2.0) == ["alone", "kl", "hard", "dkd", "dist"]
    assert served(1000, False, 1.0) == ["alone", "kl", "hard"]
    assert served(1000, False, 2.0) == ["alone", "hard"]


def test_table_plot_and_report_hold_every_method(compared):
    table = compared.data["table"]
    head, _, *rows = table.split("\n\n")[0].splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| kl", "| alone", "| kl+rkd, live teachers"]
    assert "minus *alone*" in head
    assert "agrees with the teacher" in head
    assert "ms per step" in head
    assert len({row.count("|") for row in (head, *rows)}) == 1
    assert "2 seeds" in table
    plot, report = (Path(compared.data[file]).read_text(encoding="utf-8") for file in ("plot", "report"))
    assert all(text in plot for text in ("alone (baseline)", "kl+rkd, live teachers", "a training step"))
    assert "What each method gains" in report
    assert "Of 3 arms" in report
    assert table in str(compared)


def test_results_hold_the_figures_of_the_table(compared):
    json.dumps(compared.data, allow_nan=False)
    methods = {method["key"]: method for method in compared.data["methods"]}
    assert list(methods) == ["kl", "alone", "kl+rkd"]
    kl, alone = methods["kl"], methods["alone"]
    assert alone["difference"] is None
    assert kl["differences"] == pytest.approx(list(np.subtract(kl["accuracies"], alone["accuracies"])))
    assert kl["difference"] == pytest.approx(kl["accuracy"] - alone["accuracy"])
    if kl["interval"] is None:  # both seeds may differ alike on so few images
        assert np.ptp(kl["differences"]) == 0
    else:
        assert kl["interval"][0] <= kl["difference"] <= kl["interval"][1]
    assert not kl["seen"]  # two seeds are too few to claim anything
    assert all(0 <= method["agreement"] <= 1 for method in methods.values())
    assert all(method["step_ms"] > 0 for method in methods.values())
    assert compared.data["against"] == "alone"


def test_typed_again_nothing_is_trained_and_more_methods_and_seeds_are_added(compared, photos, monkeypatch):
    def again(**changes):
        options = {"methods": "kl,alone,kl+rkd", "seeds": 2, **changes}
        return compare(str(photos), **({"teacher": teacher(), "out": parent(compared)} | CHOICES | options))

    trained = []
    train = arms._train
    monkeypatch.setattr(arms, "_train", lambda *args: trained.append((args[1].key, args[2])) or train(*args))
    assert again().data["methods"] == compared.data["methods"]
    assert trained == []
    again(methods="hard,alone", seeds=3)
    assert trained == [("hard", 0), ("hard", 1), ("hard", 2), ("alone", 2)]
    with pytest.raises(PocketError, match="epochs: 1 -> 2"):
        again(epochs=2)
    other = Own()
    with torch.no_grad():
        other.head.bias += 0.5
    with pytest.raises(PocketError, match="other teachers"):
        again(teacher=load_teacher(other, input_size=16, norm="half", classes=("blue", "green", "red")))


def test_from_the_shell_with_one_seed_no_interval_is_claimed(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher = "--teacher walk_fakes:make_own --teacher-size 16 --teacher-norm half"
    command = f"compare {photos} {teacher} --methods alone --methods kl,hard"
    options = "--seeds 1 --student pocket_xs --patch 8 --epochs 1 --batch-size 24 --images-limit 24 --precision fp32"
    assert cli.main([*command.split(), *options.split(), "--json", "--name", "mine"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["folder"] == "runs/mine"
    assert [method["interval"] for method in data["methods"]] == [None, None, None]
    assert "One seed: there is no interval" in data["table"]
    assert "(one seed)" in data["table"]
    assert read_json(tmp_path / "runs/mine/results.json")["rows"][0]["role"] == "teacher"


def test_without_alone_the_first_method_is_the_baseline(compared, photos):
    found = compare(str(photos), teacher=teacher(), out=parent(compared), methods="kl+rkd,kl", seeds=2, **CHOICES)
    assert found.data["against"] == "kl+rkd"


def test_assistant_and_mutual_are_trained_and_the_teachers_alone_are_agreed_with(photos, tmp_path, monkeypatch):
    options = {"teacher": teacher(), "out": str(tmp_path), "seeds": 1, "assistant": "pocket_xxs", **CHOICES}
    asked = []
    consensus = arms._consensus
    monkeypatch.setattr(
        arms, "_consensus", lambda road, who: asked.append([one.name for one in who]) or consensus(road, who)
    )
    found = compare(str(photos), methods="kl,kl+assistant,mutual", **options)
    assert asked == [["Own"]]
    assert "One assistant for all seeds, pocket_xxs" in found.data["table"]
    folder = Path(found.data["folder"])
    records = {key: read_json(folder / key / "seed-0" / "result.json") for key in ("kl", "kl+assistant", "mutual")}
    assert len({one["parameters"] for one in records.values()}) == 1  # of mutual students one is delivered
    (line,) = read_metrics(folder / "mutual" / "seed-0" / "metrics.jsonl")
    assert line["val_accuracy"] == max(line["peers"])
    assert len(line["peers"]) == 2


def test_an_assistant_may_join_a_comparison_and_be_left_out_again_but_not_become_another(tmp_path):
    def folder(**more):
        settings = Compare("photos", teacher="x", out=tmp_path, **more)
        return _folder("photos", types.SimpleNamespace(settings=settings, specs=[], dataset=images))

    images = types.SimpleNamespace(splits={})
    place = folder(methods="alone,kl")
    assert folder(methods="alone,kl,kl+assistant", assistant="pocket_m") == place
    assert Run(place).settings.assistant == "pocket_m"
    assert folder(methods="alone,kl") == place
    assert Run(place).settings.assistant == "pocket_m"
    with pytest.raises(PocketError, match="assistant: pocket_m -> pocket_s"):
        folder(methods="kl+assistant", assistant="pocket_s")


def test_what_an_assistant_or_two_students_need_is_told_before_any_work(photos, tmp_path):
    with pytest.raises(PocketError, match="Name it: --assistant pocket_m"):
        compare(str(photos), methods="kl+assistant", out=str(tmp_path))
    with pytest.raises(PocketError, match="--assistant pocket_m: no method uses it"):
        compare(str(photos), methods="alone,kl", assistant="pocket_m", out=str(tmp_path))
    with pytest.raises(PocketError, match="--tokens 1: the students of --methods mutual"):
        compare(str(photos), methods="kl,mutual", tokens=1, out=str(tmp_path))
    with pytest.raises(PocketError, match="the assistant is the only one"):
        compare(str(photos), methods="learned+assistant", assistant="pocket_m", out=str(tmp_path))


def test_images_without_labels_are_refused(photos, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted(photos.rglob("*.png"))[::4]:
        (flat / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    with pytest.raises(PocketError, match="compared by their accuracy"):
        compare(str(flat), teacher=teacher(), out=str(tmp_path / "runs"))


def test_an_objective_that_the_labels_cannot_serve_is_refused_before_any_work(photos, tmp_path):
    with pytest.raises(PocketError, match="--top-k 0"):
        compare(str(photos), teacher=teacher(), methods="alone,dist", top_k=2, out=str(tmp_path / "runs"))
    assert {path.name for path in tmp_path.glob("runs/*/*")} <= {"checked"}  # what was found of the files, no more


def test_a_method_whose_teachers_count_for_nothing_is_refused_before_any_work(photos, tmp_path):
    asked = {"teacher": teacher(), "teacher_share": 0, "out": str(tmp_path), **CHOICES}
    with pytest.raises(PocketError, match=r"--teacher-share 0\.0: the student would learn nothing"):
        compare(str(photos), methods="alone,kl", **asked)
    assert not list(tmp_path.glob("*compare*"))
