"""Which student is trained: a pretrained one where its weights are named, or where photographs and the hub allow it."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from walk_fakes import CHOICES, COLOURS, SIDE, Own, tiny

import pocketvit
from pocketvit.config import NetworkConfig
from pocketvit.errors import PocketError
from pocketvit.files import read_json
from pocketvit.models import create_model, create_student, hub, save_model
from pocketvit.models.conv_stem import ConvEmbed
from pocketvit.models.selection import select_weights
from pocketvit.road import students
from pocketvit.road.decide import decide, decide_model
from pocketvit.road.students import PRETRAINED, choose_student, make_network, start_network
from pocketvit.settings import Distill, Train
from pocketvit.sources import open_images
from pocketvit.tasks import task_named
from pocketvit.teachers import load_teacher
from pocketvit.training import Stepper


@pytest.fixture
def pretrained(tmp_path):
    """A folder of a small network with a thousand classes."""
    return save_model(tiny(), tmp_path / "published")


def test_a_student_starts_from_the_weights_that_are_named(road, pretrained):
    start = load_file(pretrained / "model.safetensors")
    model = make_network(NetworkConfig(f"local-dir:{pretrained}"), road)
    weights = model.state_dict()
    head = {name for name in start if start[name].shape != weights[name].shape}
    assert {weights[name].shape[0] for name in head} == {len(COLOURS)}
    assert all(torch.equal(weights[name], start[name]) for name in start.keys() - head)


def test_published_weights_are_those_of_the_model_that_is_named(photos, pretrained, tmp_path):
    choices = {"size": 32, "epochs": 1, "freeze": False, "out": str(tmp_path / "runs")}
    run = pocketvit.train(str(photos), model=f"local-dir:{pretrained}", init="pretrained", **choices)
    assert any("own weights" in note or "fine-tuned" in note or "probe" in note for note in run.results["notes"])


def test_a_network_is_called_what_init_names_whatever_the_model_is(photos, pretrained, tmp_path):
    run = pocketvit.train(str(photos), init=str(pretrained), size=32, epochs=1, out=str(tmp_path / "runs"))
    assert [row["name"] for row in run.results["rows"]][:2] == ["published", "published, int8 file"]


@pytest.mark.parametrize("name", ["repvit_m0_9", "dla46_c"])
def test_a_network_whose_head_is_no_linear_layer_is_trained_and_saved(photos, tmp_path, name):
    """RepViT's and LeViT's have a norm in them, those of big-transfer ResNets are convolutions."""
    torch.manual_seed(0)
    published = save_model(create_model(name, num_classes=7), tmp_path / "published")
    choices = {"model": f"local-dir:{published}", "size": 32, "epochs": 1, "out": str(tmp_path / "runs")}
    with pytest.raises(PocketError, match=r"--freeze: the head of .* is no linear layer"):
        pocketvit.train(str(photos), freeze=True, **choices | {"epochs": None})
    run = pocketvit.train(str(photos), **choices)
    assert "trained from its own weights, under a new head" in run.results["notes"]
    again = timm.create_model(f"local-dir:{run.folder / 'student'}", pretrained=True)
    assert again.num_classes == len(COLOURS)


def test_for_boxes_the_weights_that_are_named_become_a_detector(photos, pretrained, tmp_path):
    dataset = dataclasses.replace(open_images(str(photos), progress=False), task="detection")
    asked = Distill(images=str(photos), teacher=Own(), student=f"local-dir:{pretrained}", size=64)
    assert choose_student(asked, dataset)[0] == asked
    boxes = task_named("detection")
    model = boxes.started(load_teacher(asked.student), classes=3, side=64)
    start = load_file(pretrained / "model.safetensors")
    assert torch.equal(model.body.state_dict()["conv1.0.weight"], start["conv1.0.weight"])
    assert boxes.classes_in(model.eval()(torch.zeros(1, 3, 64, 64))) == 3
    with pytest.raises(PocketError, match=r"--student local-dir.*cannot become a detector of 30 pixels"):
        choose_student(dataclasses.replace(asked, size=30), dataset)


@pytest.mark.slow
def test_it_is_named_trained_and_loaded_by_timm_alone(photos, pretrained, tmp_path, caplog):
    """Scenarios 14 and 17."""
    choices = {**CHOICES, "student": f"local-dir:{pretrained}", "stem": "auto", "patch": None, "baseline": False}
    caplog.set_level("INFO", "pocketvit")
    run = pocketvit.distill(str(photos), teacher=Own(), out=str(tmp_path), **choices | {"epochs": 1, "views": 1})
    assert f"student  local-dir:{pretrained}: its pretrained weights" in caplog.text
    model = timm.create_model(f"local-dir:{run.folder / 'student'}", pretrained=True).eval()
    x = torch.randn(2, 3, 160, 160)
    assert torch.allclose(model(x), run.student(x), atol=1e-5)
    assert run.results["rows"][1]["parameters"] < 1e6
    assert read_json(run.folder / "student" / "config.json")["architecture"] == "test_resnet"


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(hub, "_answers", lambda: False)


def test_a_named_student_without_a_hub_is_told_before_anything_long(photos, tmp_path, offline, monkeypatch):
    monkeypatch.setattr(Stepper, "take", None)
    with pytest.raises(PocketError, match=r"--student vit_tiny.*cannot be reached.*learns from scratch, which with 48"):
        pocketvit.distill(str(photos), teacher=Own(), out=str(tmp_path), student=PRETRAINED)


@pytest.mark.parametrize(
    ("name", "stem", "chosen"),
    [
        ("pocket_m", "conv", "pocket_s"),
        ("pocket_s", "conv", "pocket_xs"),  # as large would be a copy
        ("pocket_xs", "conv", "pocket_xxs"),
        ("pocket_xxs", "patch", "pocket_xxs"),
        ("cifar_resnet20", "", "pocket_s"),  # convolutions say nothing of a ViT's size
    ],
)
def test_a_student_is_smaller_than_a_vit_that_teaches_it(photos, name, stem, chosen):
    teacher = load_teacher(create_model(name, num_classes=3, image_size=16, **({"stem": stem} if stem else {})).eval())
    decided, said = choose_student(Distill(images=str(photos), teacher=Own()), open_images(str(photos)), [teacher])
    assert decided.student == chosen
    assert bool(said) == (chosen != "pocket_s")
    begun = decide(decided, open_images(str(photos)), [teacher])[1].network
    assert begun.init_from == ("teacher" if stem == "conv" else None)


def test_photographs_get_a_pretrained_student_where_one_can_be_had(photos, pretrained, offline, tmp_path, monkeypatch):
    dataset = open_images(str(photos))
    asked = Distill(images=str(photos), teacher=Own())
    small, said = choose_student(asked, dataset)
    assert (small.student, said) == ("pocket_s", [])  # 16 pixels: no weights are at home there
    large = dataclasses.replace(asked, size=96)
    without, said = choose_student(large, dataset)
    assert without.student == "pocket_s"
    assert "it learns from scratch, which with" in said[0]
    own = dataclasses.replace(large, teacher=f"local-dir:{pretrained}")
    assert f"as --student local-dir:{pretrained}: the teacher itself has 0." in choose_student(own, dataset)[1][0]
    theirs = tmp_path / "theirs.pth"  # of torchvision, which teaches and cannot be saved as one of timm's
    torch.save(torchvision.models.squeezenet1_1(num_classes=3).state_dict(), theirs)
    assert "--student local-dir:FOLDER" in choose_student(dataclasses.replace(large, teacher=theirs), dataset)[1][0]
    with pytest.raises(PocketError, match=r"--student .*theirs\.pth: SqueezeNet is not a timm model"):
        choose_student(dataclasses.replace(large, student=str(theirs)), dataset)
    monkeypatch.setattr(students, "load_teacher", lambda name: name)
    chosen, said = choose_student(large, dataset)
    assert chosen.student == PRETRAINED
    assert "Apache-2.0" in said[0]
    assert choose_student(dataclasses.replace(large, stem="conv"), dataset)[0].student == "pocket_s"
    boxes = dataclasses.replace(dataset, task="detection")
    assert choose_student(large, boxes)[0].student == "pocket_s"


@pytest.mark.slow
def test_a_student_starts_from_its_teacher(photos, tmp_path, caplog):
    torch.manual_seed(0)
    teacher = create_student("pocket_m", num_classes=len(COLOURS), image_size=SIDE, patch_size=8)
    caplog.set_level("INFO", "pocketvit")
    run = pocketvit.distill(
        str(photos), teacher=teacher, out=str(tmp_path), init_from="teacher", lr=1e-12,
        **{**CHOICES, "baseline": False, "epochs": 1, "views": 1},
    )  # fmt: skip
    assert (
        "student  starts from VisionTransformer: 4 of 6 blocks, 96 of 160 channels, patches, positions" in caplog.text
    )
    wanted = create_student("pocket_xs", num_classes=len(COLOURS), image_size=SIDE, patch_size=8)
    select_weights(wanted, teacher)
    name = "blocks.0.attn.qkv.weight"
    assert torch.allclose(run.student.state_dict()[name], wanted.state_dict()[name], atol=1e-6)


@pytest.mark.slow
def test_a_student_begins_with_its_teachers_first_layers(photos, tmp_path, caplog):
    torch.manual_seed(0)
    teacher = create_model("cifar_resnet20", num_classes=len(COLOURS)).eval()
    caplog.set_level("INFO", "pocketvit")
    run = pocketvit.distill(
        str(photos), teacher=teacher, out=str(tmp_path),
        **{**CHOICES, "patch": None, "stem": "teacher", "epochs": 1, "views": 1},
    )  # fmt: skip
    assert "begins with the layers of CifarResNet up to layer2, which stay as they are (66 k weights)" in caplog.text
    taken = run.student.patch_embed.layers.state_dict()
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in taken.items())
    rows = {row["key"]: row for row in run.results["rows"]}
    assert rows["alone"]["name"] == "student without a teacher, its stem new"
    assert rows["alone"]["parameters"] != rows["student"]["parameters"]
    small = pocketvit.compress(run.folder, prune=0.3, recover=True, epochs=1)
    assert small.results["rows"]


def test_without_a_teacher_a_student_has_convolutions_of_its_own(road):
    network = NetworkConfig("pocket_xs", stem="teacher")
    made = make_network(network, road)
    assert type(made.patch_embed) is ConvEmbed
    assert start_network(made, network, ()) == ""


def test_without_a_teacher_a_student_starts_from_none(road):
    network = NetworkConfig("pocket_xs", patch=8, init_from="teacher")
    made = make_network(network, road)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    assert start_network(made, network, ()) == ""
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"teacher": Own(), "init_from": "teacher"}, r"--init-from teacher: .*Own. is no VisionTransformer"),
        ({"teacher": Own(), "init_from": "nowhere.pt"}, r"--init-from nowhere.pt: "),
        ({"teacher": Own(), "init_from": "nonne"}, r"--init-from nonne: give teacher, none, .* Did you mean none\?"),
        ({"teacher": Own(), "stem": "teacher"}, r"--stem teacher: Own is not a timm model"),
        ({"teacher": Own(), "init_from": "teacher", "student": "NAMED"}, "weights of its own"),
        (
            {"teacher": Own(), "student": "efficientformer_l1", "size": 64},
            r"efficientformer_l1 takes no pictures of 64 pixels \(.*\)\. Add --size 224",
        ),
    ],
)
def test_a_start_that_cannot_be_is_told_before_anything_long(asked, words, photos, tmp_path, pretrained, monkeypatch):
    monkeypatch.setattr(Stepper, "take", None)
    named = {"student": f"local-dir:{pretrained}"} if asked.get("student") == "NAMED" else {}
    choices = {"teacher_size": SIDE, "teacher_norm": "half", "out": str(tmp_path / "runs")}
    with pytest.raises(PocketError, match=words):
        pocketvit.distill(str(photos), **choices, **asked | named)


def test_train_makes_the_network_that_is_described(photos):
    dataset = open_images(str(photos))
    asked = Train(images=str(photos), model="pocket_xs", stem="shifted", attention="local", patch=4)
    network = decide_model(asked, dataset)[1].network
    assert (network.stem, network.attention, network.patch) == ("shifted", "local", 4)
    with pytest.raises(PocketError, match=r"--patch 4: --init weights\.pt says what shape"):
        dataclasses.replace(asked, init="weights.pt")
    given = dataclasses.replace(asked, batch_size=4)
    assert [decide_model(one, dataset)[1].train.batch_size for one in (asked, given)] == [16, 4]  # 16 for BatchNorm
    with pytest.raises(PocketError, match="--init-from teacher: no teacher is named"):
        pocketvit.train(str(photos), model="pocket_xs", init_from="teacher")
    with pytest.raises(PocketError, match="--stem teacher: no teacher is named"):
        pocketvit.train(str(photos), model="pocket_xs", stem="teacher")
    with pytest.raises(PocketError, match="--stem teacher: no teacher is named"):
        pocketvit.distill(str(photos), stem="teacher")
