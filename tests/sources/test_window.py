"""The window: robust, from training images only, said aloud; images that differ by orders of magnitude are named."""

from __future__ import annotations

import os

import numpy as np
import pytest
from drawn_files import dicom
from PIL import Image

from pocketvit import PocketError
from pocketvit.sources import open_folds, open_images
from pocketvit.sources.arrays import list_arrays
from pocketvit.sources.assemble import assemble


def deep(count: int = 40, top: int = 4095, shape: tuple[int, ...] = (40, 40)) -> np.ndarray:
    return np.random.default_rng(0).integers(100, top, (count, *shape), endpoint=True).astype(np.uint16)


def window_note(dataset) -> str:
    (note,) = (note for note in dataset.notes if note.startswith("intensity window"))
    return note


def test_a_few_marked_pixels_leave_the_others_their_grey_levels():
    """One image with a 65535 marker once left 12-bit images 16 of 256 levels."""
    images = deep()
    images[3, 0, 0] = 65535
    dataset = open_images((images, [0, 1] * 20))
    low, high = dataset.train.window
    assert 100 <= low < 150
    assert 4000 < high <= 4095
    assert len(np.unique(dataset.train.rgb(np.arange(5)))) > 250
    assert "(0.1% to 99.9% of the pixels of each of 32 16-bit grey training images)" in window_note(dataset)
    assert "choose another with --window LOW,HIGH" in window_note(dataset)


def test_an_image_of_another_depth_is_named_and_left_out_of_account():
    images = deep()
    images[[5, 7]] = deep(2, 65535)
    dataset = open_images((images, [0, 1] * 20), val_fraction=0)
    assert dataset.train.window[1] <= 4095
    (warning,) = (note for note in dataset.notes if note.startswith("warning: intensities differ by orders"))
    assert "5 (65" in warning
    assert "7 (65" in warning
    assert not any("orders of magnitude" in note for note in open_images((deep(), [0, 1] * 20)).notes)


def test_a_few_bright_images_do_not_dim_the_others():
    """Exposures of a fluorescence microscope: the middle image had 36 of 256 grey levels."""
    rng = np.random.default_rng(0)
    bright = np.exp(0.7 * rng.normal(size=(120, 1, 1)))
    bright[:3] = 7
    images = (1000 * bright * rng.random((120, 40, 40))).astype(np.uint16)
    dataset = open_images((images, [0, 1] * 60))
    levels = [len(np.unique(dataset.train.rgb(np.array([row])))) for row in range(len(dataset.train))]
    assert np.median(levels) > 75
    assert "images reach beyond it and are clipped" in window_note(dataset)


def test_test_images_do_not_decide_the_window():
    images = deep(20, 2000)
    pairs = {"train": (images, np.arange(20) % 2), "test": (deep(4, 9000), np.arange(4) % 2)}
    dataset = assemble(list_arrays("scans", pairs), val_fraction=0, seed=0, window=None)
    assert dataset.train.window == dataset.test.window
    assert dataset.test.window[1] <= 2000
    assert "4 of 24 images reach beyond it and are clipped" in window_note(dataset)
    other = dict(pairs, test=(deep(4, 160), np.arange(4) % 2))
    again = assemble(list_arrays("scans", other), val_fraction=0, seed=0, window=None)
    assert again.train.fingerprint == dataset.train.fingerprint


def test_a_given_window_says_how_many_images_it_clips():
    dataset = open_images((deep(), [0, 1] * 20), window=(0, 3000))
    assert dataset.train.window == (0, 3000)
    assert "40 of 40 images reach beyond it" in window_note(dataset)


def test_opacity_is_no_intensity():
    """The alpha channel of a 16-bit image must not stretch the window."""
    images = np.full((20, 4, 4, 4), 65535, np.uint16)
    images[..., :3] = np.random.default_rng(0).integers(100, 2000, (20, 4, 4, 3))
    assert open_images((images, [0, 1] * 10)).train.window[1] <= 2000


def test_dicom_says_its_own_window_and_its_patients_stay_on_one_side(tmp_path):
    def write(width: int) -> None:
        for number in range(40):
            folder = tmp_path / ("ill" if number // 4 % 2 else "well")
            folder.mkdir(exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 4096, (8, 8)).astype(np.uint16)
            tags = {"WindowCenter": 1000, "WindowWidth": 401 + width * (number % 2), "RescaleIntercept": -1024}
            data = dicom(pixels, bits=12, patient=f"P{number // 2}", RescaleSlope=1, **tags)
            (folder / f"{number}.dcm").write_bytes(data)

    write(0)
    dataset = open_images(tmp_path)
    assert dataset.train.window == (799.5, 1199.5)
    assert "that of the tags of all" in window_note(dataset)
    assert (dataset.group, len(dataset.group_names)) == ("PatientID", 20)
    homes = [set(source.groups.tolist()) for source in dataset.splits.values()]
    assert sum(map(len, homes)) == len(set.union(*homes)) == 20
    assert "20 groups (PatientID): none is on both sides of a split" in dataset.notes
    assert {kind for kind in dataset.checks.modes} == {"DICOM, int16 grey"}
    write(100)
    mixed = open_images(tmp_path)
    assert "the windows of their tags differ and are not used" in window_note(mixed)
    assert mixed.train.window[0] < -1000


def test_folds_have_one_window_and_an_empty_one_is_refused(photos):
    root = photos("cat", "dog")
    for number in range(10):
        for label in ("cat", "dog"):
            Image.fromarray(deep(1, 4000 - 100 * number)[0]).save(root / label / f"deep{number}.png")
    assert len({dataset.train.window for dataset in open_folds(root, 3)}) == 1
    with pytest.raises(PocketError, match="LOW below HIGH"):
        open_images(root, window=(2, 0))


def test_dicom_needs_no_ending(tmp_path):
    """As scanners' discs have it: IM0001, a UID for a name, and the disc's own list, which is no image."""
    for label in ("lesion", "normal"):
        (tmp_path / label).mkdir()
        for number in range(6):
            name = f"IM{number:04}" if number % 2 else f"1.2.840.{number}"
            pixels = np.random.default_rng(number + 6 * (label == "normal")).integers(0, 4096, (8, 8)).astype(np.uint16)
            (tmp_path / label / name).write_bytes(dicom(pixels, patient=f"{label}{number // 2}"))
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "README").write_text("no image")
    if hasattr(os, "mkfifo"):  # what nobody writes to is not waited for
        os.mkfifo(tmp_path / "lesion" / "IM0099")
    dataset = open_images(tmp_path, val_fraction=0.2)
    assert sum(map(len, (source for source in dataset.splits.values() if source is not None))) == 12
    assert dataset.group == "PatientID"
