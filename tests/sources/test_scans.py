"""A clinic's folder: TIFFs of mixed sizes and depths and one stack, with a table, grouped by patient, in folds."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tifffile

from pocketvit.sources import open_folds, open_images, pack_dataset


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Return the folder and the table of 60 scans of 15 patients."""
    folder = tmp_path_factory.mktemp("scans")
    generator = np.random.default_rng(0)
    rows = [("file", "label", "patient")]
    for number in range(60):
        height, width = generator.integers(20, 40, 2)
        pixels = generator.integers(0, 256, (height, width, 3)).astype(np.uint16)
        image = (pixels[..., 0] * 200, pixels * 200, pixels.astype(np.uint8), pixels[..., 0].astype(np.uint8))[
            number % 4
        ]
        if number == 33:
            image = np.stack([pixels[..., 0]] * 3)
        colour = image.ndim == 3 and image.shape[-1] == 3
        tifffile.imwrite(folder / f"{number:02}.tif", image, photometric="rgb" if colour else "minisblack")
        rows.append((f"{number:02}.tif", "sick" if number // 4 % 3 == 0 else "well", f"P{number // 4}"))
    table = tmp_path_factory.mktemp("table") / "scans.csv"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder, table


def test_five_folds_of_whole_patients_with_one_window_and_the_stack_refused_by_name(scans):
    folder, table = scans
    folds = open_folds(folder, 5, labels=table, group="patient")
    assert sum(len(dataset.test) for dataset in folds) == 59
    homes = [set(dataset.test.groups.tolist()) for dataset in folds]
    assert sum(map(len, homes)) == len(set.union(*homes)) == 15
    for dataset in folds:
        assert dataset.checks.broken == (
            ("33.tif", "is a stack of 3 pages; save the one you mean as a file of its own, or delete it"),
        )
        assert dataset.train.window == (0, 51000)
        assert any(
            "choose another with --window LOW,HIGH; the 30 8-bit images stay as they are" in n for n in dataset.notes
        )
        assert dataset.research


def test_eight_bit_scans_are_not_windowed_and_deep_ones_are(scans):
    folder, table = scans
    source = open_images(folder, labels=table, val_fraction=0).train
    rows = {name: row for row, name in enumerate(source.names)}
    plain, deep = rows["02.tif"], rows["01.tif"]
    assert np.array_equal(source.rgb(np.array([plain]))[0], source[plain][0])
    assert source[deep][0].dtype == np.uint16
    assert np.array_equal(source.rgb(np.array([deep]))[0], source[deep][0] // 200)


def test_tiles_of_mixed_scans_are_packed_in_their_depth(scans, tmp_path):
    folder, table = scans
    dataset = open_images(folder, labels=table, group="patient", tile=16)
    packed = pack_dataset(dataset, tmp_path)
    some = np.arange(0, len(dataset.train), 7)
    assert np.array_equal(packed.train.rgb(some), dataset.train.rgb(some))
    assert {packed.train[position][0].dtype.name for position in range(len(packed.train))} == {"uint8", "uint16"}
    assert np.array_equal(packed.train.groups, dataset.train.groups)
