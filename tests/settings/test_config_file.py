"""A file of settings is read, or refused in one message with what to do."""

from __future__ import annotations

import pytest
import torch
import yaml

from pocketvit import __version__
from pocketvit.errors import PocketError
from pocketvit.settings import Distill, Train, differences, dump, gather, load


@pytest.fixture
def write(tmp_path):
    def file(text, name="run.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return file


def refused(make, *words):
    with pytest.raises(PocketError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message


def test_a_dump_is_flat_lines_by_group_and_says_who_wrote_it():
    text = dump(Distill("photos", epochs=3, window="0,4095"))
    lines = text.splitlines()
    assert lines[:2] == [f"pocketvit: {__version__}", "verb: distill"]
    assert [line for line in lines if line.startswith("# ")][:3] == ["# images", "# views", "# teachers"]
    for line in ("images: photos", "epochs: 3", "window: [0.0, 4095.0]", "table: null"):
        assert line in lines
    assert not {"config", "resume", "plan"} & set(yaml.safe_load(text))


def test_what_only_python_has_is_named_by_its_kind(write):
    network = torch.nn.Linear(1, 1)
    file = write(dump(Distill("digits", teacher=network)))
    assert load(file).teacher == ("(Linear)",)
    assert differences(load(file), Distill("digits", teacher=network)) == []
    refused(lambda: gather(Distill, {"config": file}), "the teacher was a Linear given in Python. Give it again")
    assert gather(Distill, {"config": file, "teacher": network}).teacher == (network,)


def test_what_is_given_goes_over_the_file(write):
    file = write("images: digits\nepochs: 7\nlr: 1e-3\nteacher: [a, b]\n")
    made = gather(Distill, {"config": str(file), "epochs": 3})
    assert (made.images, made.epochs, made.lr, made.teacher) == ("digits", 3, 0.001, ("a", "b"))
    assert made.config is None


def test_the_student_that_fit_chose_for_a_run_is_chosen_again(write):
    chosen = Distill("digits", fit="1MB", student="pocket_xs", epochs=7)
    made = gather(Distill, {"config": write(dump(chosen))})
    assert (made.fit, made.student, made.epochs) == ("1MB", "auto", 7)
    own = gather(Distill, {"config": write("images: digits\nfit: 1MB\nstudent: pocket_xs\n")})  # to be refused
    assert own.student == "pocket_xs"


def test_one_length_is_given_and_that_of_a_runs_file_makes_room(write):
    both = {"images": "digits", "hours": "1", "epochs": 3}
    refused(lambda: gather(Distill, both), "--hours 1.0: --epochs 3 is another length. Leave one of the two away.")
    refused(lambda: gather(Train, both), "--hours 1.0: --epochs 3 is another length.")
    refused(lambda: gather(Distill, {"config": write("images: digits\nepochs: 3\n"), "hours": 1}), "another length")
    assert gather(Distill, {**both, "resume": True}).epochs == 3
    file = write(dump(Distill("digits", hours=1, epochs=7)))  # a run by the clock, whose epochs were chosen
    for given, expected in (({}, (1, 7)), ({"hours": 2}, (2, None)), ({"epochs": 5}, (None, 5))):
        made = gather(Distill, {"config": file, **given})
        assert (made.hours, made.epochs) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("views", 3), ("top_k", 5), ("store_features", "1GB"), ("temperature", 4), ("teacher_share", 0.2),
        ("teacher_weights", "learned"), ("approximate_tail", True), ("hard_share", 0.3),
    ],
)  # fmt: skip
def test_what_only_a_teacher_can_use_is_not_given_beside_none(write, name, value):
    given = {"images": "digits", "teacher": "none", name: value}
    refused(lambda: gather(Distill, given), f"--{name.replace('_', '-')}", "--teacher none wants none")
    file = write(dump(Distill(**given)))  # as runs of earlier versions have it, and with views all of them
    assert getattr(gather(Distill, {"config": file}), name) == getattr(load(file), name) == value


def test_a_run_that_matched_features_is_done_again_without_them_or_its_teacher(write):
    chosen = Distill("digits", teacher="x", match="fitnets", store_features="4GB", views=3, objective="zscore",
                     temperature=2, teacher_weights="fixed", hard_share=0, epochs=7)  # fmt: skip
    file = write(dump(chosen))
    made = gather(Distill, {"config": file, "teacher": "none"})
    assert made == Distill("digits", teacher="none", epochs=7)
    for none in ("none", ["none"]):  # which the shell gives
        made = gather(Distill, {"config": file, "match": none})
        assert (made.match, made.store_features, made.views) == ("none", None, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epcohs: 3\n", ["has no setting 'epcohs'", "Did you mean epochs?"]),
        ("input: 32\n", ["has no setting 'input'", "Did you mean teacher_size?"]),
        ("labels: a.csv\n", ["Did you mean table?"]),
        ("verb: train\n", ["has settings of `train`, not of `distill`: `pocketvit train --config"]),
        ("verb: distil\n", ["the verbs are demo, distill", "run. Did you mean distill?"]),
        ("verb: [1]\n", ["has settings of"]),
        ("images: photos\nview:\n  view_size: 3\n", ["was written by an earlier version", "start a new one"]),
        ("- 1\n- 2\n", ["is no file of `name: value` lines"]),
        ("just words\n", ["is no file of `name: value` lines"]),
        ("", ["is no file of `name: value` lines"]),
        ("a: [b\n", ["is no file of `name: value` lines"]),
        ("a: !!python/object:os.system x\n", ["is no file of `name: value` lines"]),
        (bytes(range(256)), ["is no file of `name: value` lines"]),
        (b"\x00" * 100, ["is no file of `name: value` lines"]),
        ("[" * 5_000, ["is no file of `name: value` lines"]),
        ("a: " + "x" * 200_000, ["too large"]),
        ("? [1, 2]\n: 3\n", ["is no file of `name: value` lines"]),
        ("1: 2\n", ["has no setting '1'"]),
    ],
)
def test_a_file_that_cannot_be_taken_is_one_message(write, text, words):
    refused(lambda: gather(Distill, {"config": write(text)}), "run.yaml", *words)


def test_a_file_in_a_folder_with_a_space_is_named_as_it_is_typed(tmp_path):
    run = tmp_path / "my runs" / "photos-1"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(dump(Distill("photos")), encoding="utf-8")
    typed = f"--config '{run}/config.yaml'"
    refused(lambda: gather(Train, {"config": run / "config.yaml"}), f"`pocketvit distill {typed}`.")
    refused(lambda: gather(Distill, {"config": run}), f"is a run folder. Give the file in it: {typed}.")


def test_a_value_in_a_file_is_checked_like_any_other(write):
    refused(lambda: gather(Distill, {"config": write("images: digits\nepochs: two\n")}), "--epochs two: give a whole")
    refused(lambda: load(write("pocketvit: 1\nverb: distill\nepochs: two\n")), "run.yaml: --epochs two: give a whole")
    refused(lambda: gather(Distill, {"config": "nope.yaml"}), "there is no file nope.yaml")
    refused(lambda: gather(Distill, {"config": write("config: run.yaml\nimages: digits\n")}), "--config run.yaml")


def test_the_config_of_an_old_run_is_refused_with_what_to_do(write):
    old = yaml.safe_dump({"verb": "distill", "images": "photos", "view": {"view_size": 64}, "loss": {}, "train": {}})
    refused(lambda: load(write(old)), "earlier version", "`pocketvit predict`", "start a new one")
    refused(lambda: load(write("verb: distill\nepochs: 3\n")), "earlier version")
    refused(lambda: load(write("pocketvit: 9\nverb: teleport\n")), "names no verb of this version ('teleport')")


def test_differences_name_old_and_new_but_not_what_no_result_depends_on():
    old = Distill("photos", epochs=3, name="a", device="cpu", teacher=["x", "y"])
    new = Distill("photos", lr=0.5, name="b", no_images=True, resume=True, flip=False)
    assert differences(old, new) == [
        "flip: not given -> false", "teacher: x, y -> not given", "epochs: 3 -> not given", "lr: not given -> 0.5",
    ]  # fmt: skip
    assert differences(old, Train("photos")) == ["verb: distill -> train"]
    assert differences(Distill(teacher="none"), Distill(controls="none")) == [
        "teacher: none -> not given", "controls: noise -> none",
    ]  # fmt: skip


# A named run goes on with its own settings.


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "photos-1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(Distill("gone", epochs=3, teacher="x", teacher_size=9)))
    return folder


def test_a_named_run_goes_on_with_its_own_settings(run):
    made = gather(Distill, {"resume": run, "device": "cpu", "epochs": "3", "hours": "+1"})
    assert (made.images, made.epochs, made.teacher_size) == ("gone", 3, 9)
    assert (made.resume, made.device, made.hours) == (str(run), "cpu", "+1.0")


def test_a_named_run_cannot_be_given_others(run):
    refused(lambda: gather(Distill, {"resume": run, "epochs": 5}), "--epochs 5:", "goes on with its own (3)")
    refused(lambda: gather(Train, {"resume": run}), "was made by `pocketvit distill`")
    refused(lambda: gather(Distill, {"resume": run.parent}), "is not a run folder: it has no config.yaml")
    refused(lambda: gather(Distill, {"resume": run.parent / "photo-1"}), "Did you mean", "photos-1")


def test_a_finished_run_is_not_shown_as_if_it_had_been_given_others(run):
    (run / "report.html").touch()
    refused(lambda: gather(Distill, {"resume": run, "epochs": 5}), "is finished, with its own (3)", "a new run")
    made = gather(Distill, {"resume": run, "epochs": 3, "images": "moved/", "hours": "+1", "name": "other"})
    assert (made.epochs, made.images, made.hours) == (3, "moved", "+1.0")


def test_paths_of_a_named_run_may_have_moved_and_its_python_objects_are_given_again(run):
    (run / "config.yaml").write_text(dump(Distill("gone", teacher=torch.nn.Linear(1, 1))))
    refused(lambda: gather(Distill, {"resume": run}), "the teacher was a Linear given in Python")
    refused(lambda: gather(Distill, {"resume": run, "teacher": "resnet18"}), "--teacher resnet18:")
    network = torch.nn.Linear(1, 1)
    made = gather(Distill, {"resume": run, "teacher": network, "images": "moved/"})
    assert (made.images, made.teacher) == ("moved", (network,))
