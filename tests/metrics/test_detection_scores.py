"""Average precision on cases whose answer is known by hand, and agreement of two detectors."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvit.errors import PocketError
from pocketvit.metrics.detection import agreement, overlaps, rounded, score_boxes
from pocketvit.sources.boxes import CROWD, Boxes, Detections, offsets_of


def truth(*images, flags=(), known=None) -> Boxes:
    """Each image a list of (class, left, top, right, bottom)."""
    rows = [box for image in images for box in image]
    marks = np.zeros(len(rows), np.uint8)
    marks[list(flags)] = CROWD
    return Boxes(
        offsets_of(np.array([len(image) for image in images])),
        np.array([box[1:] for box in rows], np.float32).reshape(-1, 4),
        np.array([box[0] for box in rows], np.int64),
        marks,
        np.full((len(images), 2), 400, np.int32),
        np.ones(len(images), bool) if known is None else np.array(known),
    )


def found(*images) -> Detections:
    """Each image a list of (class, left, top, right, bottom, score)."""
    rows = [box for image in images for box in image]
    return Detections(
        offsets_of(np.array([len(image) for image in images])),
        np.array([box[1:5] for box in rows], np.float32).reshape(-1, 4),
        np.array([box[0] for box in rows], np.int64),
        np.array([box[5] for box in rows], np.float32),
    )


A, B = (0, 0, 0, 100, 100), (0, 200, 200, 240, 240)


def test_what_is_found_exactly_scores_one():
    scores = score_boxes(found([(*A, 0.9)], [(*B, 0.8)]), truth([A], [B]), 2)
    assert (scores.map, scores.map_50, scores.recall) == (pytest.approx(1),) * 3
    assert scores.by_size == {"small": None, "medium": pytest.approx(1), "large": pytest.approx(1)}
    assert scores.by_class[0] == pytest.approx(1)
    assert np.isnan(scores.by_class[1])  # no such object anywhere
    assert (scores.n, scores.boxes) == (2, 2)


def test_a_loose_box_counts_at_the_overlaps_that_it_has():
    scores = score_boxes(found([(0, 0, 0, 100, 67, 0.9)]), truth([A]), 1)  # overlap .67: .50, .55, .60, .65
    assert scores.map == pytest.approx(0.4)
    assert scores.map_50 == pytest.approx(1)
    assert scores.map_75 == 0


def test_mistakes_cost_by_their_score():
    wrong = (0, 300, 300, 350, 350)
    late = score_boxes(found([(*A, 0.9), (*B, 0.8), (*wrong, 0.1)]), truth([A, B]), 1)
    early = score_boxes(found([(*A, 0.5), (*B, 0.4), (*wrong, 0.9)]), truth([A, B]), 1)
    assert late.map == pytest.approx(1)
    assert early.map_50 == pytest.approx(
        2 / 3, abs=0.01
    )  # precisions 1/2 and 2/3; the better one counts up to recall 1
    assert score_boxes(found([(*A, 0.9), (*A, 0.8)]), truth([A, B]), 1).map_50 == pytest.approx(51 / 101)


def test_a_box_of_another_class_finds_nothing():
    scores = score_boxes(found([(1, *A[1:], 0.9)]), truth([A, (1, *B[1:])]), 2)
    assert scores.by_class_50.tolist() == [0, 0]


def test_crowds_are_neither_right_nor_missed():
    scores = score_boxes(found([(*A, 0.9), (*B, 0.95)]), truth([A, B], flags=[1]), 1)
    assert scores.map == pytest.approx(1)
    assert scores.boxes == 1


def test_images_that_nobody_annotated_do_not_count():
    scores = score_boxes(found([(*A, 0.9)], [(*B, 0.9)]), truth([A], [], known=[True, False]), 1)
    assert scores.map == pytest.approx(1)
    assert scores.n == 1
    with pytest.raises(PocketError, match="nobody annotated"):
        score_boxes(found([]), truth([], known=[False]), 1)


def test_finding_nothing_scores_zero_and_no_object_has_no_score():
    nothing = score_boxes(found([], []), truth([A], [B]), 2)
    assert nothing.map == nothing.map_50 == nothing.by_size["medium"] == 0
    assert np.isnan(nothing.by_class[1])
    empty = score_boxes(found([(*A, 0.9)]), truth([]), 1)
    assert empty.map is None
    assert empty.interval is None
    assert rounded(empty.map) == "n/a"
    assert rounded(0.4567) == ".457"


def test_curves_are_precision_by_recall():
    wrong = (0, 300, 300, 350, 350)
    scores = score_boxes(found([(*A, 0.9), (*wrong, 0.8), (*B, 0.7)]), truth([A, B]), 1)
    assert scores.curves.shape == (1, 101)
    assert scores.curves[0, [0, 50]].tolist() == pytest.approx([1, 1])
    assert scores.curves[0, [51, 100]].tolist() == pytest.approx([2 / 3, 2 / 3])


def test_the_interval_covers_what_other_images_would_give():
    generator = np.random.default_rng(0)

    def draw(count: int):
        images, answers = [], []
        for _ in range(count):
            shift = generator.normal(0, 8, 4)
            images.append([A])
            answers.append([(0, *(np.array(A[1:]) + shift).tolist(), 0.5 + float(generator.random()) / 2)])
        return found(*answers), truth(*images)

    large = score_boxes(*draw(2000), 1, interval=False).map
    intervals = [score_boxes(*draw(60), 1).interval for _ in range(20)]
    assert sum(low <= large <= high for low, high in intervals) >= 14  # of 60 boxes the precision is biased a little
    assert 0.03 < np.mean([high - low for low, high in intervals]) < 0.3
    groups = np.repeat(np.arange(6), 10)
    low, high = score_boxes(*draw(60), 1, groups=groups).interval
    assert high > low


def test_agreement_counts_matched_boxes():
    one = found([(*A, 0.9), (*B, 0.9)], [])
    other = found([(0, 2, 2, 101, 99, 0.5), (1, *B[1:], 0.9), (0, 300, 300, 340, 340, 0.1)], [])
    assert agreement(one, other) == pytest.approx(2 * 1 / 4)
    assert agreement(one, one) == 1
    assert agreement(found([]), found([])) == 1
    twice = found([(*A, 0.9), (0, 1, 1, 100, 100, 0.8)], [])
    assert agreement(twice, found([(*A, 0.9)], [])) == pytest.approx(2 / 3)  # one box matches one
    assert score_boxes(one, truth([A, B], []), 2, teacher=other).agreement == pytest.approx(0.5)


def test_overlaps_by_hand():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    assert overlaps(boxes[:1], boxes)[0].tolist() == pytest.approx([1, 50 / 150, 0])
