"""The road without images: what is said, what stands beside the student, and that training saw nothing real."""

import dataclasses
import shlex

import numpy as np
import pytest
import synthesis_fakes
import torch

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.files import read_json
from pocketvit.models import create_model
from pocketvit.road import synthesize as synthesize_road
from pocketvit.road.images import open_dataset
from pocketvit.road.promised import promised
from pocketvit.settings import Distill
from pocketvit.sources import open_images
from pocketvit.synthesis import Procedural, open_bank
from pocketvit.teachers import load_teacher

QUICK = {
    "data_free": True, "teacher_size": 16, "teacher_norm": "none", "student": "pocket_xs", "count": 64, "epochs": 2,
    "views": 1, "precision": "fp32", "batch_size": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def coloured():
    """Real images: pictures by the strongest colour, that the teacher has not seen."""
    pixels = Procedural(7, 16).take(np.arange(60)).transpose(0, 2, 3, 1)
    return pixels, pixels.mean((1, 2)).argmax(1)


def test_a_student_without_images_stands_beside_one_from_noise(network, coloured, tmp_path, caplog):
    caplog.set_level("INFO", "pocketvit")  # as the command line does
    few = tmp_path / "few.npz"
    np.savez(few, train_images=Procedural(8, 16).take(np.arange(5)).transpose(0, 2, 3, 1))
    run = pocketvit.distill(teacher=network, test=coloured, data=few, out=tmp_path / "runs", **QUICK)
    rows = {row["key"]: row for row in run.results["rows"]}
    assert {"teacher-1", "student", "noise", "without"} <= rows.keys()
    for key in ("student", "noise", "without"):
        assert rows[key]["n"] == 60
    assert rows["student"]["calibrated"] is False
    worth = [line for line in run.results["differences"] if "without the real images" in line]
    assert "points (one seed" in worth[0]
    assert run.results["dataset"]["counts"] == {"train": 64, "test": 60}
    said = (run.folder / "train.log").read_text(encoding="utf-8")
    for words in ("NOT data-free: made with 5 real images", "from noise alone", "classes were matched by number"):
        assert words in said
    assert any("on 64 of the images that it learned" in note for note in run.results["notes"])
    assert "NOT data-free: made with 5 real images" in run.report.read_text(encoding="utf-8")
    banks = sorted((tmp_path / "runs" / "shared" / "banks").glob("*/gallery.html"))
    assert len(banks) == 3
    # Every image that training saw is one of a bank.
    made = {picture.tobytes() for bank in banks for picture in open_bank(bank.parent).images}
    assert not made & {picture.tobytes() for picture in coloured[0]}


def test_a_plan_draws_hardly_a_picture(network, coloured, tmp_path, monkeypatch):
    drawn = []
    take = Procedural.take
    monkeypatch.setattr(Procedural, "take", lambda row, which: drawn.extend(which) or take(row, which))
    plan = pocketvit.distill(teacher=network, test=coloured, out=tmp_path, **{**QUICK, "count": 5000, "plan": True})
    assert plan.data["bytes"] > 5000 * 3 * 16**2
    assert len(drawn) < 1000


def test_a_plan_times_pictures_that_are_there(network, tmp_path, monkeypatch):
    """Whoever trains and labels does not draw them anew."""
    take, drawn = Procedural.take, []
    monkeypatch.setattr(Procedural, "take", lambda row, which: drawn.extend(which) or take(row, which))
    settings, teacher = Distill(data_free=True, count=500), load_teacher(network, input_size=16, norm="none")
    source = promised(dataclasses.replace(settings, teacher=network), [teacher])[0].train
    before = len(drawn)
    source.rgb(np.arange(4))
    once = len(drawn)
    assert once > before
    assert source.rgb(np.arange(500)).shape == (500, 16, 16, 3)
    assert len(drawn) == once


def test_what_real_images_stand_behind_is_not_said_to_have_none(network, tmp_path):
    few = tmp_path / "few.npz"
    np.savez(few, train_images=Procedural(8, 16).take(np.arange(5)).transpose(0, 2, 3, 1))
    plan = pocketvit.distill(teacher=network, data=few, out=tmp_path / "runs", plan=True, **QUICK)
    assert "NOT data-free: with 5 real images" in plan.text
    teacher = load_teacher(network, input_size=16, norm="none")
    asked = Distill(data_free=True, count=500, teacher=network, data=few)
    assert promised(asked, [teacher])[0].name == "ColourNet-few-images"


@pytest.mark.parametrize("plan", [False, True])
def test_a_teacher_of_no_use_is_refused_before_anything_is_written(network, tmp_path, plan):
    """Also one that this way of making images has nothing to hold on to."""
    sure = torch.nn.Sequential(network, torch.nn.Softmax(1)).eval()
    asked = {"teacher_size": 16, "teacher_norm": "none", "out": tmp_path, "plan": plan}
    for make in (pocketvit.synthesize, lambda **options: pocketvit.distill(data_free=True, **options)):
        with pytest.raises(PocketError, match="gives probabilities"):
            make(teacher=sure, **asked)
        with pytest.raises(PocketError, match="no gradient passes"):
            make(teacher=synthesis_fakes.Cut(network).eval(), method="inverted", **asked)
        with pytest.raises(PocketError, match="TorchScript, whose layers"):
            make(teacher=torch.jit.trace(network, torch.zeros(1, 3, 16, 16)), method="inverted", **asked)
    assert not list(tmp_path.iterdir())


def test_a_bank_without_a_teacher_is_refused_though_the_test_images_have_classes(teacher, coloured, tmp_path):
    made = pocketvit.synthesize(teacher=teacher, out=tmp_path, count=30)
    with pytest.raises(PocketError, match="no teacher is named"):
        pocketvit.distill(made.data["images"], test=coloured, student="pocket_xs", epochs=1, plan=True, out=tmp_path)


def test_teachers_of_other_classes_are_refused_before_any_image_is_made(network, tmp_path, monkeypatch):
    monkeypatch.setattr(synthesize_road, "make_bank", None)
    other = synthesis_fakes.ColourNet(classes=4).eval()
    with pytest.raises(PocketError, match="ColourNet and ColourNet-2 have different classes"):
        pocketvit.distill(teacher=[network, other], out=tmp_path, **QUICK)
    assert not list(tmp_path.iterdir())


def test_a_control_that_cannot_be_made_costs_no_run(network, coloured, tmp_path, monkeypatch):
    made = synthesize_road._made

    def some(walk, request):
        if request.method == "inverted":
            raise PocketError("no gradient passes")
        return made(walk, request)

    monkeypatch.setattr(synthesize_road, "_made", some)
    asked = QUICK | {"controls": ("noise", "inverted"), "epochs": 1}
    run = pocketvit.distill(teacher=network, test=coloured, out=tmp_path / "runs", **asked)
    assert {"student", "noise"} <= {row["key"] for row in run.results["rows"]}
    assert any("not run (no gradient passes)" in note for note in run.results["notes"])


def test_real_images_that_are_test_images_too_are_counted_beforehand(network, coloured, tmp_path):
    few = tmp_path / "few.npz"
    np.savez(few, train_images=np.concatenate([coloured[0][:2], coloured[0][:3] ^ 1]))
    asked = QUICK | {"data": few, "plan": True}
    plan = pocketvit.distill(teacher=network, test=coloured, out=tmp_path / "runs", **asked)
    assert "2 of the images of --data are test images, too" in plan.text


def test_a_student_of_a_bank_stands_beside_those_of_other_ways(teacher, coloured, tmp_path):
    made = pocketvit.synthesize(teacher=teacher, out=tmp_path, count=30)
    options = {**QUICK, "data_free": False, "count": None, "out": tmp_path / "runs", "epochs": 1, "no_int8": True}
    del options["teacher_size"], options["teacher_norm"], options["no_int8"]
    names = np.array(synthesis_fakes.CLASSES)[coloured[1]]
    run = pocketvit.distill(
        made.data["folder"], teacher=teacher, test=(coloured[0], names), controls="noise,inverted", **options
    )
    rows = {row["key"]: row["name"] for row in run.results["rows"]}
    assert rows["noise"] == "student, from noise alone"
    assert rows["inverted"] == "student, from inverted pictures alone"
    assert not (run.folder / "alone").exists()
    with pytest.raises(PocketError, match="--controls drwan: drwan is none of drawn, inverted"):
        Distill("photos", controls="drwan")
    assert Distill("photos", controls="none").controls == ()


def test_without_test_images_accuracy_is_unknown(network, tmp_path, caplog):
    caplog.set_level("INFO", "pocketvit")
    run = pocketvit.distill(teacher=network, out=tmp_path / "runs", **QUICK)
    rows = {row["key"]: row for row in run.results["rows"]}
    assert rows["student"].get("accuracy") is None
    assert "noise" not in rows
    assert "unknown" in str(run)
    assert "stays unknown" in (run.folder / "train.log").read_text(encoding="utf-8")
    assert read_json(run.folder / "student" / "config.json")["label_names"] == ["class 0", "class 1", "class 2"]


def test_a_plan_writes_nothing(network, coloured, tmp_path):
    plan = pocketvit.distill(teacher=network, test=coloured, out=tmp_path / "runs", plan=True, **QUICK)
    assert {"synthesize", "label", "train", "controls"} <= plan.data["seconds"].keys()
    assert plan.data["counts"]["train"] == 64
    assert not (tmp_path / "runs" / "shared").exists()


def test_classes_of_other_names_are_refused(network, coloured, tmp_path):
    pixels, labels = coloured
    named = load_teacher(network, input_size=16, norm="none", classes=synthesis_fakes.CLASSES)
    test = (pixels, np.array(["cat", "dog", "eel"])[labels])
    with pytest.raises(PocketError, match=r"3 of the 3 classes of the test images \(cat, dog, eel\) are not"):
        pocketvit.distill(teacher=named, test=test, out=tmp_path, **QUICK)


def test_what_the_test_images_have_none_of_is_said_to_be_left_out(network, coloured, tmp_path):
    pixels, labels = coloured
    named = load_teacher(network, input_size=16, norm="none", classes=synthesis_fakes.CLASSES)
    first, second, third = synthesis_fakes.CLASSES
    test = (pixels[labels < 2], np.array([first, second])[labels[labels < 2]])
    plan = pocketvit.distill(teacher=named, test=test, out=tmp_path, plan=True, **QUICK)
    assert f"the 2 classes of the test images, of the 3 that {named.name} knows (not {third})" in str(plan)
    test = (pixels, np.array([first, second, "eel"])[labels])
    with pytest.raises(PocketError, match=r"1 of the 3 classes of the test images \(eel\) are not among the 3"):
        pocketvit.distill(teacher=named, test=test, out=tmp_path, **QUICK)


def test_few_of_many_classes_are_said_to_need_photographs(coloured, tmp_path):
    pixels, labels = coloured
    many = load_teacher(create_model("cifar_resnet8", num_classes=40), input_size=16, norm="none")
    test = (pixels[labels < 2], labels[labels < 2])
    for data, expected in ({}, True), ({"data": (pixels[:4], None)}, False):
        plan = pocketvit.distill(teacher=many, test=test, out=tmp_path, plan=True, **QUICK | data)
        assert ("hardly show so few of a teacher's classes" in str(plan)) == expected


def test_combinations_that_cannot_be_are_refused():
    for given, message in (
        ({"val": "few"}, "--val few: with --data-free there are no images"),
        ({"few_labels": 5}, "--few-labels 5"),
        ({"method": "drwan"}, "Did you mean drawn"),
    ):
        with pytest.raises(PocketError, match=message):
            Distill(data_free=True, teacher="a", **given)
    with pytest.raises(PocketError, match="--count 5: this is for images made from the teacher"):
        Distill("photos", count=5)


def test_the_verb_makes_a_source_with_a_page(network, coloured, tmp_path):
    out = tmp_path / "my runs"
    options = {"teacher": network, "teacher_size": 16, "teacher_norm": "none", "out": out, "count": 30}
    plan = pocketvit.synthesize(**options, plan=True)
    assert plan.data["images"] == 30
    assert not list(tmp_path.iterdir())
    made = pocketvit.synthesize(**options, classes="2,0")
    assert "data-free: no real image" in str(made)
    typed = shlex.split(str(made).splitlines()[-1])  # what comes next is typed as it stands there
    assert typed[:5] == ["next", "pocketvit", "distill", made.data["images"], "--teacher"]
    dataset = open_images(made.data["images"], progress=False)
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 30
    again = pocketvit.synthesize(**options, classes="2,0", resume=True)
    assert again.data["folder"] == made.data["folder"]
    settings = Distill(made.data["folder"], test=coloured, teacher="t")
    opened = open_dataset(settings)
    assert len(opened.train) == 30
    assert len(opened.test) == 60
    assert opened.val is None
    assert opened.classes == ("0", "1", "2")
    with pytest.raises(PocketError, match="holds synthetic images without labels"):
        open_dataset(Distill(made.data["images"], val=coloured, teacher="t"))
    with pytest.raises(PocketError, match="different numbers below 3"):
        pocketvit.synthesize(**options, classes="0,7")


def test_a_second_round_is_learned_beside_the_first(teacher, coloured, tmp_path):
    first, second = (
        pocketvit.synthesize(teacher=teacher, out=tmp_path, count=count, seed=count).data["images"]
        for count in (30, 12)
    )
    both = open_dataset(Distill(first, unlabelled=second, teacher="t", out=str(tmp_path)))
    assert (len(both.train), both.test, both.classes) == (42, None, ())
    assert both.synthetic == open_dataset(Distill(first, teacher="t")).synthetic
    with pytest.raises(PocketError, match="holds synthetic images without labels"):
        open_dataset(Distill(first, unlabelled=coloured, teacher="t", out=str(tmp_path)))
    smaller = synthesis_fakes.teacher_of(teacher.module, input_size=8)
    other = pocketvit.synthesize(teacher=smaller, out=tmp_path, count=12).data["images"]
    with pytest.raises(PocketError, match="of another size or other classes"):
        open_dataset(Distill(first, unlabelled=other, teacher="t", out=str(tmp_path)))
