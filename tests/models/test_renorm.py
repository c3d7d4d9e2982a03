"""Conversion of a trained BatchNorm network: what is restored, and what is said of it."""

import copy

import pytest
import torch
from torch import nn

from pocketvit.errors import PocketError
from pocketvit.models import create_model
from pocketvit.models.renorm import Conversion, convert_norm, replace_norm


@pytest.fixture
def trained():
    """A network whose BatchNorms have statistics and affine weights of their own, as training leaves them."""
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", num_classes=5)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.5)
    for _ in range(30):
        model(torch.randn(32, 3, 16, 16) + 0.5)
    return model.eval()


def images(count: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, 16, generator=generator) + 0.5


@pytest.mark.parametrize("kind", ["group", "group-ws", "layer"])  # a lone channel keeps its statistics anyway
def test_recalibrated_outputs_are_closer_than_replaced_ones(trained, kind):
    calibration, fresh = images(128).split(64)
    wanted = trained(fresh)
    replaced = replace_norm(copy.deepcopy(trained), kind)(fresh)
    converted = convert_norm(trained, kind, calibration)[0](fresh)
    assert (converted - wanted).square().mean() < 0.95 * (replaced - wanted).square().mean()


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_every_channel_gets_the_mean_and_deviation_it_had(trained, kind):
    seen: dict[str, torch.Tensor] = {}

    def watch(model):
        for name in ("bn1", "layer2.0.bn2", "layer3.0.bn1"):
            model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        model(images())
        return {name: (out.mean((0, 2, 3)), out.std((0, 2, 3))) for name, out in seen.items()}

    converted = convert_norm(trained, kind, images())[0]
    torch.testing.assert_close(watch(converted), watch(trained), rtol=1e-3, atol=1e-4)


def test_frozen_answers_as_before_and_the_given_network_is_left_alone(trained):
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    wanted = trained(images())
    torch.testing.assert_close(convert_norm(trained, "frozen", images(4))[0](images()), wanted)
    convert_norm(trained, "group", images(4))
    torch.testing.assert_close(trained.state_dict(), state)


def test_a_channel_that_carries_nothing_gets_its_mean_and_no_infinite_scale(trained):
    with torch.no_grad():
        trained.conv1.weight[0] = 0
    converted = convert_norm(trained, "instance", images())[0]
    assert torch.isfinite(converted(images())).all()


def test_the_report_scores_before_replaced_and_recalibrated(trained):
    scores = iter((0.9, 0.2, 0.7))
    report = convert_norm(trained, "group", images(8), score=lambda _: next(scores))[1]
    assert report == Conversion("group", 7, 8, 0.9, 0.2, 0.7)
    assert report.text("accuracy") == (
        "7 BatchNorms became group, recalibrated on 8 images: accuracy 90.0% before, 20.0% replaced, 70.0% "
        "recalibrated (-20.0 points)"
    )


def test_no_images_is_an_error(trained):
    with pytest.raises(PocketError, match="there are none"):
        convert_norm(trained, "group", images(0))
