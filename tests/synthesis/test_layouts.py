"""Pictures optimized for layouts of boxes that a detector is to see."""

import numpy as np
import pytest
import torch
from test_other_kinds import SIDE, Patches
from torchvision.ops import box_iou

import pocketvit
from pocketvit.road.synthesize import LAYOUTS
from pocketvit.synthesis import DrawnConfig, InversionConfig, draw_bank, invert_bank
from pocketvit.synthesis.layouts import MOST, Layout, Sizes, sample_layout, unlike
from pocketvit.synthesis.moving import Move
from pocketvit.synthesis.seen import seen
from pocketvit.teachers import detector_teacher

STILL = Move(0, 0, torch.zeros(1, dtype=torch.bool))


@pytest.fixture
def detector():
    return detector_teacher(
        Patches(), name="patches", activation="sigmoid", input_size=SIDE, norm=((0,) * 3, (1,) * 3),
        classes=("red", "green"),
    )  # fmt: skip


def layouts(count, sizes):
    random = np.random.Generator(np.random.Philox(0))
    return [sample_layout(number % len(sizes.found), sizes, random) for number in range(count)]


def test_layouts_show_every_class_within_the_picture_and_apart():
    drawn = layouts(300, Sizes([np.zeros((0, 2))] * 3))
    labels = torch.cat([one.labels for one in drawn])
    assert torch.bincount(labels).min() > 0.9 * torch.bincount(labels).max()
    assert [int(one.labels[0]) for one in drawn[:6]] == [0, 1, 2, 0, 1, 2]
    counts = [len(one.labels) for one in drawn]
    assert (min(counts), max(counts)) == (1, MOST)
    for one in drawn:
        assert one.corners.min() >= 0
        assert one.corners.max() <= 1
        assert box_iou(one.corners, one.corners).fill_diagonal_(0).max() < 0.15


def test_sizes_are_those_that_the_teacher_sees(detector, tmp_path):
    bank = draw_bank(tmp_path / "drawn", detector, DrawnConfig(20), progress=False)
    sizes = Sizes.seen(detector, bank)
    for known in sizes.found:
        assert len(known) > 0
        assert np.allclose(known, 0.25, atol=1e-6)
    sides = torch.cat([one.corners[:, 2:] - one.corners[:, :2] for one in layouts(200, sizes)])
    assert 0.5 < ((sides - 0.25).abs() < 0.12).float().mean() < 0.95  # most, and some of any size


def test_a_layout_is_followed_where_its_picture_is_moved():
    layout = Layout(torch.tensor([[0.0, 0.25, 0.25, 0.5], [0.75, 0.0, 1.0, 0.25]]), torch.tensor([0, 1]))
    there = layout.seen_after(0.25, 0.0, flip=False)
    assert torch.equal(there.corners, torch.tensor([[0.25, 0.25, 0.5, 0.5]]))  # the other one is cut
    assert torch.equal(layout.seen_after(0.25, 0.0, flip=True).corners, torch.tensor([[0.5, 0.25, 0.75, 0.5]]))
    assert not len(layout.seen_after(0.5, 0.9, flip=False).labels)


def test_what_a_detector_sees_is_like_the_layout_that_shows_it(detector):
    pixels = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    pixels[0, 0, :8, 8:16] = 120
    answered = detector.logits(pixels)

    def far(corners, label):
        return float(unlike(answered, [Layout(torch.tensor([corners]), torch.tensor([label]))], STILL, SIDE))

    right = far([0.25, 0.0, 0.5, 0.25], 0)
    assert right < far([0.25, 0.0, 0.5, 0.25], 1)  # another class
    assert right < far([0.5, 0.5, 0.75, 0.75], 0)  # elsewhere
    nothing = Layout(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert float(unlike(answered, [nothing], STILL, SIDE)) > 0.5  # something is seen


def test_a_detectors_pictures_show_what_was_wanted(detector, tmp_path):
    start = draw_bank(tmp_path / "start", detector, DrawnConfig(24, looked_at=1), progress=False)
    config = InversionConfig(24, steps=25, batch=8)
    bank = invert_bank(tmp_path / "bank", detector, config, start=start, progress=False)
    assert len(bank) >= 16
    assert bank.provenance["made"]["rejected"] + bank.provenance["made"]["near_duplicates"] == 24 - len(bank)
    assert bank.kind == "boxes"
    assert bank.probabilities.mean() > start.probabilities.mean() + 0.1
    pixels = torch.from_numpy(np.ascontiguousarray(bank.images.transpose(0, 3, 1, 2)))
    assert np.allclose(seen(detector, pixels), bank.logits, atol=0.05)
    again = invert_bank(tmp_path / "again", detector, config, start=start, progress=False)
    assert np.array_equal(again.images, bank.images)


def test_the_command_makes_few_of_them(detector, tmp_path):
    plan = pocketvit.synthesize(teacher=detector, method="inverted", plan=True, out=tmp_path)
    assert plan.data["images"] == LAYOUTS
    assert plan.data["seconds"] > 0
    made = pocketvit.synthesize(teacher=detector, method="inverted", count=8, out=tmp_path)
    assert made.data["provenance"]["provenance"]["config"]["coarse"] == 0.6
    assert 1 <= made.data["count"] <= 8
