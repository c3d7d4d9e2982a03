"""Banks: what is made, that it is the same after a kill, what it says of itself, and that it is an ordinary source."""

import dataclasses
import json

import numpy as np
import pytest
import synthesis_fakes
import torch

import pocketvit.synthesis.drawn as drawn
from pocketvit.errors import PocketError
from pocketvit.sources import open_images
from pocketvit.synthesis import (
    DrawnConfig,
    InversionConfig,
    Noise,
    Priors,
    draw_bank,
    gallery,
    invert_bank,
    open_bank,
    push,
)
from pocketvit.synthesis.methods import Request, bank_cost, make_bank, words

QUIET = {"progress": False}


def test_a_drawn_bank_is_balanced_and_answered_as_it_is_stored(teacher, tmp_path):
    bank = draw_bank(tmp_path / "bank", teacher, DrawnConfig(90), **QUIET)
    assert bank.images.shape == (90, 16, 16, 3)
    assert np.bincount(bank.logits.argmax(1), minlength=3).min() >= 27
    pixels = torch.from_numpy(np.ascontiguousarray(bank.images.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(bank.logits, teacher.logits(pixels).numpy(), rtol=1e-2, atol=1e-2)
    assert bank.classes == synthesis_fakes.CLASSES


def test_a_bank_is_an_ordinary_source_that_says_what_it_is(teacher, tmp_path):
    bank = draw_bank(tmp_path / "toys", teacher, DrawnConfig(60), **QUIET)
    dataset = open_images(bank.file, progress=False)
    assert dataset.name == "toys"
    assert dataset.synthetic.startswith("data-free: no real image")
    assert not dataset.classes
    assert bank.dataset().synthetic == dataset.synthetic
    assert len(bank.dataset().train) == 60


def test_the_same_request_opens_the_bank_and_another_one_is_refused(teacher, tmp_path):
    first = draw_bank(tmp_path / "bank", teacher, DrawnConfig(30), **QUIET)
    again = draw_bank(tmp_path / "bank", teacher, DrawnConfig(30), **QUIET)
    np.testing.assert_array_equal(first.images, again.images)
    with pytest.raises(PocketError, match=r"asked for otherwise \(config\.images: 30 there, 40 here\)"):
        draw_bank(tmp_path / "bank", teacher, DrawnConfig(40), **QUIET)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cat.jpg").touch()
    with pytest.raises(PocketError, match="is not empty and holds no bank"):
        draw_bank(tmp_path / "other", teacher, DrawnConfig(30), **QUIET)


@pytest.mark.parametrize("method", ["drawn", "inverted"])
def test_a_killed_bank_goes_on_to_the_same_images(method, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(drawn, "CHUNK_PIXELS", 32 * 16**2)
    request = Request(method, 48)
    real, calls, last = type(teacher).logits, [], [0]

    def counted(self, pixels):
        calls.append(1)
        if len(calls) == last[0]:
            raise KeyboardInterrupt
        return real(self, pixels)

    monkeypatch.setattr(type(teacher), "logits", counted)
    whole = make_bank(tmp_path / "whole", teacher, request, **QUIET)
    last[0] = len(calls)  # the second time it is killed shortly before the end
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        make_bank(tmp_path / "killed", teacher, request, **QUIET)
    with pytest.raises(PocketError, match=r"not finished|holds no bank"):
        open_bank(tmp_path / "killed")
    monkeypatch.setattr(type(teacher), "logits", real)
    resumed = make_bank(tmp_path / "killed", teacher, request, **QUIET)
    np.testing.assert_array_equal(resumed.images, whole.images)
    np.testing.assert_array_equal(resumed.logits, whole.logits)
    assert not list((tmp_path / "killed").glob("*-??????.npz"))


def test_noise_is_not_chosen(teacher, tmp_path):
    bank = make_bank(tmp_path / "noise", teacher, Request("noise", 20), **QUIET)
    np.testing.assert_array_equal(bank.images.transpose(0, 3, 1, 2), Noise(0, 16).take(np.arange(20)))


def test_pictures_of_a_class_that_is_hardly_seen_are_moved_to_it(teacher, tmp_path):
    bank = draw_bank(tmp_path / "bank", teacher, DrawnConfig(60, looked_at=1.01, steps=10), **QUIET)
    assert np.bincount(bank.logits.argmax(1), minlength=3).min() >= 18
    assert set(bank.origin.tolist()) == {0, 1}
    moved = bank.provenance["made"]["moved"]
    assert moved == bank.origin.sum() > 0
    assert f"{moved:,} moved to a class that is hardly seen" in words(bank)[-1]


def test_a_teacher_that_no_gradient_passes_through_has_its_pictures_drawn_all_the_same(teacher, tmp_path, caplog):
    plain = DrawnConfig(60, looked_at=1.01, steps=0)
    still = draw_bank(tmp_path / "still", teacher, plain, **QUIET)
    cut = synthesis_fakes.teacher_of(synthesis_fakes.Cut(teacher.module).eval())
    caplog.set_level("INFO", "pocketvit")
    bank = draw_bank(tmp_path / "cut", cut, dataclasses.replace(plain, steps=8), **QUIET)
    assert "no gradient passes through" in caplog.text
    np.testing.assert_array_equal(bank.images, still.images)


def test_a_push_ends_behind_the_border_and_moves_little(teacher):
    pixels = torch.from_numpy(Noise(0, 16).take(np.arange(6)))
    targets = teacher.logits(pixels).topk(2).indices[:, 1]
    moved = push(teacher, pixels, targets, steps=20)
    assert moved.reached.all()
    assert (teacher.logits(moved.images).argmax(1) == targets).all()
    assert (moved.images.int() - pixels.int()).abs().max() <= 40


def test_inversion_brings_images_nearer_to_what_batchnorm_keeps(teacher, tmp_path):
    start = draw_bank(tmp_path / "start", teacher, DrawnConfig(48, looked_at=1), candidates=Noise(0, 16), **QUIET)
    bank = invert_bank(tmp_path / "bank", teacher, InversionConfig(48, steps=40), start=start, **QUIET)

    def divergence(images):
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255
        with Priors(teacher) as priors, torch.no_grad():
            logits = teacher.differentiable(pixels)
            return float(priors(pixels, logits.sum(), logits.argmax(1))[1]["statistics"])

    # A third of it is left as a rule; how much depends on the teacher, whose training rounds otherwise on each machine.
    assert divergence(bank.images) < 0.75 * divergence(start.images)
    assert "moments of 2 BatchNorm layers" in words(bank)[0]


def test_priors_go_by_what_the_teacher_is_made_of():
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(PocketError, match=r"neither BatchNorm.*--method drawn"):
        Priors(synthesis_fakes.teacher_of(plain, classes=None))
    grouped = synthesis_fakes.teacher_of(synthesis_fakes.ColourNet(synthesis_fakes.group_norm))
    with Priors(grouped) as priors:
        assert "equal shares of channels in 2 LayerNorm or GroupNorm layers" in priors.words
    assert not any(module._forward_pre_hooks for module in grouped.module.modules())


def test_real_images_are_counted_and_named(teacher, tmp_path):
    few = open_images((np.random.default_rng(1).integers(0, 256, (5, 20, 20, 3), np.uint8), None), val_fraction=0)
    bank = make_bank(tmp_path / "bank", teacher, Request("inverted", 24, data=few.train), **QUIET)
    assert words(bank)[0] == "NOT data-free: made with 5 real images"
    with pytest.raises(PocketError, match="is a control and takes no --data"):
        Request("noise", data=few.train)


def test_classes_that_the_teacher_never_sees_are_named(teacher, tmp_path):
    bank = draw_bank(tmp_path / "bank", teacher, DrawnConfig(90), **QUIET)
    assert not any("in no image" in line for line in words(bank))
    without = dataclasses.replace(bank, logits=np.where(np.arange(bank.logits.shape[1]) == 1, -9, bank.logits))
    named = f"does the teacher see {synthesis_fakes.CLASSES[1]} (1 of {len(synthesis_fakes.CLASSES)} classes)"
    assert any(named in line for line in words(without))
    hint = f"the teacher hardly sees {synthesis_fakes.CLASSES[1]} in them"
    assert not any(hint in line for line in words(without))  # said already
    few = dataclasses.replace(bank, logits=np.where(np.arange(90)[:, None] > 0, without.logits, np.eye(3)[1] * 9))
    assert any(hint in line for line in words(few))
    assert not any("hardly sees" in line for line in words(bank))


def test_the_page_shows_every_class_and_what_was_used(teacher, tmp_path):
    bank = draw_bank(tmp_path / "bank", teacher, DrawnConfig(30), **QUIET)
    page = gallery(bank, tmp_path / "bank" / "gallery.png", words(bank)).read_text(encoding="utf-8")
    for name in (*synthesis_fakes.CLASSES, "no real image"):
        assert name in page
    record = json.loads((tmp_path / "bank" / "bank.json").read_text())
    assert record["provenance"]["teacher"]["preprocessing"]["input_size"] == 16
    assert record["made"]["looked_at"] >= 30


def test_a_plan_costs_more_for_what_is_optimized(teacher):
    costs = [bank_cost(teacher, Request(method, 1000)) for method in ("noise", "inverted")]
    assert 0 < costs[0][1] < costs[1][1]
