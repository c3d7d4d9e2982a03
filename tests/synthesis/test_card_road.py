"""The card on the road: saved beside a trained network, found there on request, and said wherever its images go."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.files import read_json
from pocketvit.road import Statistics
from pocketvit.road.reopen import reopen
from pocketvit.synthesis import Procedural, read_card
from pocketvit.teachers import load_teacher

TRAIN = {
    "model": "pocket_xxs", "stem": "patch", "epochs": 6, "batch_size": 32, "precision": "fp32", "augment": "none",
    "statistics_card": True,
}  # fmt: skip
MAKE = {"method": "inverted", "statistics": True, "count": 30}


def coloured(count, seed=7):
    pixels = Procedural(seed, 16).take(np.arange(count)).transpose(0, 2, 3, 1)
    return pixels, pixels.mean((1, 2)).argmax(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return pocketvit.train(coloured(400), out=tmp_path_factory.mktemp("train") / "runs", **TRAIN)


def test_a_training_saves_the_card_of_its_network_and_says_so(trained):
    card = read_card(trained.folder / "student" / "statistics.safetensors")
    assert card.images == read_json(trained.folder / "results.json")["dataset"]["counts"]["train"]
    card.check(load_teacher(trained.folder))
    assert any(
        "it says something of these images; of fewer than 1,000 images" in note for note in trained.results["notes"]
    )
    assert timm.create_model(f"local-dir:{trained.folder / 'student'}", pretrained=True) is not None


def test_images_made_with_it_are_labelled_wherever_they_go(trained, tmp_path, caplog):
    caplog.set_level("INFO", "pocketvit")
    file, (pixels, labels) = tmp_path / "test.npz", coloured(60, 9)
    np.savez(file, train_images=pixels, train_labels=labels)
    options = {"epochs": 1, "views": 1, "precision": "fp32", "batch_size": 16, "student": "pocket_xxs"}
    run = pocketvit.distill(
        data_free=True, teacher=str(trained.folder), test=file, out=tmp_path, controls="inverted",
        prune_ratio=0.3, **MAKE, **options,
    )  # fmt: skip
    label = "statistics-assisted, NOT data-free"
    log = (run.folder / "train.log").read_text(encoding="utf-8")
    assert label in log
    assert "sparse: 30% of those that are left" in log
    assert any(label in note for note in run.results["dataset"]["notes"])
    assert label in run.report.read_text(encoding="utf-8")
    assert label in (run.folder / "student" / "README.md").read_text(encoding="utf-8")
    banks = {
        path.parent: path.read_text(encoding="utf-8") for path in (tmp_path / "shared" / "banks").glob("*/gallery.html")
    }
    # The control of the same method has no card: it shows what the card was worth.
    assert sorted(label in page for page in banks.values()) == [False, True]
    assert {row["key"] for row in run.results["rows"]} >= {"student", "inverted"}
    assert not any("data-free: no real image" in note for note in run.results["dataset"]["notes"])
    reopened = reopen(run.folder)  # what was said of making images holds for nothing else
    assert reopened.settings.statistics is False


def test_what_cannot_be_is_told_in_one_message(trained, network, tmp_path):
    with pytest.raises(
        PocketError, match=r"a statistics card of these training images \(--statistics-card\) is of \d\d images"
    ):
        pocketvit.train(coloured(80), out=tmp_path, **TRAIN)
    with pytest.raises(PocketError, match=r"--statistics-card.*of no use for cifar_resnet20: it keeps the moments of"):
        pocketvit.train(coloured(150), out=tmp_path, **{**TRAIN, "model": "cifar_resnet20"})
    assert not list(tmp_path.glob("*-1"))
    for words, given in (
        ("--statistics: ColourNet is no folder. Name the card", {"teacher": network, "teacher_size": 16}),
        ("is of arrays-pocket_xxs-1 with weights", {
            "teacher": network, "teacher_size": 16, "statistics": str(trained.folder / "student/statistics.safetensors")
        }),
        ("--statistics: there is no nowhere", {"teacher": str(trained.folder), "statistics": "nowhere"}),
    ):  # fmt: skip
        with pytest.raises(PocketError, match=words):
            pocketvit.synthesize(out=tmp_path, **{**MAKE, **given})


def test_a_network_that_keeps_its_moments_gets_no_card_and_loses_no_training(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("pocketvit.road.statistics.load_teacher", lambda *_, **__: teacher)
    road = SimpleNamespace(device="cpu", dataset=SimpleNamespace(train=None), view=None)
    walk = SimpleNamespace(settings=SimpleNamespace(statistics_card=True), folder=tmp_path, road=road, notes=[])
    Statistics().run(walk)
    assert walk.notes == ["no statistics card was saved: it keeps the moments of its 2 BatchNorm layers itself"]
    assert not list(tmp_path.iterdir())
