"""Labels in bfloat16 where that is faster, answers alike, and is worth it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from walk_fakes import SIDE, Own, run_config

from pocketvit.config import LabelConfig, TrainConfig
from pocketvit.labels import teacher_key, verify
from pocketvit.road import arithmetic, synthesize
from pocketvit.road.arithmetic import in_fast_arithmetic
from pocketvit.road.base import Walk
from pocketvit.road.label import label_road
from pocketvit.settings import Distill
from pocketvit.synthesis.methods import Request
from pocketvit.teachers import load_teacher


@pytest.fixture
def teacher():
    return load_teacher(Own(), input_size=SIDE, norm="half", classes=("blue", "green", "red"))


@pytest.fixture
def seconds(monkeypatch):
    """What an image is said to take in each precision."""
    told = {"fp32": 30.0, "bf16": 10.0}
    monkeypatch.setattr(arithmetic, "_FEWEST", 32)
    monkeypatch.setattr(arithmetic, "_timed", lambda one, pixels: (one.logits(pixels), told[one.precision]))
    return told


def config(precision: str = "auto"):
    train = TrainConfig(epochs=1, precision=precision)  # type: ignore[arg-type]
    return dataclasses.replace(run_config(train=train), labels=LabelConfig(views=2))


def test_where_labelling_is_long_and_bfloat16_faster_it_is_taken_and_said(road, teacher, seconds, caplog):
    caplog.set_level("INFO", logger="pocketvit")
    (chosen,) = in_fast_arithmetic([teacher], road, config())
    assert chosen.precision == "bf16"
    assert teacher.precision == "fp32"  # whose figures are in the table
    assert "3.0 times as fast as in fp32" in caplog.text
    pixels = road.views.render(torch.arange(4).numpy(), 0).pixels
    torch.testing.assert_close(chosen.logits(pixels), teacher.logits(pixels), atol=0.05, rtol=0.05)
    assert chosen.logits(pixels).dtype == torch.float32


@pytest.mark.parametrize(
    "told", [{"fp32": 0.001, "bf16": 0.0001}, {"fp32": 30.0, "bf16": 25.0}, {"fp32": 30.0, "bf16": 300.0}]
)
def test_short_work_and_small_gains_stay_as_they_are(road, teacher, seconds, told):
    seconds.update(told)
    assert in_fast_arithmetic([teacher], road, config()) == [teacher]


def test_who_asks_for_fp32_gets_it(road, teacher, seconds):
    assert in_fast_arithmetic([teacher], road, config("fp32")) == [teacher]


def test_answers_that_are_off_stay_in_fp32(road, teacher, seconds, monkeypatch):
    right = type(teacher).logits
    noise = {"fp32": 0.0, "bf16": 1.0}
    monkeypatch.setattr(
        type(teacher), "logits", lambda one, x: (y := right(one, x)) + noise[one.precision] * y.std() * y.sign()
    )
    assert in_fast_arithmetic([teacher], road, config()) == [teacher]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_stored_already_decides_and_is_replayed(road, teacher, seconds, precision):
    chosen = config()
    store = label_road(road, [teacher.in_precision(precision)], chosen.labels)
    seconds.update({"fp32": 10.0, "bf16": 30.0} if precision == "bf16" else {"fp32": 30.0, "bf16": 10.0})
    (again,) = in_fast_arithmetic([teacher], road, chosen)
    assert again.precision == precision
    assert store.key(again) == teacher_key(again)
    assert [one.records for one in verify(store, road.dataset.train, road.views, [again], 4)] == [4]


def test_drawn_pictures_are_chosen_in_bfloat16_and_found_again(teacher, seconds, tmp_path):
    request = Request("drawn", 12, None, seed=0)
    walk = Walk(Distill(data_free=True, teacher=teacher, images=None), config(), tmp_path / "runs" / "a-1")
    walk.specs = [teacher]
    seconds.update({"fp32": 1.0, "bf16": 0.1})
    first = synthesize._made(walk, request)
    assert first.provenance["provenance"]["teacher"]["precision"] == "bf16"
    seconds.update({"fp32": 0.1, "bf16": 1.0})  # as on a machine that is busy by turns
    assert synthesize._made(walk, request).folder == first.folder
