"""Grades: noticed by what they are called, never from numbers alone, and in their order."""

from __future__ import annotations

import pytest

from pocketvit.sources import open_images
from pocketvit.sources.grades import are_grades, in_order


@pytest.mark.parametrize(
    ("labels", "hint", "expected"),
    [
        (["grade 0", "grade 1", "grade 2"], "", True),
        (["Stage_1", "stage_2", "STAGE-3"], "", True),
        (["0", "1", "2", "3", "4"], "", False),
        (["0", "1", "2", "3", "4"], "retinopathy grade", True),
        (["grade 0", "grade 2", "grade 3"], "", False),
        (["grade 0", "grade 1"], "", False),
        (["grade 0", "stage 1", "grade 2"], "", False),
        (["grade 0", "1", "2"], "", False),
        (["cat", "dog", "eel"], "grade", False),
    ],
)
def test_consecutive_numbers_that_are_called_grades_are_ordered(labels, hint, expected):
    assert are_grades(labels, hint) is expected


def test_grades_sort_by_number_and_other_labels_as_text():
    assert in_order([f"grade {n}" for n in (10, 9, 8, 11)]) == ("grade 8", "grade 9", "grade 10", "grade 11")
    assert in_order(["b10", "b9"]) == ("b10", "b9")


def test_class_folders_of_grades_are_ordinal_in_their_order(photos):
    dataset = open_images(photos(*(f"grade {n}" for n in range(11)), count=3))
    assert dataset.classes[-1] == "grade 10"
    assert dataset.task == "ordinal"
    assert any("the 11 classes are ordered grades: distances between grades" in note for note in dataset.notes)
    assert not dataset.research


def test_digits_are_no_grades():
    assert open_images("digits").task == "classification"
