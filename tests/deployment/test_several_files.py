"""Files that answer several labels an image: a sigmoid a label, outside the graph and inside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pocketvit.config import ViewConfig
from pocketvit.deployment import OnnxModel, check_parity, export_onnx
from pocketvit.deployment.preprocess import pictures_to_input

LABELS = ("effusion", "nodule", "mass")
SIZE = (10, 12)


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
    options = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "classes": LABELS, "view": ViewConfig(view_size=8)}
    export_onnx(Colours(), path, image_size=8, source_size=request.param, several=True, **options)
    shape = (20, *SIZE, 3) if request.param else (20, 3, 8, 8)
    colours = np.random.default_rng(0).integers(0, 256, (20, 3), dtype=np.uint8)
    spread = colours[:, None, None, :] if request.param else colours[:, :, None, None]
    return OnnxModel(path), np.ascontiguousarray(np.broadcast_to(spread, shape))


def test_probabilities_are_a_sigmoid_of_the_logits(exported):
    model, pixels = exported
    assert model.signature.several
    with torch.no_grad():
        logits = Colours()(pictures_to_input(torch.from_numpy(pixels), model.signature))
    np.testing.assert_allclose(model.predict(pixels), logits.sigmoid().numpy(), atol=1e-4)
    np.testing.assert_allclose(model.logits(pixels), logits.numpy(), atol=0.05)


def test_agreement_counts_labels(exported):
    model, pixels = exported
    parity = check_parity(Colours(), model.path, pixels)
    assert parity.agreement == 1
    assert "labels decided alike on 100.0%" in parity.text()
    other = Colours()
    with torch.no_grad():
        other.head.weight[2] = 0
        other.head.bias[2] = 50  # always there, and always the likeliest
    with torch.no_grad():
        logits = Colours()(pictures_to_input(torch.from_numpy(pixels), model.signature))
    absent = float((logits[:, 2] < 0).float().mean())
    assert 0 < absent < 1
    assert check_parity(other, model.path, pixels, tolerance=1e3).agreement == pytest.approx(1 - absent / 3)
