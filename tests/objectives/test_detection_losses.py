"""The losses of detectors: torchvision's with true boxes, the formulas by hand with teachers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.fcos import FCOS, FCOSHead

from pocketvit.config import LossConfig
from pocketvit.labels.detections import BoxLabels
from pocketvit.models.detector import create_detector
from pocketvit.objectives.detection import (
    BoxTargets,
    Dense,
    assign,
    boxes_loss,
    dense_loss,
    pseudo_targets,
    quality_focal,
)
from pocketvit.sources.boxes import DIFFICULT, Boxes, offsets_of
from pocketvit.tasks import task_named

SIDE, CLASSES = 64, 3
CORNERS = [[[4, 4, 20, 20], [30, 30, 62, 60], [6, 40, 14, 50]], [], [[0, 0, 64, 64]]]
LABELS = [[0, 2, 1], [], [1]]


@pytest.fixture(scope="module")
def grid():
    return create_detector("pocket_xs", num_classes=CLASSES, image_size=SIDE).grid


@pytest.fixture
def answers(grid):
    generator = torch.Generator().manual_seed(0)
    places = len(grid.places)
    return Dense(
        torch.randn(3, places, CLASSES, generator=generator).requires_grad_(),
        (torch.rand(3, places, 4, generator=generator) * 6).requires_grad_(),
        torch.randn(3, places, 1, generator=generator).requires_grad_(),
    )


def truth(flags: dict[int, int] | None = None, known: tuple[bool, ...] = (True, True, True)) -> BoxTargets:
    counts = np.array([len(labels) for labels in LABELS])
    marks = np.zeros(counts.sum(), np.uint8)
    for row, flag in (flags or {}).items():
        marks[row] = flag
    boxes = Boxes(
        offsets_of(counts),
        np.array([box for boxes in CORNERS for box in boxes], np.float32),
        np.array([label for labels in LABELS for label in labels]),
        marks,
        np.full((3, 2), SIDE, np.int32),
        np.array(known),
    )
    return BoxTargets.of(boxes, CLASSES, SIDE)


def test_a_place_beside_a_box_that_none_answers_for_is_not_taught_that_nothing_is_there(grid):
    nothing = torch.zeros(1, len(grid.places), 1)
    answers = Dense(nothing + 2, torch.ones(1, len(grid.places), 4), nothing)

    def loss(*corners):
        boxes = Boxes(
            np.array([0, len(corners)]), np.array(corners, np.float32).reshape(-1, 4), np.zeros(len(corners), np.int64),
            np.zeros(len(corners), np.uint8), np.array([[SIDE, SIDE]], np.int32), np.ones(1, bool),
        )  # fmt: skip
        return float(boxes_loss(answers, BoxTargets.of(boxes, 1, SIDE), grid)[1]["classes"])

    share = loss() / len(grid.places)
    assert loss((3, 3, 5, 5)) == pytest.approx(loss() - share)  # between four places of stride 4
    assert loss((3, 3, 5, 5), (11, 11, 13, 13)) == pytest.approx(loss() - 2 * share)


def test_with_true_boxes_it_is_the_loss_of_torchvision(grid, answers):
    loss, terms = boxes_loss(answers, truth(), grid)
    targets = [
        {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels).long()}
        for boxes, labels in zip(CORNERS, LABELS, strict=True)
    ]
    head = FCOSHead(32, 1, CLASSES, 1)
    matched = assign([target["boxes"] for target in targets], grid)
    outputs = {"cls_logits": answers.logits, "bbox_regression": answers.distances, "bbox_ctrness": answers.middles}
    theirs = head.compute_loss(targets, outputs, [grid.places] * 3, matched)
    for ours, name in (("classes", "classification"), ("boxes", "bbox_regression"), ("middles", "bbox_ctrness")):
        torch.testing.assert_close(terms[ours], theirs[name].detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, sum(theirs.values()), rtol=1e-5, atol=1e-6)
    mine, others = (torch.autograd.grad(one, list(answers)) for one in (loss, sum(theirs.values())))
    for one, other in zip(mine, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_every_box_has_a_place_and_small_ones_come_first(grid):
    matched = assign([torch.tensor(CORNERS[0], dtype=torch.float32)], grid)[0]
    assert set(matched.tolist()) == {-1, 0, 1, 2}
    nested = assign([torch.tensor([[0.0, 0, 30, 30], [12, 12, 18, 18]])], grid)[0]
    middle = (grid.places[:, :2] + grid.places[:, 2:]) / 2
    assert (nested[(middle == 14).all(1)] == 1).any()
    assert FCOS.compute_loss  # what assigns; a version of torchvision without it would not get here


def test_boxes_are_scaled_from_the_view_to_the_input(grid, answers):
    half = truth()
    half.corners = half.corners / 2
    half.side = SIDE // 2
    torch.testing.assert_close(boxes_loss(answers, half, grid)[0], boxes_loss(answers, truth(), grid)[0])


def test_nothing_is_learned_under_ignored_boxes(grid, answers):
    targets = truth({1: DIFFICULT})
    loss, _ = boxes_loss(answers, targets, grid)
    gradient = torch.autograd.grad(loss, answers.logits)[0][0]
    middle = (grid.places[:, :2] + grid.places[:, 2:]) / 2
    left, top, right, bottom = CORNERS[0][1]
    inside = (middle[:, 0] > left) & (middle[:, 0] < right) & (middle[:, 1] > top) & (middle[:, 1] < bottom)
    assert inside.sum() > 20
    assert not gradient[inside].any()
    assert gradient[~inside].abs().sum(1).all()


def test_images_that_nobody_looked_at_teach_nothing(grid, answers):
    loss, _ = boxes_loss(answers, truth(known=(True, False, True)), grid)
    gradient = torch.autograd.grad(loss, answers.logits)[0]
    assert not gradient[1].any()
    assert gradient[[0, 2]].any()


def test_a_batch_without_a_box_is_finite(grid, answers):
    empty = pseudo_targets(torch.zeros(4, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, CLASSES), SIDE)
    loss, terms = boxes_loss(answers, empty, grid)
    assert torch.isfinite(loss)
    assert terms["boxes"] == terms["middles"] == 0
    loss.backward()
    assert answers.logits.grad.any()


def test_quality_focal_is_least_at_what_is_wanted():
    wanted = torch.tensor([0.0, 0.3, 1.0])
    right = torch.logit(wanted.clamp(1e-6, 1 - 1e-6))
    assert (quality_focal(right, wanted) < 1e-5).all()
    assert (quality_focal(right + torch.tensor([1, 1, -1]), wanted) > quality_focal(right, wanted)).all()
    expected = (torch.tensor(0.5) - 0.3) ** 2 * F.binary_cross_entropy(torch.tensor(0.5), torch.tensor(0.3))
    torch.testing.assert_close(quality_focal(torch.tensor(0.0), torch.tensor(0.3)), expected)


def test_of_a_teachers_boxes_the_sure_are_learned_and_the_unsure_ignored(grid, answers):
    corners = torch.tensor([[4.0, 4, 20, 20], [5, 4, 20, 20], [30, 30, 62, 60], [6, 40, 14, 50], [0, 0, 64, 64]])
    probabilities = torch.tensor([[0.9, 0.1, 0], [0.7, 0, 0], [0, 0.1, 0.3], [0.1, 0.1, 0], [0, 0.6, 0.2]])
    targets = pseudo_targets(torch.tensor([0, 4, 4, 5]), corners, probabilities, SIDE)
    assert targets.offsets.tolist() == [0, 2, 2, 3]  # the second shows what the first does, the fourth is background
    assert targets.weights.tolist() == pytest.approx([0.9, 0.3, 0.6])
    assert targets.ignored.tolist() == [False, True, False]
    loss, _ = boxes_loss(answers, targets, grid)
    matched = assign([corners[:1]], grid)[0] == 0
    wanted = torch.zeros_like(answers.logits[0])
    wanted[matched] = probabilities[0]
    gradient = torch.autograd.grad(loss, answers.logits)[0][0][matched]
    with torch.no_grad():
        pull = answers.logits[0][matched].sigmoid() - wanted[matched]
    assert (torch.sign(gradient) == torch.sign(pull)).float().mean() > 0.9


def test_a_student_like_its_teacher_has_nothing_to_learn_but_the_middles(grid, answers):
    same, _ = dense_loss(answers, Dense(*(part.detach() for part in answers)), grid)
    gradients = torch.autograd.grad(same, list(answers))
    assert all(gradient.abs().max() < 1e-4 for gradient in gradients)
    other = Dense(*(part.detach().flip(1) for part in answers))
    assert dense_loss(answers, other, grid)[0] > 2 * same


def test_dense_loss_by_hand(grid):
    places = len(grid.places)
    student = Dense(torch.zeros(1, places, 1), torch.ones(1, places, 4), torch.zeros(1, places, 1))
    logits = torch.full((1, places, 1), -40.0)
    middles = torch.full((1, places, 1), -40.0)
    logits[0, 5], middles[0, 5] = 0.0, 40.0  # one place sees something, with probability one half
    teacher = Dense(logits, torch.full((1, places, 4), 2.0), middles)
    _, terms = dense_loss(student, teacher, grid)
    background = 0.25 * np.log(2) * (places - 1)
    assert terms["classes"].item() == pytest.approx(4 * background, rel=1e-4)  # N is at least 1
    assert terms["boxes"].item() == pytest.approx(0.5 * (1 - 1 / 4), rel=1e-4)  # sides half as long
    assert terms["middles"].item() == pytest.approx(0.5 * np.log(2), rel=1e-4)


def test_targets_move_together():
    targets = truth().to("meta")
    assert targets.corners.device.type == "meta"
    assert targets.offsets.device.type == "cpu"
    assert len(targets) == 3


def stored(*images: list[tuple[tuple[float, ...], int, float]], unknown: tuple[int, ...] = ()) -> BoxLabels:
    """A teacher's records: of each image (corners in pixels of the view, class, probability)."""
    rows = [row for image in images for row in image]
    corners = torch.tensor([corners for corners, _, _ in rows], dtype=torch.float32).reshape(-1, 4) / SIDE
    boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
    logits = torch.full((len(rows), CLASSES), -12.0)
    for row, (_, label, probability) in enumerate(rows):
        logits[row, label] = torch.logit(torch.tensor(probability))
    items = {"boxes": (boxes * 65_535).round().to(torch.int32).to(torch.int16), "logits": logits.half()}
    return BoxLabels(torch.from_numpy(offsets_of([len(image) for image in images])), items, unknown=unknown)


@pytest.fixture
def loss_of():
    """From an objective and several teachers' records to the loss, its terms and its gradient with the logits."""

    def loss_of(objective, *soft):
        detector = create_detector("pocket_xs", num_classes=CLASSES, image_size=SIDE)
        places = len(detector.grid.places)
        heads = [torch.zeros(1, places, width, requires_grad=True) for width in (CLASSES, 4, 1)]
        batch = SimpleNamespace(
            targets=SimpleNamespace(known=torch.zeros(1, dtype=torch.bool)),
            pixels=torch.zeros(1, 3, SIDE, SIDE),
            soft=soft,
        )
        loss, terms = task_named("detection").loss(LossConfig(objective=objective, weight=1.0), model=detector)(
            heads, batch
        )
        (gradient,) = torch.autograd.grad(loss, heads[:1])
        middle = (detector.grid.places[:, :2] + detector.grid.places[:, 2:]) / 2
        return terms, gradient[0], middle

    return loss_of


def test_what_one_of_two_teachers_sees_is_neither_learned_nor_denied(loss_of):
    box = (8, 8, 40, 40)
    terms, gradient, middle = loss_of("boxes", stored([(box, 0, 0.9)]), stored([]))
    inside = ((middle > 9) & (middle < 39)).all(1)
    assert not gradient[inside].any()  # half of .9 is between sure and unsure
    assert gradient[((middle < 7) | (middle > 41)).any(1)].all()
    assert "teachers_classes" in terms
    terms, gradient, _ = loss_of("apart", stored([(box, 0, 0.9)]), stored([]))
    assert gradient[inside].any()
    assert {"teacher_0_classes", "teacher_1_classes"} <= set(terms)


def test_fused_teachers_that_agree_teach_what_each_of_them_does(loss_of):
    box = (8, 8, 40, 40)
    one = stored([(box, 0, 0.9)])
    together, apart = loss_of("boxes", one, one), loss_of("apart", one, one)
    torch.testing.assert_close(together[1], apart[1])
    torch.testing.assert_close(together[0]["distillation"], apart[0]["distillation"])


def test_a_class_that_only_one_teacher_knows_is_learned_from_it(loss_of):
    box = (8, 8, 40, 40)
    blind = stored([], unknown=(0,))
    fused = loss_of("boxes", stored([(box, 0, 0.9)]), blind)
    alone = loss_of("boxes", stored([(box, 0, 0.9)]))
    torch.testing.assert_close(fused[1], alone[1])
