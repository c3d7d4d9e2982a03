"""An exported file is the same function as the network, alone on any machine with ONNX Runtime."""

from __future__ import annotations

import json
import signal
import types
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pocketvit.deployment import OnnxModel, check_parity, export_onnx, write_device_zip
from pocketvit.deployment import export as exporting
from pocketvit.deployment.picture import PictureInput
from pocketvit.deployment.signature import KEY, Signature
from pocketvit.errors import PocketError
from pocketvit.models import create_student, forward_heads
from pocketvit.views.preprocessing import Preprocessing, plain_views

from .conftest import ABOUT, CLASSES, MEAN, SOURCE_SIZE, STD, tiny_vit

SMALL = Preprocessing.plain((2, MEAN, STD))


def test_the_file_computes_what_pytorch_computes(plain):
    parity = check_parity(plain.model, plain.fp32, plain.pixels)
    assert parity.max_abs < 1e-4
    assert parity.agreement == 1
    assert "100.0% of 50 images" in parity.text()


class Flips(nn.Module):
    """A network that answers otherwise where the first value of a picture is one of ``on``."""

    def __init__(self, network: nn.Module, on: torch.Tensor) -> None:
        super().__init__()
        self.network, self.on = network, on

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) + torch.isin(x[:, :1, 0, 0], self.on)


def test_a_network_that_chooses_may_differ_on_a_sixteenth_of_the_images(plain):
    pixels = plain.pixels[:16].copy()
    pixels[:, 0, 0, 0] = np.arange(16)  # each picture can be told by it
    seen = ABOUT.to_input(torch.from_numpy(pixels))[:, 0, 0, 0]
    for count, chooses, passes in ((1, True, True), (2, True, False), (1, False, False)):
        network = Flips(plain.model, seen[:count]).eval()
        network.chooses = chooses
        if passes:
            assert check_parity(network, plain.fp32, pixels).max_abs < 1e-4
        else:
            with pytest.raises(PocketError, match="does not compute what the PyTorch model computes"):
                check_parity(network, plain.fp32, pixels)


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_size_gives_the_same_answers(plain, batch):
    model = OnnxModel(plain.fp32)
    few, many = model.probabilities(plain.pixels[:batch]), model.probabilities(plain.pixels)[:batch]
    np.testing.assert_allclose(few, many, rtol=0, atol=1e-5)


def test_a_fixed_batch_of_one_gives_the_same_answers(plain, tmp_path):
    path = export_onnx(plain.model, tmp_path / "one.onnx", classes=CLASSES, preprocessing=ABOUT, fixed_batch=True)
    sides = [side.dim_value for side in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    assert sides == [1, 3, 32, 32]
    found, expected = (OnnxModel(file).probabilities(plain.pixels[:3]) for file in (path, plain.fp32))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_preprocessing_inside_equals_our_views_followed_by_the_network(with_picture):
    """Checked against `pocketvit.views`, not against the module that was exported."""
    assert check_parity(with_picture.model, with_picture.fp32, with_picture.pixels).max_abs < 1e-5


@pytest.mark.parametrize("aspect", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("resample", ["lanczos", "bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(30, 45), (45, 30), (16, 16), (7, 90), (150, 200)])
def test_pixels_inside_the_graph_are_equal_to_the_bit(aspect, resample, size):
    about = Preprocessing(40, 12, MEAN, STD, aspect=aspect, resample=resample)
    seen: list[torch.Tensor] = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.mean((2, 3))

    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8))
    PictureInput(Spy(), Signature(CLASSES, about, source_size=size))(pictures)
    expected = about.to_input(plain_views(list(pictures.numpy()), about.view))
    assert seen[0].shape == expected.shape == (2, 3, 12, 12)
    # A grey level is 0.016 here: what is left is the rounding of the normalization.
    assert (seen[0] - expected).abs().max() < 1e-5


def test_pixels_that_the_crop_drops_are_never_multiplied():
    """A camera's 1920 x 1080 once cost 1.4 G multiply-adds, most of them of zeros."""
    about = Preprocessing(224, 224, MEAN, STD)
    counted = 0
    module = PictureInput(nn.Identity(), Signature(CLASSES, about, source_size=(1080, 1920)))
    for axis, other in (("across", 1080), ("down", 224)):
        for name, _, _ in getattr(module.picture_fit.resize, axis):
            counted += 3 * other * module.picture_fit.resize.get_buffer(name).numel()
    assert counted < 0.3e9


def test_classes_and_preprocessing_travel_in_the_file(with_picture):
    signature = OnnxModel(with_picture.fp32).signature
    assert signature.classes == CLASSES
    assert signature.preprocessing == replace(ABOUT, view_size=40, aspect="pad")
    assert (signature.source_size, signature.precision, signature.task.name) == (SOURCE_SIZE, "fp32", "classification")


def test_whoever_opens_the_file_reads_what_it_takes(plain, with_picture):
    for exported, words in ((plain, "(value / 255 - mean) / std"), (with_picture, "uint8 [batch, 30, 45, 3]")):
        assert words in onnx.load(exported.fp32).graph.input[0].doc_string


def test_a_file_of_the_version_before_is_read(plain, tmp_path):
    model = onnx.load(plain.fp32)
    view = {"view_size": 40, "resample": "bicubic", "lobes": 3, "fit": "pad"}
    old = {
        "classes": list(CLASSES), "input_size": 32, "mean": list(MEAN), "std": list(STD), "view": view,
        "source_size": None, "window": [0, 4095], "tile": None, "precision": "fp32", "activation": "sigmoid",
    }  # fmt: skip
    model.metadata_props[0].value = json.dumps(old)
    onnx.save(model, tmp_path / "old.onnx")
    found = OnnxModel(tmp_path / "old.onnx")
    assert found.task.name == "multilabel"
    assert found.preprocessing == Preprocessing(40, 32, MEAN, STD, "bicubic", 3, "pad", (0.0, 4095.0))
    with pytest.raises(PocketError, match="older"):
        write_device_zip(tmp_path / "device.zip", tmp_path / "old.onnx")


@pytest.mark.parametrize("spoiled", ["{", '{"classes": []}', '{"source_size": null, "preprocessing": {"mean": 3}}'])
def test_a_description_that_cannot_be_read_names_the_file(plain, tmp_path, spoiled):
    model = onnx.load(plain.fp32)
    model.metadata_props[0].value = spoiled
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(PocketError, match=r"odd\.onnx"):
        OnnxModel(tmp_path / "odd.onnx")


def test_a_flipped_byte_in_the_weights_is_noticed(plain, tmp_path):
    data = bytearray(plain.fp32.read_bytes())
    data[len(data) // 2] ^= 0x10
    (tmp_path / "flipped.onnx").write_bytes(data)
    with pytest.raises(PocketError, match=r"flipped\.onnx is damaged"):
        OnnxModel(tmp_path / "flipped.onnx")


def test_a_flipped_byte_in_the_description_is_noticed(plain, tmp_path):
    data = plain.fp32.read_bytes().replace(b'"preprocessing"', b'"preproce\xff\xffing"')
    (tmp_path / "flipped.onnx").write_bytes(data)
    with pytest.raises(PocketError, match=r"flipped\.onnx is damaged: what it says of itself is no text"):
        OnnxModel(tmp_path / "flipped.onnx")


def test_the_exporters_notes_are_stripped_and_nothing_lies_beside(plain):
    model = onnx.load(plain.fp32, load_external_data=False)
    assert not any(node.metadata_props for node in model.graph.node)
    assert not any(weight.HasField("data_location") and weight.data_location for weight in model.graph.initializer)
    assert [entry.key for entry in model.metadata_props] == [KEY]
    weights = sum(4 * parameter.numel() for parameter in plain.model.parameters())
    assert plain.fp32.stat().st_size < weights + 40_000


@pytest.mark.parametrize("which", ["fp32", "int8"])
def test_files_are_of_the_format_that_the_oldest_runtime_named_on_the_box_reads(plain, with_picture, which):
    """ONNX Runtime 1.17 knows ONNX 1.15: IR version 9, opset 20."""
    for exported in (plain, with_picture):
        model = onnx.load(getattr(exported, which))
        assert model.ir_version <= 9
        used = {node.domain for node in model.graph.node}
        assert {entry.domain for entry in model.opset_import} == used | {""}
        assert {entry.domain: entry.version for entry in model.opset_import}[""] == 20
        assert used <= {"", "com.microsoft"}


@pytest.mark.parametrize(("tokens", "averaged"), [(1, "logits"), (2, "probabilities")])
def test_several_heads_are_combined_in_the_file_as_in_the_network(tmp_path, tokens, averaged):
    """timm's distilled ViT averages logits; our students with a token per teacher average probabilities."""
    torch.manual_seed(0)
    model = create_student("pocket_xs", num_classes=4, image_size=8, patch_size=4, tokens=tokens).eval()
    model.blocks = model.blocks[:1]
    for head in model.get_classifier():
        nn.init.normal_(head.weight, std=1.0)
    exported = OnnxModel(export_onnx(model, tmp_path / "tokens.onnx", classes=CLASSES))
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8))
    with torch.no_grad():
        heads = torch.stack(forward_heads(model, exported.preprocessing.to_input(pixels)))
    assert len(heads) == 1 + tokens
    expected = heads.mean(0).softmax(1) if averaged == "logits" else heads.softmax(2).mean(0)
    np.testing.assert_allclose(exported.probabilities(pixels), expected.numpy(), atol=1e-5)


def test_exporting_leaves_the_network_as_it_was(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 4)).half().train()
    export_onnx(model, tmp_path / "m.onnx", classes=CLASSES, preprocessing=SMALL)
    assert model.training
    assert model[2].weight.dtype == torch.float16
    assert model[2].weight.requires_grad


def test_class_names_that_do_not_fit_are_refused(plain, tmp_path):
    with pytest.raises(PocketError, match=r"there are 2 classes"):
        export_onnx(plain.model, tmp_path / "m.onnx", classes=("a", "b"), preprocessing=ABOUT)
    assert not list(tmp_path.iterdir())


def test_a_wrong_image_size_is_one_clear_message(plain, tmp_path):
    with pytest.raises(PocketError, match="does not take 30x30 pixels"):
        export_onnx(plain.model, tmp_path / "m.onnx", classes=CLASSES, preprocessing=replace(ABOUT, input_size=30))


def test_what_cannot_be_translated_is_one_clear_message(tmp_path, capfd):
    class Odd(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    with pytest.raises(PocketError, match="cannot be exported to ONNX") as caught:
        export_onnx(Odd(), tmp_path / "m.onnx", classes=CLASSES[:3], preprocessing=SMALL)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_weights_that_are_no_numbers_are_refused_before_they_are_exported(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    with pytest.raises(PocketError, match=r"1 of the weights of Sequential are not finite .*1\.weight first"):
        export_onnx(model, tmp_path / "model.onnx", classes=("a", "b"))
    assert not list(tmp_path.iterdir())


def test_a_network_too_large_for_one_file_is_refused_before_it_is_exported(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "LARGEST", 100_000)
    with pytest.raises(PocketError, match="one ONNX file holds"):
        export_onnx(plain.model, tmp_path / "m.onnx", classes=CLASSES, preprocessing=ABOUT)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_leaves_nothing_behind(plain, tmp_path):
    model = onnx.load(plain.fp32)
    model.graph.node[0].input[0] = "nobody made this"
    with pytest.raises(PocketError, match=r"m\.onnx was not written"):
        exporting.save(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "tile"), [((0, 30), None), ((9_999_999, 9_999_999), None), ((30, 40), 16)])
def test_pictures_that_no_graph_can_take_are_refused_at_once(plain, tmp_path, size, tile):
    with pytest.raises(PocketError, match="--picture"):
        export_onnx(
            plain.model, tmp_path / "m.onnx", classes=CLASSES, preprocessing=replace(ABOUT, tile=tile), source_size=size
        )


def test_pixels_of_another_kind_are_refused(plain, with_picture):
    with pytest.raises(PocketError, match=r"views \[B, 3, 32, 32\]"):
        OnnxModel(plain.fp32).probabilities(plain.pixels.astype(np.float32))
    with pytest.raises(PocketError, match="takes whole pictures"):
        OnnxModel(with_picture.fp32).probabilities(plain.pixels)
    with pytest.raises(PocketError, match=r"pictures \[B, 30, 45, 3\]"):
        OnnxModel(with_picture.fp32).outputs(plain.pixels)


@pytest.mark.parametrize("swallowed", [False, True])
def test_an_interruption_within_the_exporter_is_heard(tmp_path, monkeypatch, swallowed):
    def exporter(*_, **__):
        signal.raise_signal(signal.SIGINT)
        if swallowed:
            raise RuntimeError("Failed to export the model")
        return types.SimpleNamespace(model_proto=None)

    monkeypatch.setattr(torch.onnx, "export", exporter)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(tiny_vit(), tmp_path / "model.onnx", classes=CLASSES, preprocessing=ABOUT)
    assert not list(tmp_path.iterdir())


def test_what_a_file_takes_says_the_window_of_deep_pictures():
    about = replace(ABOUT, window=(443.0, 2279.0))
    assert "of other depths, 443 to 2279 are 0 to 255" in exporting.describe_input(Signature(CLASSES, about))
    assert "depths" not in exporting.describe_input(Signature(CLASSES, ABOUT))


def test_a_mask_of_attention_is_stored_once(tmp_path):
    """Of a student of 128 tokens they were a fifth of the int8 file."""
    student = create_student("pocket_xxs", num_classes=4, image_size=16, patch_size=4, attention="local").eval()
    about = replace(ABOUT, view_size=16, input_size=16)
    path = export_onnx(student, tmp_path / "local.onnx", classes=CLASSES, preprocessing=about)
    masks = [weight for weight in onnx.load(path).graph.initializer if list(weight.dims)[-2:] == [17, 17]]
    assert len(masks) == 1
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8)
    assert check_parity(student, path, pixels).agreement == 1
