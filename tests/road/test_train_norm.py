"""`train --replace-norm`: from scratch, and from trained weights that are converted first."""

import logging

import pytest
import torch
from torch import nn
from walk_fakes import SIDE, draw_photos, tiny

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.models import load_model

OPTIONS = {"epochs": 1, "size": SIDE, "precision": "fp32"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("data") / "photos", 8)


def test_a_network_from_scratch_has_groups_and_starts_with_its_shortcuts(photos, tmp_path):
    run = pocketvit.train(
        photos, model="cifar_resnet8", replace_norm="group", batch_size=1, out=str(tmp_path / "runs"), **OPTIONS
    )
    module = load_model(run.folder).module
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
    assert isinstance(module.bn1, nn.GroupNorm)


def test_trained_weights_are_converted_before_fine_tuning_and_the_cost_is_said(photos, tmp_path, caplog):
    weights = tmp_path / "tiny.pth"
    torch.save(tiny().state_dict(), weights)
    with caplog.at_level(logging.INFO, "pocketvit"):
        run = pocketvit.train(
            photos, model="test_resnet", init=str(weights), replace_norm="layer", batch_size=4,
            out=str(tmp_path / "runs"), **OPTIONS,
        )  # fmt: skip
    assert "BatchNorms became layer, recalibrated on" in caplog.text
    assert "answers as before on validation 100.0% before" in caplog.text
    module = load_model(run.folder).module
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())


def test_frozen_needs_trained_weights(photos, tmp_path):
    with pytest.raises(PocketError, match="trained statistics"):
        pocketvit.train(photos, model="cifar_resnet8", replace_norm="frozen", out=str(tmp_path / "runs"), **OPTIONS)
