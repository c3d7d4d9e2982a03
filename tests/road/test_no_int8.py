"""An int8 file that is not good enough costs no training, and what judges it is said."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest

from pocketvit.errors import NotSmaller, PocketError
from pocketvit.road import rounding, ship
from pocketvit.road.rounding import Rounding, calibrating, file_score
from pocketvit.tasks import task_named


@pytest.fixture
def refused(monkeypatch):
    """A network whose int8 file is refused; returns what device.zip was packed of."""
    packed = []

    def refuse(*_args, **_kwargs):
        raise NotSmaller("the int8 file is 9 points below fp32.")

    monkeypatch.setattr(ship, "save_model", lambda *_, **__: None)
    monkeypatch.setattr(ship, "export_onnx", lambda *_, **__: None)
    monkeypatch.setattr(ship, "check_parity", lambda *_: types.SimpleNamespace(text=lambda: "the same"))
    monkeypatch.setattr(ship, "write_int8", refuse)
    monkeypatch.setattr(ship, "write_device_zip", lambda _, file: packed.append(file.name))
    return packed


def write(road, folder, **asked):
    from walk_fakes import make_own

    return ship.write_student(make_own(), road, folder, road.input, Rounding(**asked))


def test_the_fp32_file_ships_where_no_int8_file_is_good_enough(refused, road, tmp_path):
    (tmp_path / ship.INT8).write_bytes(b"of an earlier attempt")
    told = write(road, tmp_path)
    assert told == "none, for the int8 file is 9 points below fp32. The fp32 file ships"
    assert refused == [ship.FP32]
    assert ship.shipped(tmp_path).name == ship.FP32


def test_who_asked_for_an_int8_file_is_told_what_to_do(refused, road, tmp_path):
    with pytest.raises(PocketError, match=r"9 points below fp32\. Take more\."):
        write(road, tmp_path, asked="Take more.")
    assert refused == []


def test_labels_that_have_no_auc_are_judged_by_their_accuracy():
    several = types.SimpleNamespace(task=task_named("multilabel"))
    same = types.SimpleNamespace(targets=np.array([[1, 0], [1, 0]]))
    both = types.SimpleNamespace(targets=np.array([[1, 0], [0, 1]]))
    given = np.array([[0.9, 0.2], [0.3, 0.6]], np.float32)
    assert rounding._field(several, same, given) == "val_accuracy"
    assert rounding._field(several, both, given) == "val_auc"
    one = types.SimpleNamespace(task=task_named("classification"))
    assert rounding._field(one, types.SimpleNamespace(targets=np.array([-1, -1])), given) == ""


def test_too_few_validation_images_are_not_asked(road, monkeypatch):
    monkeypatch.setattr(rounding, "file_answers", lambda _: lambda pixels: pixels.float().mean((2, 3)).numpy())
    monkeypatch.setattr(rounding, "save_int8", lambda *_: "graph.onnx")
    monkeypatch.setattr(rounding, "_copy", lambda graph: graph)
    score, words = file_score(road, None, "model.onnx")
    seen = " on 240 views of 48 training images, by fp32's own probabilities"
    assert words == f"{seen} (6 validation images are too few)"
    assert score(None) == 1.0


def test_synthetic_images_are_not_called_real(road):
    bank = dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, synthetic="drawn"))
    assert calibrating(road).text() == "48 real images"
    assert calibrating(bank).text() == "48 synthetic images"
