"""Images made from teachers of other kinds: detectors, and classifiers of several labels an image."""

import sys
from pathlib import Path

import numpy as np
import pytest
import synthesis_fakes
import torch
import torch.nn.functional as F
from torch import nn

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.models.detector import create_detector
from pocketvit.road.synthesize import request_of
from pocketvit.settings import Synthesize
from pocketvit.synthesis import DrawnConfig, draw_bank
from pocketvit.synthesis.check import check_teacher
from pocketvit.synthesis.choose import choose, sees
from pocketvit.synthesis.methods import Request
from pocketvit.synthesis.seen import likely, seen, seen_through
from pocketvit.teachers import detector_teacher

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))
from drawn_boxes import CLASSES, scenes, write_coco

SIDE, CELLS = 32, 4


class Patches(nn.Module):
    """Sees a box of its colour in each cell that is more of it than of the others, in transformers' form."""

    def __init__(self, colours=2):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(40.0))
        self.bias = nn.Parameter(torch.zeros(()))
        self.colours = colours

    def forward(self, x):
        means = F.adaptive_avg_pool2d(x, CELLS).flatten(2)[:, : self.colours].transpose(1, 2)
        others = F.adaptive_avg_pool2d(x.mean(1, keepdim=True), CELLS).flatten(2).transpose(1, 2)
        grid = (torch.arange(CELLS) + 0.5) / CELLS
        y, x_ = torch.meshgrid(grid, grid, indexing="ij")
        boxes = torch.stack([x_.flatten(), y.flatten(), *[torch.full((CELLS**2,), 1 / CELLS)] * 2], 1)
        return {"logits": self.scale * (means - others - 0.08) + self.bias, "pred_boxes": boxes.expand(len(x), -1, -1)}


@pytest.fixture
def detector():
    names = ("red", "green")
    return detector_teacher(
        Patches(), name="patches", activation="sigmoid", input_size=SIDE, norm=((0,) * 3, (1,) * 3), classes=names
    )


def test_of_boxes_the_surest_of_each_class_is_seen(detector):
    pixels = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    pixels[0, 0, :8, :8] = 100  # a red cell; the other picture is black
    given = likely("boxes", seen(detector, pixels).numpy())
    assert given[0, 0] > 0.9
    assert given[1].max() < 0.1
    assert sees(given, 0.3).tolist() == [0, -1]
    x = (pixels.float() / 255).requires_grad_()
    through = seen_through(detector, x)
    assert torch.allclose(through, seen(detector, pixels), atol=1e-4)
    (gradient,) = torch.autograd.grad(through[0, 0], x)
    assert gradient[0, 0, :8, :8].abs().sum() > 0
    assert gradient[0, 0, 8:].abs().sum() == 0


def test_pictures_in_which_nothing_is_seen_are_taken_last():
    chances = np.array([[0.2, 0.1], [0.6, 0.4], [0.1, 0.25], [0.1, 0.9]])
    rows, classes = choose(chances, np.array([1, 1]), 0.3)
    assert dict(zip(rows.tolist(), classes.tolist(), strict=True)) == {1: 0, 3: 1}
    rows, classes = choose(chances, np.array([1, 2]), 0.3)
    assert dict(zip(rows.tolist(), classes.tolist(), strict=True)) == {1: 0, 3: 1, 2: 1}


def test_a_bank_of_a_detector_is_balanced_and_shows_what_it_sees(detector, tmp_path):
    bank = draw_bank(tmp_path / "drawn", detector, DrawnConfig(40), progress=False)
    assert (bank.kind, len(bank), bank.logits.shape) == ("boxes", 40, (40, 2))
    found = sees(bank.probabilities, 0.3)
    assert np.bincount(found[found >= 0], minlength=2).min() >= 15
    chosen = bank.images.transpose(0, 3, 1, 2)
    assert np.allclose(seen(detector, torch.from_numpy(np.ascontiguousarray(chosen))), bank.logits, atol=0.05)
    assert set(bank.origin.tolist()) == {0}
    assert "moved" not in bank.provenance["made"]


def test_a_detector_that_never_sees_anything_is_told(detector):
    detector.module.scale.data.zero_()
    with pytest.raises(PocketError, match="says the same of every picture"):
        check_teacher(detector)
    with torch.no_grad():
        detector.module.scale.fill_(1e-2)
        detector.module.bias.fill_(-6)
    with pytest.raises(PocketError, match="confident of nothing"):
        check_teacher(detector)


def test_one_class_is_enough_for_a_detector():
    alone = detector_teacher(
        Patches(1), name="red", activation="sigmoid", input_size=SIDE, norm=((0,) * 3, (1,) * 3), classes=("red",)
    )
    assert check_teacher(alone).answered == 1


def test_images_for_detectors_are_optimized_unless_another_way_is_named(detector, teacher):
    assert request_of(Synthesize(teacher=object()), detector) == Request("inverted", 200)
    assert request_of(Synthesize(teacher=object(), method="drawn"), detector).method == "drawn"
    assert request_of(Synthesize(teacher=object()), teacher).method == "drawn"


def test_a_run_without_images_or_boxes_is_planned(detector, tmp_path):
    plan = pocketvit.distill(
        data_free=True, teacher=detector, student="pocket_xxs", count=24, epochs=1, views=1, plan=True, out=tmp_path
    )
    assert "nothing was written" in plan.text
    assert "fitnets" not in plan.text
    own = create_detector("pocket_xs", num_classes=2, image_size=SIDE)  # whose features are known
    torch.nn.init.normal_(own.head.classification_head.cls_logits.weight, std=30.0)  # and which is sure of everything
    plan = pocketvit.distill(
        data_free=True, teacher=detector_teacher(own, classes=("red", "green")), student="pocket_xxs", method="drawn",
        count=24, epochs=1, views=1, plan=True, out=tmp_path,
    )  # fmt: skip
    assert "fitnets x 1" in plan.text


def test_a_detector_is_distilled_without_an_image(tmp_path, caplog):
    caplog.set_level("INFO", "pocketvit")  # as the command line does
    drawn = scenes({"test": 6}, (SIDE, SIDE))
    write_coco(tmp_path / "real", drawn)
    teacher = detector_teacher(
        Patches(len(CLASSES)), name="patches", activation="sigmoid", input_size=SIDE, norm=((0,) * 3, (1,) * 3),
        classes=CLASSES,
    )  # fmt: skip
    run = pocketvit.distill(
        data_free=True, teacher=teacher, test=tmp_path / "real", student="pocket_xs", count=24, epochs=1,
        views=1, batch_size=8, precision="fp32", out=tmp_path / "runs",
    )  # fmt: skip
    rows = {row["key"]: row for row in run.results["rows"]}
    assert {"teacher-1", "student", "noise"} <= rows.keys()
    assert "map" in rows["student"]
    said = (run.folder / "train.log").read_text(encoding="utf-8")
    assert "data-free: no real image" in said
    assert "from the teacher patches (inverted)" in said


def test_several_labels_an_image(network, tmp_path):
    teacher = synthesis_fakes.teacher_of(network).with_kind("sigmoid")
    bank = draw_bank(tmp_path / "bank", teacher, DrawnConfig(30), progress=False)
    assert bank.kind == "sigmoid"
    assert np.allclose(bank.probabilities, 1 / (1 + np.exp(-np.asarray(bank.logits, np.float32))), atol=1e-3)
    pixels = np.asarray(bank.images[:20])
    labels = (pixels.mean((1, 2)) > 120).astype(np.int64)
    run = pocketvit.distill(
        data_free=True, teacher=teacher, test=(pixels, labels), student="pocket_xs", count=30, epochs=1, views=1,
        batch_size=8, precision="fp32", out=tmp_path / "runs",
    )  # fmt: skip
    assert run.results["dataset"]["task"] == "multilabel"
    with pytest.raises(PocketError, match="the teacher is one for multilabel and these images are for classification"):
        pocketvit.distill(data_free=True, teacher=teacher, test=(pixels, labels[:, 0]), count=30, out=tmp_path)
