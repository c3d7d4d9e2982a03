"""Labels for files and folders; a broken picture stops nothing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from PIL import Image

from pocketvit.deployment import OnnxModel, label_pictures, open_model, predict_images
from pocketvit.errors import PocketError
from pocketvit.models import LoadedModel

from .conftest import CLASSES, MEAN, STD


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for i, name in enumerate(["b.png", "a.JPG", "deep/c.png"]):
        pixels = np.random.default_rng(i).integers(0, 256, (40 + i, 33, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_folders_are_searched_in_sorted_order(plain, pictures):
    results = predict_images(plain.int8, [pictures / "b.png", pictures])
    assert [entry["file"] for entry in results] == [
        str(pictures / n) for n in ("b.png", "a.JPG", "b.png", "deep/c.png")
    ]
    assert results[0] == results[2]
    for entry in results:
        scores = [score for _, score in entry["topk"]]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert (entry["label"], entry["score"]) == tuple(entry["topk"][0])


def test_a_broken_picture_is_reported_and_the_others_go_on(plain, pictures):
    (pictures / "b.png").write_bytes((pictures / "b.png").read_bytes()[:100])
    (pictures / "deep" / "d.png").write_bytes(b"")
    results = predict_images(plain.fp32, pictures)
    assert ["error" in entry for entry in results] == [False, True, False, True]
    assert "empty" in results[3]["error"]
    assert all("label" in entry for entry in results if "error" not in entry)


def test_a_live_student_answers_as_its_exported_file(plain, pictures):
    student = LoadedModel(plain.model, CLASSES, MEAN, STD, input_size=32, config={})
    live, exported = predict_images(student, pictures), predict_images(plain.fp32, pictures)
    for a, b in zip(live, exported, strict=True):
        assert a["label"] == b["label"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)


def test_a_run_folder_is_enough(plain, pictures):
    """Its int8 file is preferred: that is what ships."""
    assert plain.int8.name == "model-int8.onnx"
    assert predict_images(plain.int8.parent, pictures) == predict_images(plain.int8, pictures)


def test_a_picture_of_another_size_is_reported_where_the_file_takes_one_size(with_picture, pictures):
    Image.fromarray(with_picture.pixels[0]).save(pictures / "z.png")
    results = predict_images(with_picture.fp32, [pictures / "b.png", pictures / "z.png"])
    assert "exported for pictures of 45x30" in results[0]["error"]
    expected = OnnxModel(with_picture.fp32).predict(with_picture.pixels[:1])
    assert results[1]["score"] == pytest.approx(float(expected.max()), abs=1e-6)


def test_sixteen_bit_pictures_need_a_window(plain, tmp_path):
    Image.fromarray(np.arange(0, 64000, 40, dtype=np.uint16).reshape(40, 40)).save(tmp_path / "a.png")
    assert "--window" in predict_images(plain.fp32, tmp_path)[0]["error"]
    assert "label" in predict_images(plain.fp32, tmp_path, window=(0, 64000))[0]


def test_pictures_of_many_sizes_at_once_answer_as_one_by_one(plain):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 50), (32, 32), (9, 70))]
    model = OnnxModel(plain.int8)
    one_by_one = np.concatenate([label_pictures(model, [picture]) for picture in pictures])
    np.testing.assert_array_equal(label_pictures(model, pictures), one_by_one)


@pytest.mark.parametrize("what", ["missing.png", "empty"])
def test_nothing_to_label_is_one_clear_message(plain, tmp_path, what):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PocketError, match=what):
        predict_images(plain.fp32, tmp_path / what)


def test_a_foreign_onnx_file_is_refused(plain, tmp_path):
    model = onnx.load(plain.fp32)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(PocketError, match="not exported by PocketViT"):
        open_model(tmp_path / "foreign.onnx")
    (tmp_path / "broken.onnx").write_bytes(plain.fp32.read_bytes()[:1000])
    with pytest.raises(PocketError, match="cannot open"):
        open_model(tmp_path / "broken.onnx")
