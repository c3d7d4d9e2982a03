"""CSV tables: columns are found, names are resolved without guessing, what does not fit is named."""

from __future__ import annotations

import pytest

from pocketvit import PocketError
from pocketvit.sources import open_images


@pytest.fixture
def scans(photos, tmp_path):
    """Ten scans in one folder, and a function that writes a table and opens both."""
    folder = photos("scans", folder=tmp_path) / "scans"

    def opened(text, **options):
        (tmp_path / "scans.csv").write_text(text, encoding="utf-8")
        return open_images(folder, labels=tmp_path / "scans.csv", val_fraction=0, **options)

    return opened


def rows(end=".png", mark=","):
    return "\n".join(f"{index:03}{end}{mark}{'sick' if index % 3 == 0 else 'well'}" for index in range(10))


@pytest.mark.parametrize(
    "text",
    [
        "file,label\n" + rows(),
        rows(),
        "Image;Diagnosis\r\n" + rows(mark=";").replace("\n", "\r\n") + "\r\n\r\n",
        "\ufeffimage_id,class\n" + rows(end=""),
        "path\ttarget\n" + rows(mark="\t"),
        "label,file\n" + "\n".join(",".join(reversed(row.split(","))) for row in rows().split("\n")),
        "file,label\n" + "\n".join(reversed(rows().split("\n"))),
    ],
)
def test_headings_delimiters_endings_and_order_are_understood(scans, text):
    dataset = scans(text)
    assert dataset.classes == ("sick", "well")
    assert dataset.train.targets.tolist() == [0, 1, 1, 0, 1, 1, 0, 1, 1, 0]
    assert dataset.train.fingerprint == scans("file,label\n" + rows()).train.fingerprint


def test_a_split_column_is_kept(scans):
    text = "file,label,split\n" + "\n".join(
        f"{row},{'valid' if i > 6 else 'train'}" for i, row in enumerate(rows().split("\n"))
    )
    dataset = scans(text)
    assert dataset.val.names == ["007.png", "008.png", "009.png"]


def test_a_table_beside_its_images_opens_by_itself(photos, tmp_path):
    photos("scans", folder=tmp_path)
    (tmp_path / "scans.csv").write_text("file,label\n" + "\n".join(f"scans/{row}" for row in rows().split("\n")))
    assert len(open_images(tmp_path / "scans.csv", val_fraction=0).train) == 10


def test_numbers_sort_as_numbers(scans):
    assert scans("file,label\n" + "\n".join(f"{i:03}.png,{i + 1}" for i in range(10))).classes == tuple(
        str(i + 1) for i in range(10)
    )


def test_what_is_missing_on_either_side_is_said(scans):
    dataset = scans("file,label\n" + "\n".join(rows().split("\n")[:8]) + "\ngone.png,well\n009.png,\n")
    assert dataset.checks.broken == (("gone.png", "is named in scans.csv but is not there"),)
    assert any("1 images in scans are not in scans.csv" in note for note in dataset.notes)
    assert any("1 images have no label" in note for note in dataset.notes)
    assert dataset.train.targets[-1] == -1


def test_images_without_a_label_are_never_held_out(photos, tmp_path):
    folder = photos("scans", folder=tmp_path, count=40) / "scans"
    table = "file,label\n" + "\n".join(f"{i:03}.png,{'' if i % 2 else 'ab'[i % 4 // 2]}" for i in range(40))
    (tmp_path / "t.csv").write_text(table)
    dataset = open_images(folder, labels=tmp_path / "t.csv")
    assert (dataset.val.targets >= 0).all()
    assert (dataset.test.targets >= 0).all()
    assert dataset.checks.counts["train"][""] == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no two columns"),
        ("a,b\n1,2\n", "has the columns a, b: name the one with the files 'file'"),
        ("file,label\nx.png,sick\n", r"none of the 1 files .* is in .*\(x\.png for one\)"),
        ("file,label\n000.png,sick\n000.png,well\n", r"000\.png the label 'sick' in line 2 and 'well' in line 3"),
        ("file,label\n000.png\n", "line 2 has 1 columns of 2"),
        ("file,label\n000.png,sick\n001.png,sick\n", "one label only, 'sick'"),
        ("file,label,split\n000.png,sick,later\n", "split 'later': use train, val or test"),
    ],
)
def test_tables_that_cannot_be_used_say_where_and_what_to_do(scans, text, message):
    with pytest.raises(PocketError, match=message):
        scans(text)


def test_a_name_that_fits_two_files_is_not_guessed(photos, tmp_path):
    folder = photos("left", "right", count=3, folder=tmp_path / "eyes")
    (tmp_path / "t.csv").write_text("file,label\n000.png,a\nleft/001.png,a\nright/001.png,b\n")
    dataset = open_images(folder, labels=tmp_path / "t.csv", val_fraction=0)
    assert dataset.checks.broken == (("000.png", "fits several files; give its folder"),)
    assert len(dataset.train) == 2


def test_a_table_that_is_missing_or_goes_with_no_folder_is_refused(photos, tmp_path):
    folder = photos("scans") / "scans"
    with pytest.raises(PocketError, match=r"there is no .*no\.csv"):
        open_images(folder, labels=tmp_path / "no.csv")
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(PocketError, match="need a folder of images"):
        open_images(tmp_path / "a.npz", labels=tmp_path / "no.csv")


def several(count=10):
    return "\n".join(f"{i:03}.png,{int(i % 3 == 0)},{int(i % 2 == 0)},{50 + i}" for i in range(count))


def test_columns_of_0_and_1_are_several_labels_an_image(scans):
    dataset = scans("file,edema,fracture,age\n" + several())
    assert dataset.classes == ("edema", "fracture")
    assert dataset.task == "multilabel"
    assert dataset.train.targets.tolist() == [[int(i % 3 == 0), int(i % 2 == 0)] for i in range(10)]
    assert any("2 labels per image, 0 or 1 each: edema, fracture" in note for note in dataset.notes)


def test_one_label_column_is_preferred_to_columns_of_0_and_1(scans):
    text = "file,label,smoker,female\n" + "\n".join(f"{row},0,1" for row in rows().split("\n"))
    assert scans(text).classes == ("sick", "well")


def test_columns_of_which_each_row_marks_one_are_classes(scans):
    text = "image,MEL,NV\n" + "\n".join(f"{i:03},{1.0 - i % 2},{i % 2}.0" for i in range(10))
    dataset = scans(text)
    assert dataset.classes == ("MEL", "NV")
    assert dataset.train.targets.tolist() == [0, 1] * 5


def test_labels_that_are_empty_in_part_are_refused_by_line(scans):
    with pytest.raises(PocketError, match="line 5 has no value for 'fracture': give 0 or 1"):
        scans("file,edema,fracture,age\n" + several().replace("003.png,1,0", "003.png,1,"))
    dataset = scans("file,edema,fracture,age\n" + several().replace("003.png,1,0", "003.png,,"))
    assert dataset.train.targets[3].tolist() == [-1, -1]


def test_a_column_of_grades_is_ordinal_and_numbers_under_label_are_not(scans):
    text = "\n".join(f"{i:03}.png,{i % 4}" for i in range(10))
    assert scans("file,grade\n" + text).task == "ordinal"
    assert scans("file,label\n" + text).task == "classification"
