"""Pictures are chosen so that every class has its share, whatever the teacher sees most."""

import numpy as np

from pocketvit.synthesis.choose import choose, quotas


def test_quotas_share_everything_evenly():
    assert quotas(10, 4).tolist() == [3, 3, 2, 2]
    assert quotas(2, 3).sum() == 2


def test_a_class_gets_its_own_pictures_first_and_then_the_likeliest_of_others():
    probabilities = np.array(
        [[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.55, 0.45], [0.3, 0.7], [0.7, 0.3]], np.float32
    )  # fmt: skip
    rows, classes = choose(probabilities, np.array([2, 3]))
    assert set(zip(rows.tolist(), classes.tolist(), strict=True)) == {(4, 1), (3, 1), (5, 1), (0, 0), (1, 0)}


def test_the_chosen_are_balanced_where_the_candidates_are_not():
    random = np.random.default_rng(0)
    logits = random.normal(size=(2000, 5)) + np.array([3, 1, 0, 0, -2])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows, classes = choose(probabilities, quotas(200, 5))
    assert len(set(rows.tolist())) == 200
    assert np.bincount(classes).tolist() == [40] * 5
    natural, chosen = probabilities.mean(0), probabilities[rows].mean(0)
    assert np.abs(chosen - 0.2).max() < 0.5 * np.abs(natural - 0.2).max()


def test_no_picture_is_taken_twice_when_there_are_too_few():
    probabilities = np.full((4, 2), 0.5, np.float32)
    rows, _ = choose(probabilities, np.array([3, 3]))
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
