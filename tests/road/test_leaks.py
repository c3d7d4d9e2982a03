"""Who is scored on images that it learned from is said to be; a run's own split is what it is measured on."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from walk_fakes import COLOURS, draw_photos

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.road.begin import with_leaks
from pocketvit.road.leaks import images_of, leak, learned_from, run_folder
from pocketvit.sources import open_images
from pocketvit.teachers import load_teacher


def test_images_that_were_learned_are_counted_by_their_pixels(photos, tmp_path):
    dataset = open_images(str(photos))
    assert learned_from(dataset, dataset.test) == 0
    copied = shutil.copytree(photos, tmp_path / "copied")
    other = open_images(str(copied), val_fraction=0).train
    assert learned_from(dataset, other) == len(dataset.train) + len(dataset.val)
    random = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    arrays = open_images((random, np.arange(9) % 3), val_fraction=0)
    assert learned_from(arrays, open_images((random[:4], np.arange(4) % 2), val_fraction=0).train) == 4


def test_a_run_is_found_by_any_of_its_names(walked, tmp_path):
    folder = walked.run.folder
    for name in (folder, str(folder), folder / "student", f"local-dir:{folder}", walked.run):
        assert run_folder(name) == folder
    assert run_folder("resnet18") is run_folder(tmp_path) is run_folder(walked.module) is None
    assert images_of(folder).test.names == open_images(walked.run.settings.images).test.names


def test_bench_takes_the_runs_own_split_and_names_what_was_learned_of_others(walked, photos, tmp_path, caplog):
    caplog.set_level("INFO", "pocketvit")
    pocketvit.bench(walked.run.folder, images=str(photos))
    assert "split as in" in caplog.text
    assert "learned from" not in caplog.text
    copied = shutil.copytree(photos, tmp_path / "copied")
    (copied / "more").mkdir()
    for name in COLOURS:  # as a test set of its own
        (copied / name).rename(copied / "more" / name)
    (copied / "more").rename(copied / "test")
    draw_photos(copied / "train", 2)
    row = pocketvit.bench(walked.run.folder, images=str(copied)).data["rows"][0]
    assert "learned from 54 of the 60 test images: its figures here are too good" in row["note"]


def test_a_teacher_that_learned_the_test_images_is_said(walked, photos):
    dataset = open_images(str(photos))
    assert with_leaks(dataset, (str(walked.run.folder), "resnet18")).notes == dataset.notes
    taught = dataset.train  # as if they were to be scored
    assert leak("it", walked.run.folder, taught) == (
        f"warning: it learned from {len(taught)} of the {len(taught)} train images: its figures here are too good"
    )
    assert leak("it", "resnet18", taught) is None


def test_a_run_without_a_student_is_no_teacher(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(PocketError, match=r"is a run without a student: it is not finished\. Give its command again"):
        load_teacher(str(tmp_path))
