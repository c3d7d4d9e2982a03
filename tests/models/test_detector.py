"""Detectors on every kind of student: their grids, their weights, their folders."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.fcos import FCOS

from pocketvit.config import ViewConfig
from pocketvit.errors import PocketError
from pocketvit.models import create_student, forward_heads, load_model, save_model
from pocketvit.models.decoding import LEAST, OVERLAP, best_boxes
from pocketvit.models.detector import GridDetector, carry_weights, create_detector, detector_of
from pocketvit.models.inputs import input_stats
from pocketvit.sources.boxes import Boxes
from pocketvit.tasks import task_named
from pocketvit.views.preprocessing import Preprocessing

SIDE = 64


def tiny(name: str = "pocket_xs", **options) -> GridDetector:
    torch.manual_seed(0)
    return create_detector(
        name, **({"num_classes": 3, "image_size": SIDE, "channels": 32, "convs": 1} | options)
    ).eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stem": "shifted"},
        {"stem": "concatenated", "attention": "local"},
        {"stem": "coadvise"},
        {"patch_size": 16},
        {"patch_size": 4},
        {"name": "vit_tiny_patch16_224"},
        {"name": "resnet10t", "finest": 8, "image_size": 96},
    ],
)
def test_every_student_can_detect(options):
    detector = tiny(**options)
    x = torch.randn(2, 3, detector.image_size, detector.image_size)
    logits, distances, middles = forward_heads(detector, x)
    places = sum(detector.counts)
    assert (logits.shape, distances.shape, middles.shape) == ((2, places, 3), (2, places, 4), (2, places, 1))
    assert (distances >= 0).all()
    assert [map.shape[-1] ** 2 for map in detector.features(x)] == list(detector.counts)
    sum(part.sum() for part in (logits, distances, middles)).backward()
    idle = [name for name, p in detector.named_parameters() if p.grad is None]
    assert not idle  # several processes would wait for their gradients


def test_a_map_with_channels_last_is_read_as_such():
    class Last(torch.nn.Module):  # as Swin answers
        output_fmt = "NHWC"

        def forward_features(self, x):
            return torch.zeros(len(x), 4, 4, 24)

    assert GridDetector(Last(), 3, SIDE, 32, 1, 4).pyramid.levels[0][0].in_channels == 24


def test_a_detector_starts_from_a_classifiers_weights_and_eyes():
    torch.manual_seed(1)
    student = create_student("pocket_xxs", num_classes=5, image_size=32, stem="hybrid")
    vars(student)["pretrained_cfg"] = {**student.pretrained_cfg, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    detector = detector_of(student, num_classes=3, image_size=SIDE)
    state, body = student.state_dict(), detector.body.state_dict()
    assert all(torch.equal(body[name], state[name]) for name in body if name != "pos_embed")
    stats = input_stats(detector)
    assert (stats.mean, stats.input_size) == ((0.5,) * 3, SIDE)
    other = detector_of(detector, num_classes=2, image_size=96)
    assert torch.equal(other.body.blocks[0].mlp.fc1.weight, detector.body.blocks[0].mlp.fc1.weight)
    assert other(torch.zeros(1, 3, 96, 96)).shape[2] == 4 + 2


def test_boxes_too_small_for_the_students_places_are_said_with_a_size():
    boxes, view = task_named("detection"), ViewConfig(view_size=224, fit="pad")
    corners = np.float32([[0, 0, 20, 20], [50, 50, 90, 60], [100, 100, 400, 300]])  # a quarter of that in the view
    truth = Boxes(
        np.array([0, 3]), corners, np.zeros(3, np.int64), np.zeros(3, np.uint8), np.int32([[448, 896]]),
        np.ones(1, bool),
    )  # fmt: skip
    (said,) = boxes.warnings(SimpleNamespace(targets=truth), view)
    assert said == "boxes    67% of them are under 8 px in views of 224: --size 608"
    large = dataclasses.replace(view, view_size=896)
    assert boxes.warnings(SimpleNamespace(targets=truth), large) == []


def test_places_are_the_middles_of_their_cells():
    grid = tiny().grid
    assert grid.counts == (256, 64, 16)
    assert grid.places[0].tolist() == [1, 1, 3, 3]
    assert grid.places[1].tolist() == [5, 1, 7, 3]
    assert grid.places[-1].tolist() == [52, 52, 60, 60]
    sides = torch.tensor([1.0, 2, 3, 4]).expand(1, len(grid.places), 4)
    assert grid.boxes(sides)[0, 0].tolist() == [0, -2, 8, 10]


def test_a_place_answers_for_what_it_sees():
    """Moving the picture by a stride moves the answers of an untrained detector's finest map along."""
    detector = tiny("resnet10t", finest=8, image_size=96)
    picture = torch.zeros(1, 3, 96, 96)
    picture[..., 40:48, 40:48] = 5
    moved = picture.roll((32, 32), (2, 3))
    with torch.no_grad():
        seen = [detector.forward_heads(x)[0][0, : detector.counts[0]].sum(1).view(12, 12) for x in (picture, moved)]
    one, other = ((x - seen[0][0, 0]).abs() for x in seen)
    assert divmod(int(other.argmax()), 12) == tuple(side + 4 for side in divmod(int(one.argmax()), 12))


def test_a_saved_detector_is_the_same(tmp_path):
    detector = tiny(stem="shifted")
    about = Preprocessing.of(ViewConfig(view_size=SIDE, fit="pad"), (SIDE, (0.5,) * 3, (0.5,) * 3))
    save_model(detector, tmp_path, classes=("a", "b", "c"), preprocessing=about, task=task_named("detection"))
    loaded = load_model(tmp_path)
    assert (loaded.classes, loaded.task) == (("a", "b", "c"), "detection")
    assert loaded.preprocessing == about
    x = torch.randn(1, 3, SIDE, SIDE)
    assert torch.equal(detector(x), loaded.module(x))
    assert torch.equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(x), detector(x))


def test_outputs_are_boxes_in_the_picture_with_their_scores():
    detector = tiny()
    x = torch.randn(2, 3, SIDE, SIDE)
    logits, distances, middles = detector.forward_heads(x)
    outputs = detector(x)
    assert outputs.shape == (2, sum(detector.counts), 4 + 3)
    assert torch.equal(outputs[..., 4:], (logits.sigmoid() * middles.sigmoid()).sqrt())
    assert torch.allclose(outputs[..., :4] * SIDE, detector.grid.boxes(distances))


def test_the_best_boxes_are_those_of_torchvision():
    """Against FCOS's own postprocessing, on random answers."""
    detector = tiny()
    torch.manual_seed(3)
    places = len(detector.places)
    heads = (torch.randn(2, places, 3) - 2, torch.rand(2, places, 4) * 5, torch.randn(2, places, 1))
    detector.forward_heads = lambda x: heads
    answers = best_boxes(detector(torch.zeros(2, 3, SIDE, SIDE)))
    theirs = SimpleNamespace(
        score_thresh=LEAST,
        topk_candidates=1000,
        box_coder=BoxLinearCoder(True),
        nms_thresh=OVERLAP,
        detections_per_img=100,
    )
    names = ("cls_logits", "bbox_regression", "bbox_ctrness")
    split = {name: list(head.split(detector.counts, 1)) for name, head in zip(names, heads, strict=True)}
    grids = [list(detector.places.split(detector.counts))] * 2
    expected = FCOS.postprocess_detections(theirs, split, grids, [(SIDE, SIDE)] * 2)
    for rows, one in zip(answers, expected, strict=True):
        rows = rows[rows[:, 4] > 0]
        torch.testing.assert_close(rows[:, 4], one["scores"])
        torch.testing.assert_close(rows[:, :4] * SIDE, one["boxes"], atol=1e-4, rtol=1e-4)
        assert torch.equal(rows[:, 5].long(), one["labels"])


def test_fewer_boxes_than_asked_for_leave_rows_of_score_zero():
    outputs = torch.tensor(
        [[[0.1, 0.1, 0.5, 0.5, 0.9, 0.0], [0.1, 0.1, 0.5, 0.52, 0.8, 0.7], [-0.2, 0, 2, 1, 0.0, 0.3]]]
    )
    answers = best_boxes(outputs)
    assert answers.shape == (1, 100, 6)
    assert answers[0, :4, 4].tolist() == pytest.approx([0.9, 0.7, 0.3, 0])  # .8 is covered by .9
    assert answers[0, :3, 5].tolist() == [0, 1, 1]
    assert answers[0, 2, :4].tolist() == [0, 0, 1, 1]
    assert not answers[0, 3:].any()


def test_weights_of_a_classifier_are_carried_over(tmp_path):
    torch.manual_seed(1)
    classifier = create_student("pocket_xs", num_classes=5, image_size=32, patch_size=8, tokens=1)
    save_model(classifier, tmp_path, classes=tuple("abcde"))
    for source in (classifier, str(tmp_path)):
        detector = tiny()
        missing = carry_weights(detector, source)
        assert missing == ["pos_embed"] or not missing
        same = dict(classifier.named_parameters())
        for name, value in detector.body.named_parameters():
            if name != "pos_embed":
                assert torch.equal(value, same[name])
    plain = create_student("pocket_xs", num_classes=5, image_size=32, patch_size=8)
    detector = tiny()
    assert not carry_weights(detector, plain)
    assert detector.body.pos_embed.std() > 0.01
    assert torch.equal(detector.body.pos_embed[:, 0], plain.pos_embed[:, 0])


def test_weights_of_another_network_are_refused():
    with pytest.raises(PocketError, match="do not fit this detector"):
        carry_weights(tiny(), create_student("pocket_s", num_classes=5, image_size=32, patch_size=8))


def test_sizes_that_make_no_grid_are_refused():
    with pytest.raises(PocketError, match="choose a size that is a multiple of 16"):
        tiny(image_size=72)


def test_decay_is_left_out_where_the_student_says():
    assert "body.pos_embed" in tiny().no_weight_decay()
