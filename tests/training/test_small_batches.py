"""BatchNorm and few images: the warning where training begins, and batches of one."""

import logging

import pytest
import timm
import torch
from torch import nn
from training_fakes import CLASSES, INPUT, PLAIN, TASK, ArraySource

from pocketvit.config import LossConfig, TrainConfig
from pocketvit.errors import PocketError
from pocketvit.models.renorm import replace_norm
from pocketvit.training import Feed, fit
from pocketvit.views import Views


def network(kind: str = "batch") -> nn.Module:
    """timm's test ResNet, whose last maps are 1 x 1 for pictures of 8 pixels."""
    torch.manual_seed(0)
    return replace_norm(timm.create_model("test_resnet", num_classes=CLASSES), kind)


def train(model: nn.Module, folder, batch: int, count: int = 24) -> nn.Module:
    config = TrainConfig(epochs=2, batch_size=batch, precision="fp32", warmup=0.0, accumulate=2)
    feed = Feed(Views(ArraySource(count), PLAIN), batch)
    return fit(model, feed, TASK.loss(LossConfig(weight=0.0)), config, folder, task=TASK, evaluate=None, input=INPUT)


def test_few_images_are_warned_of_once_a_network(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "pocketvit"):
        train(network(), tmp_path / "few", 8)
    assert [record.message.count("--replace-norm group") for record in caplog.records] == [1]
    assert "from batches of 8 images" in caplog.text


@pytest.mark.parametrize(("kind", "batch"), [("batch", 24), ("frozen", 4), ("group", 4)])
def test_enough_images_or_another_norm_are_not_warned_of(kind, batch, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "pocketvit"):
        train(network(kind), tmp_path / "run", batch)
    assert not caplog.records


def test_a_small_set_counts_rather_than_the_batch_size(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "pocketvit"):
        train(network(), tmp_path / "run", 16, count=12)
    assert "from batches of 12 images" in caplog.text


@pytest.mark.parametrize("kind", ["batch", "instance"])
def test_single_values_are_explained(kind, tmp_path):
    with pytest.raises(PocketError, match="--replace-norm group"):
        train(network(kind), tmp_path / "run", 1, count=6)


def test_groups_train_on_one_image_at_a_time(tmp_path):
    model = network("group")
    before = {name: value.clone() for name, value in model.named_parameters()}
    train(model, tmp_path / "run", 1, count=6)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert not torch.equal(before["conv1.0.weight"], model.conv1[0].weight)
