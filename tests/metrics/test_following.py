"""Whom each token follows, on cases that can be counted by hand."""

import json

import numpy as np
import pytest

from pocketvit.errors import PocketError
from pocketvit.metrics.following import following


def sure(answers, classes=3):
    """Probabilities 0.8 for each answer and 0.1 for the others."""
    return np.full((len(answers), classes), 0.1) + 0.7 * np.eye(classes)[np.asarray(answers)]


def test_agreement_and_divergence_of_every_head_and_teacher():
    """Four images: the class head sides with teacher 1 on three and with teacher 2 on two of them."""
    result = following(
        [sure([0, 1, 2, 0]), sure([0, 0, 0, 0]), sure([1, 1, 1, 1])], [sure([0, 1, 2, 1]), sure([0] * 4)]
    )
    assert result.n == 4
    np.testing.assert_allclose(result.agreement, [[0.75, 0.5], [0.25, 1.0], [0.5, 0.0]])
    apart = 0.7 * np.log(8)  # 0.8 log(0.8 / 0.1) + 0.1 log(0.1 / 0.8)
    np.testing.assert_allclose(result.kl, apart * (1 - result.agreement), atol=1e-12)


def test_a_teacher_that_is_certain_diverges_by_the_logarithm_of_the_heads_probability():
    head = np.array([[0.25, 0.75]])
    result = following([head] * 3, [np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])])
    np.testing.assert_allclose(result.kl[0], [np.log(4), np.log(4 / 3)])
    zero = np.array([[0.0, 1.0]])
    assert np.isfinite(following([zero] * 3, [1 - zero, zero]).kl).all()


def apart(own_only, other_only, n):
    """Heads and teachers where each token agrees with its own teacher alone, or the other alone, so many times.

    The teachers say 0 and 1; where neither is counted, they and the tokens say 2.
    """
    counted = own_only + other_only
    one, two = np.full(n, 2), np.full(n, 2)
    one[:counted], two[:counted] = 0, 1
    token_1, token_2 = one.copy(), two.copy()
    token_1[:other_only], token_2[:other_only] = 1, 0
    return following([sure(one), sure(token_1), sure(token_2)], [sure(one), sure(two)])


def test_six_images_on_one_side_are_just_enough():
    """Six tosses alike have p = 2 / 64; five have 2 / 32, which is above one in twenty."""
    assert [pull.verdict for pull in apart(6, 0, 100).pulls] == [1, 1]
    assert [pull.verdict for pull in apart(5, 0, 100).pulls] == [0, 0]
    assert [pull.verdict for pull in apart(0, 6, 100).pulls] == [-1, -1]


def test_images_of_one_patient_are_one_toss():
    """Six images would be enough, but not of two patients; a patient whose images are torn is on neither side."""
    one, two = np.zeros(8, int), np.ones(8, int)
    token = np.array([0, 0, 0, 0, 0, 0, 0, 1])
    heads, teachers = [sure(one), sure(token), sure(two)], [sure(one), sure(two)]
    assert following(heads, teachers).pulls[1].verdict == 1
    patients = following(heads, teachers, np.array([7, 7, 7, 3, 3, 3, 5, 5]))
    pull = patients.pulls[0]
    assert (pull.own_only, pull.other_only, pull.n, pull.verdict) == (2, 0, 3, 0)
    assert "token 1 agrees with A alone on 2 of 3 groups of images" in patients.words("AB")
    np.testing.assert_array_equal(patients.agreement, following(heads, teachers).agreement)


def test_the_interval_is_of_the_difference_in_agreement():
    """Clopper-Pearson for 8 of 10 is 0.4439 to 0.9748: of ten images among forty, -0.028 to +0.237."""
    result = apart(8, 2, 40)
    pull = result.pulls[0]
    assert (pull.own_only, pull.other_only, pull.n) == (8, 2, 40)
    assert pull.interval == pytest.approx((-0.02805, 0.23740), abs=1e-4)
    assert pull.interval[0] < result.agreement[1, 0] - result.agreement[1, 1] == pytest.approx(6 / 40)


@pytest.mark.parametrize(
    ("own", "other", "says"),
    [
        (20, 2, "each token follows its own teacher more than the other: token 1 agrees with A alone on 20 of 50"),
        (4, 3, "no difference seen between a token's own teacher and the other: token 1 agrees with A alone on 4"),
        (2, 20, "no token follows its own teacher more than the other"),
        (
            2,
            20,
            "token 2 agrees with B alone on 2 of 50 images and with A alone on 20 (it follows A more, -36.0 points",
        ),
        (0, 0, "token 1 agrees with A and B on the same of 50 images"),
    ],
)
def test_the_sentence_says_what_is_seen_and_no_more(own, other, says):
    assert says in apart(own, other, 50).words(["A", "B"])


def test_one_token_of_two_is_named():
    follows, torn = apart(20, 0, 50), apart(10, 10, 50)
    mixed = type(torn)(50, torn.agreement, torn.kl, (torn.pulls[0], follows.pulls[1]))
    assert mixed.words(["A", "B"]).startswith("only token 2 follows its own teacher more than the other: ")


def test_of_three_teachers_each_other_is_compared():
    teachers = [sure([t] * 12) for t in range(3)]
    result = following([teachers[0], *teachers], teachers)
    assert [(pull.own, pull.other) for pull in result.pulls] == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert result.words("ABC").startswith("each token follows its own teacher more than any other: ")


def test_data_are_json_and_name_everything():
    data = apart(4, 3, 50).data(["A", "B"])
    read = json.loads(json.dumps(data, allow_nan=False))
    assert (read["n"], read["teachers"], read["agreement"]) == (50, ["A", "B"], data["agreement"])
    assert read["pulls"][1] == {"own": 1, "other": 0, "own_only": 4, "other_only": 3, "n": 50} | {
        "interval": list(data["pulls"][1]["interval"]),
        "unit": "images",
    }
    assert data["heads"] == ["class head", "token 1", "token 2"]
    assert data["words"].startswith("no difference seen")


@pytest.mark.parametrize(
    ("heads", "teachers"),
    [
        ([sure([0])] * 2, [sure([0])]),
        ([sure([0])] * 2, [sure([0])] * 2),
        ([sure([0])] * 3, [sure([0]), sure([0, 1])]),
        ([sure([0], 4)] * 3, [sure([0])] * 2),
        ([np.zeros((0, 3))] * 3, [np.zeros((0, 3))] * 2),
    ],
)
def test_what_cannot_be_compared_is_refused(heads, teachers):
    with pytest.raises(PocketError, match="cannot be compared"):
        following(heads, teachers)
