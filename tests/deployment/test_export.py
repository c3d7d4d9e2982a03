"""An exported file is the same function as the network, alone on any machine with ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pocketvit.config import ViewConfig
from pocketvit.deployment import OnnxModel, check_parity, export_onnx
from pocketvit.deployment.preprocess import PictureInput, pictures_to_input
from pocketvit.deployment.signature import Signature
from pocketvit.errors import PocketError
from pocketvit.models import create_student, forward_heads

from .conftest import CLASSES, MEAN, SOURCE_SIZE, STD


def test_the_file_computes_what_pytorch_computes(plain):
    parity = check_parity(plain.model, plain.fp32, plain.pixels)
    assert parity.max_abs < 1e-4
    assert parity.agreement == 1
    assert parity.n == 50


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_size_gives_the_same_answers(plain, batch):
    model = OnnxModel(plain.fp32)
    np.testing.assert_allclose(
        model.predict(plain.pixels[:batch]), model.predict(plain.pixels)[:batch], rtol=0, atol=1e-5
    )


def test_preprocessing_inside_equals_our_views_followed_by_the_network(with_picture):
    """Checked against `pocketvit.views`, not against the module that was exported."""
    assert check_parity(with_picture.model, with_picture.fp32, with_picture.pixels).max_abs < 1e-5


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("resample", ["lanczos", "bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(30, 45), (45, 30), (16, 16), (7, 90)])
def test_pixels_inside_the_graph_are_equal_to_the_bit(fit, resample, size):
    view = ViewConfig(view_size=16, fit=fit, resample=resample)
    signature = Signature(CLASSES, 12, MEAN, STD, view=view, source_size=size)
    seen: list[torch.Tensor] = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.mean((2, 3))

    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8))
    PictureInput(Spy(), signature)(pictures)
    expected = pictures_to_input(pictures, signature)
    assert seen[0].shape == expected.shape == (2, 3, 12, 12)
    # A grey level is 0.016 here: what is left is the rounding of the normalization.
    assert (seen[0] - expected).abs().max() < 1e-5


def test_classes_and_preprocessing_travel_in_the_file(with_picture):
    signature = OnnxModel(with_picture.fp32).signature
    assert signature.classes == CLASSES
    assert (signature.mean, signature.std) == (MEAN, STD)
    assert (signature.input_size, signature.view.view_size, signature.view.fit) == (32, 40, "pad")
    assert (signature.source_size, signature.precision) == (SOURCE_SIZE, "fp32")


def test_the_exporters_notes_are_stripped_and_nothing_lies_beside(plain):
    model = onnx.load(plain.fp32, load_external_data=False)
    assert not any(node.metadata_props for node in model.graph.node)
    assert not any(weight.HasField("data_location") and weight.data_location for weight in model.graph.initializer)
    weights = sum(4 * parameter.numel() for parameter in plain.model.parameters())
    assert plain.fp32.stat().st_size < weights + 40_000


def test_several_heads_become_one_output_of_mean_probability(tmp_path):
    torch.manual_seed(0)
    model = create_student("pocket_xs", num_classes=4, image_size=8, patch_size=4, tokens=2).eval()
    model.blocks = model.blocks[:1]
    path = export_onnx(model, tmp_path / "tokens.onnx", image_size=8, classes=CLASSES)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8))
    exported = OnnxModel(path)
    with torch.no_grad():
        heads = forward_heads(model, pictures_to_input(pixels, exported.signature))
    mean = torch.stack([head.softmax(1) for head in heads]).mean(0)
    assert len(heads) == 3
    np.testing.assert_allclose(exported.predict(pixels), mean.numpy(), atol=1e-5)


def test_exporting_leaves_the_network_as_it_was(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 4)).half().train()
    export_onnx(model, tmp_path / "m.onnx", image_size=2, classes=CLASSES)
    assert model.training
    assert model[2].weight.dtype == torch.float16
    assert model[2].weight.requires_grad


def test_class_names_that_do_not_fit_are_refused(plain, tmp_path):
    with pytest.raises(PocketError, match=r"there are 2 classes"):
        export_onnx(plain.model, tmp_path / "m.onnx", image_size=32, classes=("a", "b"))
    assert not list(tmp_path.iterdir())


def test_a_wrong_image_size_is_one_clear_message(plain, tmp_path):
    with pytest.raises(PocketError, match="does not take 30x30 pixels"):
        export_onnx(plain.model, tmp_path / "m.onnx", image_size=30, classes=CLASSES)


def test_what_cannot_be_translated_is_one_clear_message(tmp_path, capfd):
    class Odd(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    with pytest.raises(PocketError, match="cannot be exported to ONNX") as caught:
        export_onnx(Odd(), tmp_path / "m.onnx", image_size=2, classes=CLASSES[:3])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_pixels_of_another_kind_are_refused(plain, with_picture):
    with pytest.raises(PocketError, match=r"views \[B, 3, 32, 32\]"):
        OnnxModel(plain.fp32).predict(plain.pixels.astype(np.float32))
    with pytest.raises(PocketError, match=r"pictures \[B, 30, 45, 3\]"):
        OnnxModel(with_picture.fp32).predict(plain.pixels)
