"""Set detectors on our ViTs: their features, sets, weights and folders."""

from __future__ import annotations

import sys

import pytest
import torch

from pocketvit.errors import PocketError
from pocketvit.models import create_student, forward_heads, load_model, save_model
from pocketvit.models.detector import GridDetector, create_detector, detector_of
from pocketvit.models.set_detector import SetDetector
from pocketvit.objectives.detection import BoxTargets
from pocketvit.objectives.sets import Queries, set_loss
from pocketvit.tasks import task_named
from pocketvit.teachers import detector_teacher
from pocketvit.teachers.fusion import overlaps

pytest.importorskip("transformers.models.lw_detr")
SIDE = 64


def tiny(name: str = "pocket_xxs", **options) -> SetDetector:
    torch.manual_seed(0)
    chosen = {"num_classes": 3, "image_size": SIDE, "width": 32, "layers": 2, "groups": 2, "queries": 10}
    return create_detector(name, kind="detr", **chosen | options).eval()


@pytest.mark.parametrize(
    "options",
    [{}, {"stem": "hybrid"}, {"stem": "concatenated", "attention": "local"}, {"stem": "coadvise"}, {"patch_size": 16}],
)
def test_every_vit_can_answer_a_set(options):
    detector = tiny(**options).train()
    logits, boxes = forward_heads(detector, torch.randn(2, 3, SIDE, SIDE))
    assert (logits.shape, boxes.shape) == ((3, 2, 20, 3), (3, 2, 20, 4))  # the beginning and two layers, two groups
    (logits.sum() + boxes.sum()).backward()
    idle = [name for name, p in detector.named_parameters() if p.grad is None and "fc_norm" not in name]
    assert not idle  # several processes would wait for their gradients


def test_its_features_are_those_of_the_classifier_it_comes_from():
    torch.manual_seed(1)
    student = create_student("pocket_xxs", num_classes=5, image_size=SIDE, patch_size=8).eval()
    detector = detector_of(student, num_classes=3, image_size=SIDE, kind="detr").eval()
    x = torch.randn(2, 3, SIDE, SIDE)
    tokens = student.forward_features(x)[:, student.num_prefix_tokens :]
    seen = []
    detector.decoder.model.backbone.backbone.register_forward_hook(lambda m, i, out: seen.append(out.feature_maps[0]))
    detector(x)
    assert torch.equal(seen[0].flatten(2).transpose(1, 2), tokens)


def test_a_detector_of_one_kind_becomes_one_of_the_other_with_its_vit():
    grid = create_detector("pocket_xxs", num_classes=3, image_size=SIDE)
    one = detector_of(grid, num_classes=2, image_size=SIDE, kind="detr")
    back = detector_of(one, num_classes=3, image_size=SIDE)
    assert isinstance(one, SetDetector)
    assert isinstance(back, GridDetector)
    for other in (one, back):
        assert all(torch.equal(a, b) for a, b in zip(grid.body.parameters(), other.body.parameters(), strict=True))


def test_outputs_are_the_last_set_of_one_group():
    detector = tiny()
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        logits, boxes = detector.forward_heads(x)
        outputs = detector(x)
    assert outputs.shape == (2, 10, 4 + 3)
    torch.testing.assert_close(outputs[..., 4:], logits[-1].sigmoid())
    torch.testing.assert_close(outputs[..., :2], boxes[-1][..., :2] - boxes[-1][..., 2:] / 2)
    torch.testing.assert_close(outputs[..., 2:4], boxes[-1][..., :2] + boxes[-1][..., 2:] / 2)


def test_a_saved_one_is_the_same(tmp_path):
    detector = tiny(stem="shifted")
    save_model(detector, tmp_path, classes=("a", "b", "c"), task=task_named("detection"))
    loaded = load_model(tmp_path)
    assert (loaded.classes, loaded.task) == (("a", "b", "c"), "detection")
    x = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(detector(x), loaded.module(x))


def test_as_a_teacher_it_says_what_it_answers():
    detector = tiny()
    teacher = detector_teacher(detector, classes=("a", "b", "c"))
    pixels = torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    outputs = detector(teacher._input(pixels))
    torch.testing.assert_close(teacher.logits(pixels)[..., 4:], outputs[..., 4:], atol=1e-5, rtol=1e-4)
    assert len(teacher.detect(pixels)[0][0]) == 10  # nothing is suppressed
    with pytest.raises(PocketError, match="none of ours that has places"):
        teacher.dense(pixels)


@pytest.mark.slow
def test_it_learns_a_few_pictures_by_heart():
    """Rectangles of two colours: after some steps each is found, as what it is."""
    corners = torch.tensor([[8, 8, 32, 32], [30, 20, 60, 44], [4, 36, 28, 60], [36, 4, 56, 30]], dtype=torch.float32)
    labels = torch.tensor([0, 1, 1, 0])
    x = torch.zeros(4, 3, SIDE, SIDE)
    for picture, (left, top, right, bottom), label in zip(x, corners.long().tolist(), labels, strict=True):
        picture[label, top:bottom, left:right] = 2.0
    targets = BoxTargets(
        torch.arange(5), corners, torch.eye(2)[labels], torch.ones(4), torch.zeros(4, dtype=torch.bool),
        torch.ones(4, dtype=torch.bool), SIDE,
    )  # fmt: skip
    detector = tiny(num_classes=2).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    for _ in range(150):
        loss, _ = set_loss(Queries(*detector.forward_heads(x), each=detector.queries), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        outputs = detector.eval()(x)
    best = outputs[..., 4:].amax(2).argmax(1)
    found = outputs[torch.arange(4), best]
    assert torch.equal(found[:, 4:].argmax(1), labels)
    assert (overlaps(found[:, :4] * SIDE, corners) > 0.5).all()


def test_no_more_queries_than_places():
    assert tiny(image_size=32, queries=100).queries == 8 * 8 + 2 * 2


def test_sizes_and_networks_that_it_cannot_take_are_refused():
    with pytest.raises(PocketError, match="choose a --size that is a multiple of 16"):
        tiny(image_size=72)
    with pytest.raises(PocketError, match=r"--detector detr puts a decoder on a ViT, and ResNet is none"):
        tiny("resnet10t", image_size=96)


def test_without_transformers_the_line_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PocketError, match=r"pip install 'pocketvit\[detectors\]'"):
        tiny()


def test_its_cost_can_be_counted():
    from pocketvit.models.flops import count_flops

    detector = tiny()
    plain = count_flops(detector.body, SIDE)
    assert plain < count_flops(detector, SIDE) < 20 * plain
    assert all(p.requires_grad for p in detector.parameters())
