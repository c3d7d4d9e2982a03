"""Where a mirrored picture of one class is one of another, images are not mirrored unasked; elsewhere they are."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
from PIL import Image
from walk_fakes import CHOICES, Own

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.road import mirrors
from pocketvit.road.decide import decide_view
from pocketvit.road.viewing import view_config
from pocketvit.rundir import Run
from pocketvit.settings import Compare, Distill, Label, Train
from pocketvit.sources import open_images

SIDE = 24


def gratings(*angles, each=20, seed=0):
    """Stripes of any phase, wide or narrow, in noise; a class per angle."""
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    pictures = []
    for angle in np.repeat(np.deg2rad(angles), each) + rng.normal(0, 0.05, each * len(angles)):
        wave = rng.uniform(0.5, 1.1) * (right * np.cos(angle) + down * np.sin(angle)) + rng.uniform(0, 7)
        pictures.append(128 + 60 * np.sin(wave) + rng.normal(0, 20, (SIDE, SIDE)))
    return np.stack(pictures).clip(0, 255).astype(np.uint8), np.repeat(np.arange(len(angles)), each)


def animals(each=40, seed=0):
    """All look left: a head there, and ears on it (0) or a tail at the other end (1)."""
    rng = np.random.default_rng(seed)
    pictures = []
    for kind in np.repeat((0, 1), each):
        picture = np.full((SIDE, SIDE), 60.0)
        top, left = rng.integers(9, 13), rng.integers(2, 5)
        picture[top : top + 6, left + 4 : left + 15] = 200
        picture[top - 3 : top + 2, left : left + 5] = 200
        if kind == 0:
            picture[top - 6 : top - 3, left + 1 : left + 3] = 200
        else:
            picture[top - 4 : top, left + 14 : left + 16] = 200
        pictures.append(picture + rng.normal(0, 20, picture.shape))
    return np.stack(pictures).clip(0, 255).astype(np.uint8), np.repeat((0, 1), each)


def opened(images, labels, **changes):
    return dataclasses.replace(open_images((images, labels), progress=False), **changes)


def decided(dataset, **asked):
    return mirrors.with_safe_flips(Distill("x", **asked), dataset)


def test_classes_that_change_places_in_the_mirror_are_not_mirrored_and_it_is_said_which():
    settings, notes = decided(opened(*gratings(30, -30, 0)))
    assert (settings.flip, settings.vertical_flip) == (False, None)
    assert len(notes) == 1
    assert "no flips: mirrored" in notes[0]
    assert "('0' for '1', and the other way round). --flip brings them back" in notes[0]
    assert decide_view(settings, opened(*gratings(30, -30, 0)), 50)[1].flip == 0


@pytest.mark.parametrize(
    "images", [gratings(0, 90), gratings(0, 45), animals(), (gratings(30, -30)[0], np.arange(40) % 2)]
)
def test_what_looks_the_same_or_another_way_or_cannot_be_told_apart_is_mirrored_as_before(images):
    dataset = opened(*images)
    assert decided(dataset) == (Distill("x"), [])
    assert decide_view(Distill("x"), dataset, 50)[1].flip == 0.5


def test_classes_that_are_mirrored_copies_in_the_images_themselves_stay_mirrored():
    images, labels = gratings(30, -30)
    both = np.concatenate([images, images[:, :, ::-1]]), np.concatenate([labels, labels])
    assert decided(opened(*both)) == (Distill("x"), [])


@pytest.mark.parametrize("aspect", ["crop", "pad", "stretch"])
def test_large_files_are_looked_at_in_small_and_as_views_show_them(tmp_path, aspect):
    for number, (pixels, label) in enumerate(zip(*gratings(30, -30, each=12), strict=True)):
        folder = tmp_path / "leaning" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((400, 300)).save(folder / f"{number}.jpg")
    assert decided(open_images(tmp_path / "leaning", progress=False), aspect=aspect)[0].flip is False


def test_a_few_images_of_a_class_say_nothing():
    assert decided(opened(*gratings(30, -30, each=7)))[1] == []


def test_what_is_turned_over_unasked_is_looked_at_in_either_direction_and_then_not_transposed():
    dataset = opened(*gratings(30, -30), modality="microscopy")
    settings, notes = decided(dataset)
    assert (settings.flip, settings.vertical_flip) == (False, False)
    assert "no vertical flips: upside down" in notes[1]
    assert "--vertical-flip brings them back" in notes[1]
    assert decide_view(settings, dataset, 50)[1].transpose == 0
    assert view_config(dataset).transpose == 0.5


@pytest.mark.parametrize(
    ("asked", "changes"),
    [
        ({"flip": True}, {}),
        ({"flip": False}, {}),
        ({"augment": "none"}, {}),
        ({}, {"modality": "xray"}),
        ({}, {"synthetic": "data-free"}),
    ],
)
def test_nothing_is_asked_where_nothing_is_open(monkeypatch, asked, changes):
    monkeypatch.setattr(mirrors, "_pixels", None)
    assert decided(opened(*gratings(30, -30), **changes), **asked) == (Distill("x", **asked), [])


def test_images_without_labels_or_with_several_are_left_alone():
    images, labels = gratings(30, -30)
    several = np.stack([labels, np.ones_like(labels)], 1)  # of every image the second one, too
    assert decided(opened(images, several)) == (Distill("x"), [])
    some = opened(images, labels)
    some.train.targets = np.full(len(some.train), -1)
    assert decided(some)[1] == []


def test_every_verb_that_trains_on_views_decides_alike():
    dataset = opened(*gratings(30, -30))
    for kind in (Train, Label, Compare):
        assert mirrors.with_safe_flips(kind("x"), dataset)[0].flip is False


def test_a_run_writes_it_down_and_goes_on_with_it_without_asking_again(tmp_path, monkeypatch, caplog):
    images, labels = gratings(30, -30)
    np.savez(tmp_path / "g.npz", train_images=images, train_labels=labels)
    images = tmp_path / "g.npz"
    asked = {"teacher": Own(), "out": tmp_path, "name": "g", "baseline": False, **CHOICES}

    def stop(*_):
        raise PocketError("stopped")

    monkeypatch.setattr("pocketvit.road.begin.walk", stop)
    with caplog.at_level(logging.INFO), pytest.raises(PocketError, match="stopped"):
        pocketvit.distill(images, **asked)
    assert "no flips: mirrored" in caplog.text
    assert Run(tmp_path / "g-1").settings.flip is False
    monkeypatch.setattr(mirrors, "_pixels", None)
    with pytest.raises(PocketError, match="stopped"):
        pocketvit.distill(images, resume=True, **asked)
    assert not (tmp_path / "g-2").exists()


def test_a_plan_says_it(tmp_path):
    told = pocketvit.distill(gratings(30, -30), teacher="none", out=tmp_path, plan=True, epochs=1)
    assert "--flip brings them back" in str(told)
