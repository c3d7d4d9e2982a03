"""Answers for files, folders, PIL images and arrays; a broken picture stops nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from pocketvit.deployment import Network, OnnxModel, open_model, predict_images
from pocketvit.errors import PocketError
from pocketvit.tasks import task_named

from .conftest import ABOUT, CLASSES

CLASSIFICATION = task_named("classification")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for i, name in enumerate(["b.png", "a.JPG", "deep/c.png"]):
        pixels = np.random.default_rng(i).integers(0, 256, (40 + i, 33, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def data(model, images, **options):
    return [prediction.data for prediction in predict_images(model, images, **options)]


def test_folders_are_searched_in_sorted_order(plain, pictures):
    results = data(plain.int8, [pictures / "b.png", pictures], top=4)
    assert [entry["file"] for entry in results] == [
        str(pictures / n) for n in ("b.png", "a.JPG", "b.png", "deep/c.png")
    ]
    assert results[0] == results[2]
    for entry in results:
        scores = [score for _, score in entry["topk"]]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert [entry["label"], entry["score"]] == entry["topk"][0]


def test_what_training_skips_is_not_labelled(plain, pictures):
    """An archive made on a Mac carries a shadow of every picture; hidden folders hold thumbnails."""
    for name in ("__MACOSX/._b.png", "._b.png", ".thumbs/b.png"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).write_bytes((pictures / "b.png").read_bytes())
    assert len(data(plain.fp32, pictures)) == 3


def test_a_broken_picture_is_reported_and_the_others_go_on(plain, pictures):
    (pictures / "b.png").write_bytes((pictures / "b.png").read_bytes()[:100])
    (pictures / "deep" / "d.png").write_bytes(b"")
    results = predict_images(plain.fp32, pictures)
    assert [bool(one.error) for one in results] == [False, True, False, True]
    assert "empty" in results[3].error
    assert str(results[3]).startswith(f"{pictures / 'deep' / 'd.png'}  could not be read: ")
    assert all("label" in one.data for one in results if not one.error)


def test_a_picture_is_a_path_an_image_of_pillow_or_an_array(plain, pictures):
    path = pictures / "b.png"
    with Image.open(path) as image:
        image.load()
    pixels = np.asarray(image)
    first, *others = data(plain.fp32, [path, str(path), image, pixels])
    assert [entry.pop("file") for entry in others] == [str(path), "image 2", "image 3"]
    del first["file"]
    assert others == [first] * 3
    assert data(plain.fp32, image)[0]["score"] == first["score"]  # one without a list around it
    assert "give [H, W]" in data(plain.fp32, np.zeros((2, 3, 4, 5)))[0]["error"]


def test_a_live_network_answers_as_its_exported_file(plain, pictures):
    live = Network(plain.model, classes=CLASSES, task=CLASSIFICATION, preprocessing=ABOUT)
    for a, b in zip(data(live, pictures), data(plain.fp32, pictures), strict=True):
        assert a["label"] == b["label"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
    assert not plain.model.training


def test_a_run_folder_is_enough(plain, pictures):
    """Its int8 file is preferred: that is what ships."""
    assert plain.int8.name == "model-int8.onnx"
    assert data(plain.int8.parent, pictures) == data(plain.int8, pictures)


def test_a_run_that_is_not_finished_says_how_to_go_on(tmp_path):
    (tmp_path / "config.yaml").write_text("views: 1")
    with pytest.raises(PocketError, match=r"has no model yet.*--resume"):
        open_model(tmp_path)


def test_a_picture_of_another_size_is_reported_where_the_file_takes_one_size(with_picture, pictures):
    Image.fromarray(with_picture.pixels[0]).save(pictures / "z.png")
    results = data(with_picture.fp32, [pictures / "b.png", pictures / "z.png"])
    assert "exported for pictures of 45x30" in results[0]["error"]
    expected = OnnxModel(with_picture.fp32).outputs(with_picture.pixels[:1])
    assert results[1]["score"] == pytest.approx(float(expected.max()), abs=1e-6)


def sixteen_bit(plain, window):
    return Network(plain.model, classes=CLASSES, task=CLASSIFICATION, preprocessing=replace(ABOUT, window=window))


def test_sixteen_bit_pictures_need_the_models_window_or_one_that_is_given(plain, tmp_path):
    Image.fromarray(np.arange(0, 64000, 40, dtype=np.uint16).reshape(40, 40)).save(tmp_path / "a.png")
    assert "--window LOW,HIGH" in data(plain.fp32, tmp_path)[0]["error"]
    given = data(plain.fp32, tmp_path, window=(0, 64000))[0]
    known = data(sixteen_bit(plain, (0.0, 64000.0)), tmp_path)[0]
    assert given["score"] == pytest.approx(known["score"], abs=1e-5)


@pytest.mark.parametrize(("largest", "says"), [(4095, "fills only 8%"), (49823, None), (16000, None), (65535, "24%")])
def test_a_picture_of_another_depth_than_the_window_is_answered_with_a_warning(plain, caplog, largest, says):
    """Seen: "healthy 66.9 %" of a 12-bit picture that the window of 16-bit ones had made nearly black."""
    picture = np.linspace(0, largest, 50 * 50).reshape(50, 50).astype(np.uint16)
    found = data(sixteen_bit(plain, (0.0, 49823.0)), picture)[0]
    assert "label" in found
    assert (says or "") in found.get("warning", "")
    assert ("warning" in found) == (says is not None)
    assert ("warning" in caplog.text) == (says is not None)


def test_an_opened_image_of_pillow_is_read_as_its_file(plain, tmp_path):
    """Its 16 bits were once clipped to 8, its orientation and its transparency ignored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.arange(0, 64000, 40, dtype=np.uint16).reshape(40, 40)
    clear = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8))
    turned = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    palette = clear.convert("RGB").quantize(8)
    for name, image, options in (
        ("deep.png", Image.fromarray(deep), {}),
        ("clear.png", clear, {}),
        ("turned.png", turned, {"exif": exif}),
        ("palette.png", palette, {"transparency": 3}),
    ):
        image.save(tmp_path / name, **options)
        model = sixteen_bit(plain, (0.0, 64000.0))
        with Image.open(tmp_path / name) as opened:
            (given,), (file,) = data(model, opened), data(model, tmp_path / name)
        assert (given["label"], given["score"]) == (file["label"], file["score"]), name


def test_a_pipe_among_pictures_is_named_and_not_waited_for(plain, pictures):
    os.mkfifo(pictures / "pipe.png")
    found = {Path(one["file"]).name: one for one in data(plain.fp32, pictures)}
    assert "is no regular file" in found["pipe.png"]["error"]
    assert sum("label" in one for one in found.values()) == 3


def test_pictures_of_many_sizes_at_once_answer_as_one_by_one(plain):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 50), (32, 32), (9, 70))]
    model = OnnxModel(plain.int8)
    one_by_one = np.concatenate([model.label([picture]) for picture in pictures])
    np.testing.assert_array_equal(model.label(pictures), one_by_one)
    assert model.label([]).shape == (0, len(CLASSES))


@pytest.mark.parametrize("what", ["missing.png", "empty"])
def test_nothing_to_label_is_one_clear_message(plain, tmp_path, what):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PocketError, match=what):
        predict_images(plain.fp32, tmp_path / what)


def test_an_answer_that_is_no_number_is_refused(plain):
    broken = Network(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)),
        classes=CLASSES,
        task=CLASSIFICATION,
        preprocessing=ABOUT,
        name="student",
    )
    nn.init.constant_(broken.module[1].bias, float("nan"))
    with pytest.raises(PocketError, match="student answers with numbers that are not finite"):
        broken.probabilities(plain.pixels[:2])


def test_a_foreign_onnx_file_is_refused(plain, tmp_path):
    model = onnx.load(plain.fp32)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(PocketError, match="not exported by PocketViT"):
        open_model(tmp_path / "foreign.onnx")
    (tmp_path / "broken.onnx").write_bytes(plain.fp32.read_bytes()[:1000])
    with pytest.raises(PocketError, match="cannot open"):
        open_model(tmp_path / "broken.onnx")


def test_a_single_picture_of_any_kind_is_one_and_what_is_none_is_told(plain, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    (expected,) = predict_images(plain.int8, pixels)
    for single in (torch.from_numpy(pixels).permute(2, 0, 1), (tmp_path / "one.png").read_bytes(), [(pixels, 3)]):
        (found,) = predict_images(plain.int8, single)
        assert found.answer == expected.answer
    assert "is an array [] of object" in predict_images(plain.int8, [object()])[0].error
    assert "is an array [] of object" in predict_images(plain.int8, None)[0].error


def test_a_picture_of_no_numbers_is_not_answered(plain, tmp_path):
    pixels = np.full((20, 24), np.nan, np.float32)
    (found,) = predict_images(plain.int8, pixels, window=(0, 1))
    assert found.answer is None
    assert "not numbers" in found.error


def test_drawn_pictures_never_take_the_place_of_what_was_given(plain, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.jpg")
    before = (tmp_path / "mine.jpg").read_bytes()
    predict_images(plain.int8, tmp_path, save=tmp_path)
    assert (tmp_path / "mine.jpg").read_bytes() == before
    assert (tmp_path / "mine-2.jpg").is_file()
