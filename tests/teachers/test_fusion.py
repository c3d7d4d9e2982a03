"""Weighted boxes fusion: the paper's rule, and what must hold whatever detectors find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou, nms

from pocketvit.models.decoding import OVERLAP
from pocketvit.tasks import task_named
from pocketvit.teachers.fusion import SoftBoxes, fuse_boxes

CLASSES = 3


def found(*images, unknown=(), classes=CLASSES):
    """What a detector found: of each image a list of (corners, class, score)."""
    rows = [row for image in images for row in image]
    likely = torch.zeros(len(rows), classes)
    for row, (_, label, score) in enumerate(rows):
        likely[row, label] = score
    offsets = torch.tensor([0, *np.cumsum([len(image) for image in images])])
    corners = torch.tensor([corners for corners, _, _ in rows], dtype=torch.float32).reshape(-1, 4)
    return SoftBoxes(offsets, corners, likely, unknown)


def of_image(boxes, image):
    start, end = boxes.offsets[image : image + 2].tolist()
    return boxes.corners[start:end], boxes.probabilities[start:end]


def random_detectors(seed, detectors=3, images=4):
    """Detectors that find much the same objects, each a little elsewhere, less or more sure, and some of its own."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(images, 8, 2, generator=generator)
    size = 0.1 + 0.3 * torch.rand(images, 8, 2, generator=generator)
    likely = torch.rand(images, 8, CLASSES, generator=generator)
    result = []
    for _ in range(detectors):
        there = torch.rand(images, 8, generator=generator) < 0.7
        moved = torch.cat([low, low + size], 2) + 0.02 * torch.randn(images, 8, 4, generator=generator)
        told = (likely + 0.1 * torch.randn(likely.shape, generator=generator)).sigmoid()
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)])
        result.append(SoftBoxes(offsets, moved[there], told[there]))
    return result


def by_the_paper(detectors, image):
    """The paper's algorithm box by box: [(corners, probabilities)], the surest first."""
    result = []
    rows = []
    for one in detectors:
        corners, likely = of_image(one, image)
        for label in range(CLASSES):
            mine = (likely.argmax(1) == label).nonzero()[:, 0]
            kept = mine[nms(corners[mine], likely[mine, label], OVERLAP)]
            rows += [(label, corners[row], likely[row]) for row in kept]
    for label in range(CLASSES):
        clusters, middles = [], []
        for _, corners, likely in sorted((row for row in rows if row[0] == label), key=lambda row: -row[2][label]):
            overlaps = [float(box_iou(corners[None], middle[None])) for middle in middles]
            if overlaps and max(overlaps) > OVERLAP:
                place = int(np.argmax(overlaps))
                clusters[place].append((corners, likely))
            else:
                place = len(clusters)
                clusters.append([(corners, likely)])
                middles.append(corners)
            weights = torch.stack([p[label] for _, p in clusters[place]])
            members = torch.stack([c for c, _ in clusters[place]])
            middles[place] = (weights[:, None] * members).sum(0) / weights.sum()
        for members, middle in zip(clusters, middles, strict=True):
            mean = torch.stack([p for _, p in members]).mean(0)
            result.append((middle, mean * min(len(members), len(detectors)) / len(detectors)))
    return sorted(result, key=lambda row: -float(row[1].max()))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_papers_algorithm(seed):
    detectors = random_detectors(seed)
    fused = fuse_boxes(detectors)
    assert len(fused.corners) < sum(len(one.corners) for one in detectors)
    for image in range(4):
        corners, likely = of_image(fused, image)
        expected = by_the_paper(detectors, image)
        torch.testing.assert_close(corners, torch.stack([row[0] for row in expected]), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(likely, torch.stack([row[1] for row in expected]), rtol=1e-5, atol=1e-6)


def test_what_one_detector_found_stays_as_it_is():
    one = found([((0, 0, 4, 4), 0, 0.9), ((2, 2, 8, 8), 0, 0.7), ((0, 0, 4, 4), 1, 0.4)], [((1, 1, 2, 2), 2, 0.3)])
    fused = fuse_boxes([one])
    assert fused.offsets.tolist() == [0, 3, 4]
    assert torch.equal(fused.corners, one.corners)
    assert torch.equal(fused.probabilities, one.probabilities)


def test_of_its_boxes_that_show_the_same_the_surest_speaks():
    twice = found([((0, 0, 10, 10), 0, 0.6), ((0, 0, 10, 9), 0, 0.8)])
    fused = fuse_boxes([twice, found([((0, 0, 10, 10), 0, 0.4)])])
    assert fused.probabilities.tolist() == [[pytest.approx(0.6), 0, 0]]


def test_a_box_that_all_see_is_surer_than_one_that_one_of_two_sees():
    mine = found([((0, 0, 10, 10), 0, 0.8), ((20, 20, 30, 30), 0, 0.8)])
    theirs = found([((0, 0, 10, 10), 0, 0.6)])
    fused = fuse_boxes([mine, theirs])
    assert fused.corners.tolist() == [[0, 0, 10, 10], [20, 20, 30, 30]]
    assert fused.probabilities[:, 0].tolist() == pytest.approx([0.7, 0.4])


def test_a_fused_box_lies_nearer_to_the_surer_one():
    fused = fuse_boxes([found([((0, 0, 10, 10), 0, 0.9)]), found([((0, 0, 10, 12), 0, 0.3)])])
    assert fused.corners.tolist() == [pytest.approx([0, 0, 10, 10.5])]


def test_classes_are_fused_apart():
    fused = fuse_boxes([found([((0, 0, 10, 10), 0, 0.8)]), found([((0, 0, 10, 10), 1, 0.8)])])
    assert fused.probabilities.tolist() == [[pytest.approx(0.4), 0, 0], [0, pytest.approx(0.4), 0]]


def test_a_detector_that_does_not_know_a_class_has_no_say_in_it():
    mine = found([((0, 0, 10, 10), 0, 0.8), ((20, 20, 30, 30), 1, 0.8)], unknown=(2,))
    theirs = found([((0, 0, 10, 10), 0, 0.8)], unknown=(1, 2))
    fused = fuse_boxes([mine, theirs])
    assert fused.probabilities.tolist() == [[pytest.approx(0.8), 0, 0], [0, pytest.approx(0.8), 0]]
    assert fused.unknown == (2,)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_detectors_does_not_matter(seed):
    detectors = random_detectors(seed)
    one, other = fuse_boxes(detectors), fuse_boxes(detectors[::-1])
    assert torch.equal(one.offsets, other.offsets)
    torch.testing.assert_close(one.corners, other.corners)
    torch.testing.assert_close(one.probabilities, other.probabilities)


def test_faint_boxes_are_left_out_where_that_is_asked():
    mine = found([((0, 0, 10, 10), 0, 0.8), ((20, 20, 30, 30), 0, 0.04)])
    theirs = found([((0, 0, 10, 10), 0, 0.04)])
    assert fuse_boxes([mine, theirs]).probabilities[:, 0].tolist() == pytest.approx([0.42, 0.02])
    assert fuse_boxes([mine, theirs], least=0.05).probabilities[:, 0].tolist() == pytest.approx([0.4])


def test_images_without_boxes_stay_without():
    nothing = found([], [], [])
    assert fuse_boxes([nothing, nothing]).offsets.tolist() == [0, 0, 0, 0]
    assert fuse_boxes([nothing, nothing]).corners.shape == (0, 4)
    some = found([], [((0, 0, 1, 1), 2, 0.6)], [])
    fused = fuse_boxes([nothing, some])
    assert fused.offsets.tolist() == [0, 0, 1, 1]
    assert fused.probabilities.tolist() == [[0, 0, pytest.approx(0.3)]]


def test_images_do_not_touch_each_other():
    detectors = random_detectors(7)
    whole = fuse_boxes(detectors)
    for image in range(4):
        alone = fuse_boxes(
            [SoftBoxes(torch.tensor([0, len(c)]), c, p) for c, p in (of_image(d, image) for d in detectors)]
        )
        corners, likely = of_image(whole, image)
        torch.testing.assert_close(alone.corners, corners)
        torch.testing.assert_close(alone.probabilities, likely)


def test_answers_of_several_teachers_become_one():
    task = task_named("detection")
    one, other = np.zeros((70, 2, 6), np.float32), np.zeros((70, 5, 6), np.float32)
    one[:, 0] = (0, 0, 10, 10, 0.9, 1)
    one[69, 1] = (20, 20, 30, 30, 0.8, 0)
    other[3:, 0] = (0, 0, 10, 12, 0.3, 1)
    fused = task.merged([one, other])
    assert fused[0, 0] == pytest.approx([0, 0, 10, 10, 0.45, 1])
    assert fused[3, 0] == pytest.approx([0, 0, 10, 10.5, 0.6, 1])
    assert fused[69, 1] == pytest.approx([20, 20, 30, 30, 0.4, 0])
    assert (fused[..., 4] > 0).sum() == 71
    assert task.merged([one, other], [(), (0, 5)])[69, 0] == pytest.approx([20, 20, 30, 30, 0.8, 0])
    assert np.array_equal(task.merged([one]), one)
    assert not task.merged([0 * one, 0 * other]).any()
