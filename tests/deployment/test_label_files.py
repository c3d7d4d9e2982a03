"""Files that answer several labels per image: a sigmoid each, outside the graph and inside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pocketvit.deployment import OnnxModel, check_parity, export_onnx
from pocketvit.tasks import task_named
from pocketvit.views.preprocessing import Preprocessing, plain_views

LABELS = ("effusion", "nodule", "mass")
SIZE = (10, 12)
ABOUT = Preprocessing.plain((8, (0.5,) * 3, (0.5,) * 3))


class Colours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [-5.0, 0, 5.0]]))
            self.head.bias.fill_(0.01)  # no logit is zero, where rounding would decide

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module", params=[None, SIZE], ids=["views", "pictures"])
def exported(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "model.onnx"
    export_onnx(
        Colours(), path, classes=LABELS, preprocessing=ABOUT, task=task_named("multilabel"), source_size=request.param
    )
    shape = (20, *SIZE, 3) if request.param else (20, 3, 8, 8)
    colours = np.random.default_rng(0).integers(0, 256, (20, 3), dtype=np.uint8)
    spread = colours[:, None, None, :] if request.param else colours[:, :, None, None]
    return OnnxModel(path), np.ascontiguousarray(np.broadcast_to(spread, shape))


def logits_of(pixels):
    views = plain_views(list(pixels), ABOUT.view) if pixels.shape[3] == 3 else torch.from_numpy(pixels)
    with torch.no_grad():
        return Colours()(ABOUT.to_input(views))


def test_probabilities_are_a_sigmoid_of_the_logits(exported):
    model, pixels = exported
    assert model.task.name == "multilabel"
    found = model.label(list(pixels)) if pixels.shape[3] == 3 else model.probabilities(pixels)
    np.testing.assert_allclose(found, logits_of(pixels).sigmoid().numpy(), atol=1e-4)


def test_agreement_counts_labels(exported):
    model, pixels = exported
    parity = check_parity(Colours(), model.path, pixels)
    assert parity.agreement == 1
    assert "100.0% of the labels of 20 images" in parity.text()
    other = Colours()
    with torch.no_grad():
        other.head.weight[2] = 0
        other.head.bias[2] = 50  # always there, and always the likeliest
    absent = float((logits_of(pixels)[:, 2] < 0).float().mean())
    assert 0 < absent < 1
    assert check_parity(other, model.path, pixels, tolerance=1e3).agreement == pytest.approx(1 - absent / 3)
