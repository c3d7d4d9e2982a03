"""Priors hold on to the layers that an answer goes through."""

import torch
import torch.nn.functional as F
from torch import nn

from pocketvit.synthesis.priors import Priors
from pocketvit.teachers import load_teacher


def test_layers_that_no_answer_goes_through_hold_nothing():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm1d(8)
            self.head, self.projector, self.idle = nn.Linear(8, 3), nn.Linear(8, 5), nn.BatchNorm2d(8)

        def forward(self, x):
            return self.head(self.norm(self.stem(x).flatten(2)).relu().mean(2))

    teacher = load_teacher(Unused(), input_size=16, norm="half")
    images = torch.rand(4, 3, 16, 16, requires_grad=True)
    with Priors(teacher) as priors:
        logits = teacher.differentiable(images)
        loss, parts = priors(images, F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])), torch.tensor([0, 1, 2, 0]))
        assert priors.words == ("moments of 1 BatchNorm layers", "activity and diversity of what head sees")
    assert torch.isfinite(loss)
    assert {"statistics", "diversity"} <= parts.keys()
