"""The loss of set detectors: that of transformers with true boxes, the rules by hand with a teacher's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pocketvit.objectives.detection import BoxTargets, compare, learn_grid, pseudo_targets
from pocketvit.objectives.sets import Queries, set_loss
from pocketvit.sources.boxes import DIFFICULT, Boxes, offsets_of

pytest.importorskip("transformers.models.lw_detr")

SIDE, CLASSES, EACH, GROUPS, LAYERS = 64, 3, 8, 2, 2
CORNERS = [[[4, 4, 20, 20], [30, 30, 62, 60], [6, 40, 14, 50]], [], [[0, 0, 64, 64]]]
LABELS = [[0, 2, 1], [], [1]]


@pytest.fixture
def answers() -> Queries:
    generator = torch.Generator().manual_seed(0)
    shape = (LAYERS + 1, 3, GROUPS * EACH)
    logits = torch.randn(*shape, CLASSES, generator=generator).requires_grad_()
    boxes = (0.1 + 0.6 * torch.rand(*shape, 4, generator=generator)).requires_grad_()
    return Queries(logits, boxes, EACH)


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


def found(boxes: list[tuple[tuple[int, ...], int, float]]) -> BoxTargets:
    """A teacher's boxes (corners, class, probability) in one image."""
    likely = torch.full((len(boxes), CLASSES), 1e-4)
    for row, (_, label, score) in zip(likely, boxes, strict=True):
        row[label] = score
    corners = torch.tensor([box for box, _, _ in boxes], dtype=torch.float32).reshape(-1, 4)
    return pseudo_targets(torch.tensor([0, len(boxes)]), corners, likely, SIDE)


def says(*boxes: tuple[int, ...], logit: float = -2.0) -> Queries:
    """One set of one group whose queries have these corners."""
    corners = torch.tensor(boxes, dtype=torch.float32)[None, None] / SIDE
    low, high = corners[..., :2], corners[..., 2:]
    centred = torch.cat([(low + high) / 2, high - low], -1).requires_grad_()
    return Queries(torch.full((1, 1, len(boxes), CLASSES), logit).requires_grad_(), centred, len(boxes))


def test_with_true_boxes_it_is_the_loss_of_transformers(answers):
    from transformers import LwDetrConfig
    from transformers.loss.loss_lw_detr import LwDetrForObjectDetectionLoss

    config = LwDetrConfig(num_labels=CLASSES, decoder_layers=LAYERS, num_queries=EACH, group_detr=GROUPS)
    labels = []
    for boxes, classes in zip(CORNERS, LABELS, strict=True):
        corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / SIDE
        centred = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
        labels.append({"class_labels": torch.tensor(classes).long(), "boxes": centred})
    logits, boxes = answers.logits, answers.boxes
    theirs, parts, _ = LwDetrForObjectDetectionLoss(
        logits[-1], labels, "cpu", boxes[-1], config, logits[1:], boxes[1:], logits[0], boxes[0]
    )
    loss, terms = set_loss(answers, truth())
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=1e-5)
    named = {name: sum(value for key, value in parts.items() if key.startswith(name)) for name in parts}
    torch.testing.assert_close(terms["classes"], named["loss_ce"].detach(), rtol=1e-5, atol=1e-5)
    mine, others = (torch.autograd.grad(one, [logits, boxes]) for one in (loss, theirs))
    for one, other in zip(mine, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_teachers_probability_is_what_a_query_that_sees_it_learns():
    """The classes' gradient is zero where the score is the target: y^(3/4) p^(1/4) = p, that is p = y."""
    box = (8, 8, 40, 40)
    likely = 0.7
    answers = says(box, logit=float(torch.logit(torch.tensor(likely))))
    gradient = torch.autograd.grad(set_loss(answers, found([(box, 1, likely)]))[0], answers.logits)[0][0, 0, 0]
    assert abs(float(gradient[1])) < 1e-5
    surer = says(box, logit=3.0)
    assert torch.autograd.grad(set_loss(surer, found([(box, 1, likely)]))[0], surer.logits)[0][0, 0, 0, 1] > 0.01


def test_every_layer_and_group_is_matched(answers):
    loss, _ = set_loss(answers, truth())
    gradient = torch.autograd.grad(loss, answers.boxes)[0].abs().sum(-1) > 0
    by_group = gradient.unflatten(2, (GROUPS, EACH)).sum(-1)
    assert by_group[:, 0].eq(3).all()
    assert by_group[:, 1].eq(0).all()
    assert by_group[:, 2].eq(1).all()


def test_what_a_teacher_is_unsure_of_is_neither_matched_nor_punished():
    sure, unsure, nothing = (2, 2, 22, 22), (30, 30, 60, 60), (2, 40, 20, 60)
    answers = says(sure, unsure, nothing)
    loss, terms = set_loss(answers, found([(sure, 0, 0.9), (unsure, 1, 0.3)]))
    logits, boxes = torch.autograd.grad(loss, [answers.logits, answers.boxes], allow_unused=True)
    assert logits[0, 0, 0].any()
    assert not logits[0, 0, 1].any()
    assert logits[0, 0, 2].all()
    assert not boxes[0, 0, 1:].any()
    assert float(terms["sides"]) == pytest.approx(0, abs=1e-6)


def test_nothing_is_learned_of_images_that_nobody_looked_at_nor_of_difficult_boxes(answers):
    loss, _ = set_loss(answers, truth({0: DIFFICULT}, known=(True, False, True)))
    logits, boxes = torch.autograd.grad(loss, [answers.logits, answers.boxes])
    assert not logits[:, 1].any()
    assert logits[:, 2].all()
    by_group = (boxes[:, 0].abs().sum(-1) > 0).unflatten(1, (GROUPS, EACH)).sum(-1)
    assert by_group.eq(2).all()


def test_a_class_that_does_not_count_teaches_nothing(answers):
    loss, _ = set_loss(answers, truth(), torch.tensor([1.0, 1.0, 0.0]))
    logits, boxes = torch.autograd.grad(loss, [answers.logits, answers.boxes])
    assert not logits[..., 2].any()
    assert (boxes[:, 0].abs().sum(-1) > 0).unflatten(1, (GROUPS, EACH)).sum(-1).eq(2).all()


def test_a_batch_without_a_box_is_finite_and_says_that_nothing_is_there(answers):
    empty = pseudo_targets(torch.zeros(4, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, CLASSES), SIDE)
    loss, terms = set_loss(answers, empty)
    assert torch.isfinite(loss)
    assert float(terms["giou"]) == 0
    assert (torch.autograd.grad(loss, answers.logits)[0] > 0).all()


def test_views_of_any_side_are_shares(answers):
    half = truth()
    half.corners, half.side = half.corners / 2, SIDE // 2
    torch.testing.assert_close(set_loss(answers, half)[0], set_loss(answers, truth())[0])


def test_more_boxes_than_queries_are_matched_as_far_as_they_go():
    boxes = [((0, 0, 10 + 9 * i, 12), 0, 0.9) for i in range(4)]
    loss, _ = set_loss(says((0, 0, 10, 12), (4, 4, 50, 50)), found(boxes))
    assert torch.isfinite(loss)


def test_a_set_has_no_places(answers):
    from pocketvit.errors import PocketError

    with pytest.raises(PocketError, match="a student of --detector detr has no places"):
        learn_grid(answers, None, grid=None, side=SIDE)
    torch.testing.assert_close(compare(answers, truth(), None)[0], set_loss(answers, truth())[0])
