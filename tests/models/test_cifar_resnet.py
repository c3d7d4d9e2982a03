"""The CIFAR family: published sizes, published weights, and the norm as a choice."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pocketvit.errors import PocketError
from pocketvit.models import create_model
from pocketvit.models.norms import norm_layer
from pocketvit.teachers import load_teacher

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_has_the_published_number_of_parameters(depth, millions):
    model = create_model(f"cifar_resnet{depth}", num_classes=10)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.03)


def test_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides():
    block = create_model("cifar_resnet20", num_classes=10).layer2[0]
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 16, 4, 4)
    out = block.eval()(x)
    torch.testing.assert_close(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_group_norm_has_no_running_statistics_and_no_batch_dependence():
    torch.manual_seed(0)
    model = create_model("cifar_resnet20", num_classes=10, norm="group")
    assert not any("running" in name for name, _ in model.named_buffers())
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(model.train()(x)[:1], model.eval()(x[:1]))


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (32, 16), (16, 8), (33, 1), (1, 1)])
def test_groups_divide_channels_and_never_hold_one(channels, groups):
    layer = norm_layer("group")(channels)
    assert layer.num_groups == groups
    assert channels % groups == 0


def test_unknown_norm_is_named():
    with pytest.raises(PocketError, match=r"weight.*batch, group"):
        create_model("cifar_resnet20", num_classes=10, norm="weight")


@pytest.mark.skipif(not (DATA / "cifar10.test.npz").exists(), reason="no CIFAR-10 beside the project")
@pytest.mark.parametrize(("depth", "digest", "accuracy"), [(20, "12fca82f", 0.9173), (56, "4bfd9763", 0.9339)])
def test_published_weights_reach_their_accuracy(depth, digest, accuracy):
    """On 300 test images, 30 a class: within four standard errors of the figure on all 10,000."""
    archive = np.load(DATA / "cifar10.test.npz")
    blob, offsets = archive["sheets"], archive["offsets"]
    images, targets = [], []
    for sheet in range(0, len(offsets) - 1, 10):  # 100 images of one class a sheet
        pixels = np.asarray(Image.open(io.BytesIO(blob[offsets[sheet] : offsets[sheet + 1]].tobytes())))
        pixels = pixels.reshape(10, 32, 10, 32, 3).transpose(0, 2, 1, 3, 4).reshape(100, 32, 32, 3)[:30]
        images.append(pixels)
        targets.append(archive["labels"][sheet * 100 : sheet * 100 + 30])
    teacher = load_teacher(DATA / f"cifar10_resnet{depth}-{digest}.th", arch=f"cifar_resnet{depth}", norm="imagenet")
    pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2)
    found = (teacher.logits(pixels).argmax(1).numpy() == np.concatenate(targets)).mean()
    assert found == pytest.approx(accuracy, abs=4 * (accuracy * (1 - accuracy) / len(pixels)) ** 0.5)
