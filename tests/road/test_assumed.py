"""An input size or a normalization that was assumed is tried on labelled images, and given up only beyond doubt."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from walk_fakes import SIDE, Own

from pocketvit.road.assumed import as_labels_say, may_be_otherwise
from pocketvit.sources.subset import hide_labels
from pocketvit.teachers import load_teacher


class Only(nn.Module):
    """Right on pictures of one side, or of values from 0 on, alone."""

    def __init__(self, side: int | None = None, *, positive: bool = False) -> None:
        super().__init__()
        self.own, self.side, self.positive = Own(), side, positive

    def forward(self, x):
        shown = x if not self.positive else (x - 0.5) / 0.5
        right = self.own(nn.functional.interpolate(shown, (SIDE, SIDE)))
        wrong = (self.side is not None and x.shape[-1] != self.side) or (self.positive and bool((x < 0).any()))
        return 0 * right + torch.tensor([3.0, 0.0, -1.0]) if wrong else right


def test_the_size_of_the_views_is_taken_where_only_that_is_right(road):
    teacher = load_teacher(Only(SIDE), norm="half")
    assert teacher.input_size == 224
    found = as_labels_say(teacher, road)
    assert found.input_size == SIDE
    assert (
        f"as assumed it is right on 33% of {len(road.dataset.train)} labelled images, at {SIDE} px" in found.notes[-1]
    )
    assert teacher.input_size == 224


def test_another_usual_normalization_is_taken_where_only_that_is_right(road):
    found = as_labels_say(load_teacher(Only(positive=True), input_size=SIDE), road)
    assert (found.mean, found.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert found.input_size == SIDE


@pytest.mark.parametrize("said", [{"input_size": 224, "norm": "half"}, {"norm": "half", "input_size": 20}])
def test_what_was_said_is_not_tried(road, said):
    teacher = load_teacher(Only(SIDE), **said)
    assert may_be_otherwise(teacher, SIDE) == []
    assert as_labels_say(teacher, road) is teacher


def test_what_is_right_as_assumed_stays_and_so_does_what_nobody_can_tell(road):
    teacher = load_teacher(Own(), norm="half")
    assert as_labels_say(teacher, road) is teacher
    blind = hide_labels(road.dataset.train, torch.arange(0).numpy())
    nobody = dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, train=blind), _rendered={})
    other = load_teacher(Only(SIDE), norm="half")
    assert as_labels_say(other, nobody) is other


def test_a_network_that_takes_no_other_size_is_left_alone(road):
    class Fixed(Only):
        def forward(self, x):
            if x.shape[-1] != 224:
                raise RuntimeError("a picture of another size")
            return torch.tensor([[3.0, 0.0, -1.0]]).expand(len(x), 3) + 0 * self.own.head.bias.sum()

    teacher = load_teacher(Fixed(), norm="half")
    assert as_labels_say(teacher, road) is teacher
