"""Detectors on every kind of student: their grids, their weights, their folders."""

from __future__ import annotations

import pytest
import timm
import torch

from pocketvit.errors import PocketError
from pocketvit.models import create_student, forward_heads, load_model, save_model
from pocketvit.models.detector import Detector, carry_weights, create_detector

SIDE = 64


def tiny(name: str = "pocket_xs", **options) -> Detector:
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
        one, other = (detector(x)[0][0, : detector.counts[0]].sum(1).view(12, 12) for x in (picture, moved))
    background = one[0, 0]
    one, other = ((x - background).abs() for x in (one, other))
    assert divmod(int(other.argmax()), 12) == tuple(side + 4 for side in divmod(int(one.argmax()), 12))


def test_a_saved_detector_is_the_same(tmp_path):
    detector = tiny(stem="shifted")
    save_model(detector, tmp_path, classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.5,) * 3)
    loaded = load_model(tmp_path)
    assert (loaded.classes, loaded.input_size) == (("a", "b", "c"), SIDE)
    x = torch.randn(1, 3, SIDE, SIDE)
    for one, other in zip(detector(x), loaded.module(x), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(x)[0], detector(x)[0])


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
