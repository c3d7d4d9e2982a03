"""Networks of one channel take colour pictures, and answer them as they answer their brightness."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from pocketvit.models import load_model, save_model
from pocketvit.models.grey import LUMA, in_colour
from pocketvit.teachers import load_teacher


def answers_in_grey(model, pixels, mean, std):
    grey = (pixels.float() / 255 * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    with torch.no_grad():
        return model.eval()((grey - mean) / std)


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def grey_network(name="resnet10t", **more):
    torch.manual_seed(0)
    return timm.create_model(name, in_chans=1, num_classes=3, **more)


@pytest.mark.parametrize(
    ("name", "more"), [("resnet10t", {}), ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 1})]
)
def test_a_module_of_one_channel_answers_as_of_its_brightness(name, more, pixels):
    own = grey_network(name, **more)
    teacher = load_teacher(own, input_size=32, norm=((0.4,) * 3, (0.2,) * 3))
    assert torch.allclose(teacher.logits(pixels), answers_in_grey(own, pixels, 0.4, 0.2), atol=1e-5)
    assert any("takes grey pictures" in note for note in teacher.notes)


def test_a_weights_file_of_one_channel(tmp_path, pixels):
    own = grey_network()
    save_file(own.state_dict(), tmp_path / "grey.safetensors")
    teacher = load_teacher(tmp_path / "grey.safetensors", arch="resnet10t", input_size=32, norm="half")
    assert torch.allclose(teacher.logits(pixels), answers_in_grey(own, pixels, 0.5, 0.5), atol=1e-5)
    assert not any("normalization assumed" in note and "0.485" in note for note in teacher.notes)


def test_what_was_turned_to_colour_is_saved_and_loaded(tmp_path, pixels):
    own = grey_network()
    folder = save_model(own, tmp_path / "grey", classes=("a", "b", "c"))
    teacher = load_teacher(f"local-dir:{folder}", input_size=32)
    again = load_teacher(save_model(teacher.module, tmp_path / "colour"), input_size=32)
    assert again.mean == teacher.mean
    assert torch.equal(again.logits(pixels), teacher.logits(pixels))
    assert not any("grey" in note for note in again.notes)
    assert load_model(folder).module.state_dict()["conv1.0.weight"].shape[1] == 1  # the file is as it was


def test_a_convolution_that_standardizes_its_weights_is_left_as_it_is():
    assert not in_colour(timm.create_model("resnetv2_50x1_bit", in_chans=1, num_classes=3))
    assert not in_colour(timm.create_model("resnet10t", num_classes=3))
