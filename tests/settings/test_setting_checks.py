"""A settings object that exists is valid: what cannot be is one message that names the option and what is wanted."""

from __future__ import annotations

import math
import os
import pathlib

import numpy as np
import pytest
import torch

from pocketvit.errors import PocketError
from pocketvit.settings import (
    VERBS,
    Bench,
    Compare,
    Compress,
    Demo,
    Distill,
    Export,
    Label,
    Predict,
    Report,
    Settings,
    Synthesize,
    Train,
    dump,
    gather,
    listed,
    setting,
    settings_of,
)
from pocketvit.settings.base import find
from pocketvit.views.kinds import KINDS, PHOTO


def refused(make, *words):
    with pytest.raises(PocketError) as caught:
        make()
    message = str(caught.value)
    assert message.endswith((".", "?"))
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("kind", [*VERBS.values(), Synthesize, Compress], ids=lambda kind: kind.verb)
def test_every_setting_has_words_and_whole_numbers_have_bounds(kind):
    for one in settings_of(kind):
        assert len(one.help) > 10 or one.help in ("run folders",)
        assert not one.help.endswith(".")
        assert one.group
        if int in one.kinds:
            assert one.low is not None
            assert one.high is not None
        if one.default not in (None, ()) and not one.positional:
            assert one.take(one.default) == one.default


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("epochs", 0, "--epochs 0: give a whole number from 1 to 1,000,000."),
        ("epochs", "two", "--epochs two: give a whole number"),
        ("epochs", 2.5, "--epochs 2.5: give a whole number"),
        ("epochs", "1_0", "--epochs 1_0: give a whole number"),
        ("epochs", True, "--epochs true: give a whole number"),
        ("epochs", [3], "--epochs [3]: give a whole number"),
        ("epochs", {"a": 1}, "give a whole number"),
        ("epochs", "9" * 5000, "give a whole number"),
        ("epochs", np.arange(3), "give a whole number"),
        ("accumulate", None, "--accumulate none: give a whole number"),
        ("lr", 0, "--lr 0: give a number above 0."),
        ("lr", math.nan, "--lr nan: give a number above 0."),
        ("lr", "inf", "--lr inf: give a number above 0."),
        ("lr", 10**400, "give a number above 0."),
        ("ema", 1, "--ema 1: give a number of at least 0 and below 1."),
        ("teacher_share", 1.1, "--teacher-share 1.1: give a number from 0 to 1."),
        ("seed", 2**63, "--seed 9223372036854775808: give a whole number from 0"),
        ("tile", 1_000_000_000, "--tile 1000000000: give a whole number from 8 to 16,384."),
        ("teacher_size", "1e20", "--teacher-size 1e20: give a whole number"),
        ("size", 2000, "--size 2000: give a whole number from 4 to 1,024."),
        ("folds", 1, "--folds 1: one fold leaves nothing"),
        ("augment", "hevy", "--augment hevy: give one of auto, none, light, medium, strong, hard."),
        ("augment", "strng", "Did you mean strong?"),
        ("flip", "yes", "--flip yes: give true or false."),
        ("flip", 1, "--flip 1: give true or false."),
        ("teacher", "", "--teacher '': this names nothing."),
        ("teacher", ["a", "  "], "this names nothing."),
        ("teacher", 3, "--teacher 3: give a name or a path."),
        ("teacher", b"x", "give a name or a path."),
        ("teacher", "a\0b", "this names nothing."),
        ("images", 3, "IMAGES 3: give a name or a path."),
        ("group", 5, "--group 5: give text."),
        ("name", "a/b", "--name a/b: a run's name is one word"),
        ("name", "..", "--name ..: a run's name is one word"),
        ("window", "5", "--window 5: give two numbers, LOW,HIGH"),
        ("window", "5,1", "--window 5,1: the first number must be the smaller one"),
        ("window", "0,inf", "both finite"),
        ("window", (1, 2, 3), "give two numbers, LOW,HIGH"),
        ("hours", 0, "--hours 0: give hours"),
        ("hours", "1 day", "--hours 1 day: give hours"),
        ("hours", math.nan, "give hours"),
        ("hours", "+", "give hours"),
        ("hours", 1e9, "give hours, up to 10,000"),
        ("fit", "3", "--fit 3: give a size, a time or both"),
        ("fit", "3MB,4MB", "give a size, a time or both"),
        ("fit", "0MB", "give a size, a time or both"),
        ("store_features", "lots", "--store-features lots: give a number and a unit"),
        ("match", "fitnets:x", "--match fitnets:x: 'fitnets:x' is not understood"),
        ("device", "gpu", "--device gpu: give cpu or cuda"),
        ("tokens", 3, "--tokens 3: give 0, 1, or one per teacher, which is 2 here."),
        ("stem", "coadvise", "Give --tokens 2 with it"),
        ("arch", "resnet18", "--arch resnet18: this describes a teacher. Name it with --teacher."),
        ("data", "few", "--data few: this is for images made from the teacher. Add --data-free."),
        ("config", "run.yaml", "settings.load(FILE)"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_one_message(name, value, wanted):
    assert wanted in refused(lambda: Distill(**{name: value}))


def test_a_long_value_is_shortened_in_its_message():
    assert len(refused(lambda: Distill(augment="x" * 10_000))) < 300


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: Label(fine_tune=True, freeze=True), "--fine-tune and --freeze exclude each other"),
        (lambda: Label(plan=True, verify=True), "--plan and --verify exclude each other"),
        (lambda: Distill("photos", data_free=True), "--data-free uses no images"),
        (lambda: Compare("photos", teacher="a", tokens=2), "which is 1 here"),
        (lambda: Train("photos", tokens=2), "nobody teaches here. Give 0 or 1"),
        (lambda: Compress("run", bits=4), "Add --quantize qat"),
        (lambda: Compress("run", bits=3, quantize="qat"), "--bits 3: give 8, 4 or 2"),
        (lambda: Export("a", picture="99999999x99999999"), "1 to 8192 pixels"),
        (lambda: Export("a", picture="640"), "as in --picture 640x480"),
        (lambda: Demo(seed=-1), "--seed -1: give a whole number from 0"),
        (lambda: Bench([]), "MODELS []: give a name or a path"),
    ],
)
def test_combinations_that_exclude_each_other_are_refused_from_the_settings_alone(make, wanted):
    refused(make, wanted)


def test_values_are_kept_in_one_form_however_they_were_said():
    said = Distill(pathlib.Path("photos/"), epochs="2", lr=np.float32(0.5), seed=np.int64(3), flip=np.True_,
                   teacher=pathlib.Path("a/"), window=[0, 4095], out=pathlib.Path("~/runs"), hours="30min",
                   ema=0, match=["rkd:0.5", "fitnets"], device=torch.device("cpu"))  # fmt: skip
    same = Distill("photos", epochs=2, lr="0.5", seed="3", flip=True, teacher=["a"], window="0,4095", hours=0.5,
                   out=os.path.expanduser("~/runs"), ema=0.0, match="rkd:0.5,fitnets", device="cpu")  # fmt: skip
    assert said == same
    assert (said.epochs, said.window, said.images) == (2, (0.0, 4095.0), "photos")
    assert type(said.lr) is float
    assert type(said.flip) is bool
    assert said.time.hours == 0.5
    assert [term.objective for term in said.terms] == ["rkd", "fitnets"]
    assert Distill(teacher="local-dir:X/") == Distill(teacher="local-dir:X")


def test_a_single_thing_is_a_list_of_one():
    assert Bench("a.onnx").models == ("a.onnx",)
    assert Predict("run", pathlib.Path("a.jpg")).images == ("a.jpg",)
    assert Predict("run", (path for path in ("a", "b"))).images == ("a", "b")
    assert Report(pathlib.Path("runs/a-1")).runs == ("runs/a-1",)
    assert Compare("x", methods="alone, kl").methods == ("alone", "kl")
    assert Distill(teacher=None).teacher == ()
    assert listed(None) == ()


def test_objects_of_python_are_passed_on_untouched():
    network = torch.nn.Sequential(torch.nn.Linear(1, 1))  # which can be iterated over
    picture = np.zeros((4, 4, 3), np.uint8)
    assert Distill(teacher=network).teacher == (network,)
    assert Distill(teacher=[network, "resnet18"]).teacher == (network, "resnet18")
    assert Predict("run", picture).images[0] is picture
    pair = (picture, [0])
    assert Distill(pair).images is pair


def test_a_budget_and_the_size_of_pictures_are_read():
    assert vars(Distill(fit="3MB,0.02s").budget) == {"bytes": 3_000_000, "ms": 20.0}
    assert Export("a", picture="640X480").picture_size == (480, 640)
    more = Distill(hours="+30min").time
    assert (more.hours, more.more) == (0.5, True)


def test_kinds_of_images_are_those_that_views_know():
    assert set(find(Distill, "modality").choices) == {PHOTO, *KINDS}


def test_settings_show_what_was_changed():
    assert repr(Distill("photos", epochs=3)) == "Distill(images='photos', epochs=3)"


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        Demo().seed = 3


def test_a_new_verb_is_one_class():
    class Serve(Settings, verb="serve"):
        """Show a page."""

        port: int = setting("of the page", default=8080, low=1, high=65_535)

    assert Serve(port="80").port == 80
    refused(lambda: Serve(port=0), "--port 0: give a whole number from 1 to 65,535.")


# What is looked up before a verb starts.


def look(settings):
    settings.look()


def test_a_path_that_is_not_there_is_answered_with_the_near_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "names.csv").touch()
    look(Distill("photos", table="names.csv"))
    look(Distill("digits"))
    look(Distill("photos", val="digits", test="digits"))
    refused(lambda: look(Distill("photo/")), "there is no photo. Did you mean photos?", "Give a folder of images")
    refused(lambda: look(Distill("demo")), "there is no demo. `pocketvit demo` is a command of its own.")
    refused(lambda: look(Distill("photos", table="name.csv")), "--table: there is no name.csv. Did you mean names.csv?")
    refused(lambda: look(Distill("photos", val="vall")), "--val: there is no vall.")
    refused(lambda: look(Distill("photos", teacher="x.pth")), "--teacher: there is no x.pth.")
    refused(lambda: look(Distill("photos", teacher="local-dir:photo")), "Did you mean photos?")
    refused(lambda: look(Distill("photos", student="local-dir:nope")), "--student: there is no nope.")
    refused(lambda: look(Distill("photos", teacher="x:f", weights="nope.pth")), "--weights: there is no nope.pth.")
    refused(lambda: look(Train("photos", init="nope")), "--init: there is no nope.", "'pretrained'")
    refused(lambda: look(Bench("a.onnx")), "there is no a.onnx.")
    refused(lambda: look(Bench("runs/a-1")), "there is no runs/a-1.", "or hf-hub:runs/a-1 for a model of the hub")
    refused(
        lambda: look(Distill("photos", teacher="./a/b")), "--teacher: there is no ./a/b. Give a path that is there."
    )
    refused(lambda: look(Report(["photos", "b"])), "there is no b.")
    look(Train("photos", init="pretrained", freeze=True))
    for teacher in ("hf-hub:timm/a.safetensors", "hf_hub:timm/a", "../" + tmp_path.name, "module:function"):
        look(Distill("photos", teacher=teacher))


def test_a_table_or_a_card_must_be_a_regular_file(tmp_path):
    (tmp_path / "photos").mkdir()
    refused(lambda: look(Distill(tmp_path / "photos", table="/dev/zero")), "--table /dev/zero: this is no file.")
    refused(lambda: look(Distill(tmp_path / "photos", table=tmp_path)), "this is no file. Give a CSV file.")
    made = {"teacher": "x", "method": "inverted", "statistics": tmp_path}
    refused(lambda: look(Synthesize(**made)), "this is no file. Give a statistics card")


def test_what_must_be_named_is_asked_for(tmp_path):
    refused(lambda: look(Distill()), "name the images, as in `pocketvit distill photos/`")
    refused(lambda: look(Train()), "name the images, as in `pocketvit train photos/`")
    refused(lambda: look(Label(tmp_path)), "name the teacher: `pocketvit label ... --teacher NAME`.")
    refused(lambda: look(Distill(data_free=True)), "name the teacher")
    refused(lambda: look(Synthesize()), "name the teacher")
    look(Distill(data_free=True, teacher="a"))


def test_what_a_folder_says_itself_is_not_said_again(tmp_path):
    refused(lambda: look(Distill(tmp_path, teacher=tmp_path, arch="foo")), "--arch foo:", "says this itself")
    look(Distill(tmp_path, teacher="resnet18", weights=__file__))


def test_a_head_alone_needs_finished_features(tmp_path):
    refused(lambda: look(Train(tmp_path, freeze=True)), "--freeze trains a head on finished features")
    for model in ("resnet18.a1_in1k", "hf-hub:timm/resnet18"):
        look(Train(tmp_path, model=model, freeze=True))


def test_a_head_alone_sees_no_augmented_views(tmp_path):
    frozen = {"images": str(tmp_path), "model": "resnet18.a1_in1k", "freeze": True}
    for name, value in {"augment": "strong", "flip": True, "vertical_flip": False}.items():
        refused(lambda: gather(Train, {**frozen, name: value}), name.replace("_", "-"), "--freeze fits the head")  # noqa: B023
    chosen = Train(**frozen, augment="light")
    (tmp_path / "config.yaml").write_text(dump(chosen), encoding="utf-8")
    assert gather(Train, {"config": tmp_path / "config.yaml"}) == chosen


def test_more_hours_are_for_a_run_that_goes_on(tmp_path):
    refused(lambda: look(Distill(tmp_path, hours="+1")), "--hours +1.0: only a run that goes on")
    look(Distill(tmp_path, hours="+1", resume=True))


def test_none_in_a_teachers_place_is_alone_and_wants_nothing_that_needs_one():
    assert Distill(images="digits", teacher="none").untaught
    assert not Distill(images="digits").untaught
    refused(lambda: Distill(images="digits", teacher=["none", "resnet18"]), "--teacher none", "no teacher at all")
    for name, value in {"assistant": "pocket_m", "match": "rkd", "objective": "kl", "freeze": True}.items():
        refused(lambda: Distill(images="digits", teacher="none", **{name: value}), f"--{name}", "--teacher none")  # noqa: B023
    assert not Distill(images="digits", teacher="none", match="none").terms
    refused(lambda: Distill(images="digits", teacher="none", stem="teacher"), "--stem teacher", "--teacher none")
    refused(lambda: Compare(images="digits", teacher="none"), "alone")


def test_procedural_pictures_are_the_drawn_ones():
    assert Distill("photos", controls="procedural,noise").controls == ("drawn", "noise")
