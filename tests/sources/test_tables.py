"""CSV tables: columns are found, names are resolved without guessing, what does not fit is named."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pocketvit import PocketError
from pocketvit.sources import open_images


@pytest.fixture
def scans(photos, tmp_path):
    """Ten scans in one folder, and a function that writes a table and opens both."""
    folder = photos("scans", folder=tmp_path) / "scans"

    def opened(text, encoding="utf-8", **options):
        (tmp_path / "scans.csv").write_text(text, encoding=encoding)
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
        "sep=;\r\nfile;label\r\n" + rows(mark=";").replace("\n", "\r\n"),
        "label,file\n" + "\n".join(",".join(reversed(row.split(","))) for row in rows().split("\n")),
        "file,label\n" + "\n".join(reversed(rows().split("\n"))),
    ],
)
def test_headings_delimiters_endings_and_order_are_understood(scans, text):
    dataset = scans(text)
    assert dataset.classes == ("sick", "well")
    assert dataset.train.targets.tolist() == [0, 1, 1, 0, 1, 1, 0, 1, 1, 0]
    assert dataset.train.fingerprint == scans("file,label\n" + rows()).train.fingerprint


def test_excels_unicode_text_is_understood(scans):
    found = scans("file\tlabel\n" + rows(mark="\t"), encoding="utf-16")
    assert found.train.fingerprint == scans("file,label\n" + rows()).train.fingerprint
    with pytest.raises(PocketError, match=r"scans\.csv line 3 has 1 columns of 2"):
        scans("sep=,\nfile,label\n000.png\n")


def test_the_headings_of_clinics_are_understood(scans):
    """As in ChestX-ray14: no heading is the usual one, one column names images, one ends in "labels"."""
    lines = [f"{i},{row},PA,{i % 2}" for i, row in enumerate(rows().split("\n"))]
    dataset = scans("Follow-up,Image Index,Finding Labels,View,Sex\n" + "\n".join(lines))
    assert dataset.train.fingerprint == scans("file,label\n" + rows()).train.fingerprint
    assert "labels are those of the column 'Finding Labels'" in dataset.notes
    with pytest.raises(PocketError, match="files in 'Image Index' and no labels for certain: name the one with"):
        scans("Image Index,Finding Labels,Other Labels\n" + "\n".join(f"{row},a" for row in rows().split("\n")))


def test_a_single_column_of_0_and_1_is_two_classes(scans):
    dataset = scans("file,age,malignant\n" + "\n".join(f"{i:03}.png,{30 + i},{i % 2}" for i in range(10)))
    assert (dataset.classes, dataset.task) == (("0", "1"), "classification")
    assert dataset.train.targets[0] == int(dataset.train.names[0][:3]) % 2
    assert "labels are those of the column 'malignant'" in dataset.notes


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


def labelled(*cells: str) -> str:
    return "file,label\n" + "\n".join(f"{index:03}.png,{cell}" for index, cell in enumerate(cells))


def test_what_spreadsheets_write_for_nothing_is_no_class(scans):
    dataset = scans(labelled("sick", "NaN", "well", "n/a", "NULL", "sick", "", "well", "?", "None"))
    assert dataset.classes == ("sick", "well")
    assert (dataset.train.targets < 0).sum() == 6
    assert (
        "6 images have no label in scans.csv (?, NULL, NaN, None, n/a: not known): they train without one"
        in dataset.notes
    )


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1", "01"] * 5, "the labels '01' and '1', which are the same number: write them alike"),
        (["1.5", "1.50"] * 5, "the labels '1.5' and '1.50', which are the same number"),
        (
            [f"{index}.37" for index in range(10)] + ["0.5"],
            "11 different numbers as labels in 11 rows, .*Put ranges of them into classes",
        ),
    ],
)
def test_labels_that_are_numbers_are_not_taken_apart(photos, tmp_path, cells, message):
    folder = photos("scans", count=11, folder=tmp_path) / "scans"
    (tmp_path / "scans.csv").write_text(labelled(*cells))
    with pytest.raises(PocketError, match=message):
        open_images(folder, labels=tmp_path / "scans.csv")


def test_labels_that_differ_in_case_alone_are_pointed_at(scans):
    dataset = scans(labelled(*["disc", "DISC", "cup", "cup", "disc"] * 2))
    assert dataset.classes == ("DISC", "cup", "disc")
    assert any("labels 'DISC' and 'disc' of scans.csv are taken as different classes" in note for note in dataset.notes)


def test_several_labels_in_a_cell_are_several_labels_an_image(scans):
    dataset = scans(labelled("a|b", "b", "", "c; a", "b", "a", "c", "b|c", "a|b|c", "b"))
    assert (dataset.classes, dataset.task) == (("a", "b", "c"), "multilabel")
    assert dataset.train.targets[:4].tolist() == [[1, 1, 0], [0, 1, 0], [-1, -1, -1], [1, 0, 1]]


def test_marks_that_end_a_line_for_python_only_stay_in_their_cell(scans):
    dataset = scans(labelled(*["left\u2028lung", "right\vlung"] * 5))
    assert dataset.classes == ("left\u2028lung", "right\vlung")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n", r"has headings \(file, label\) and no rows: add a row per image"),
        ("file,label\n000.png," + "x" * 1_100_000, "is no CSV that can be read .field larger than field limit"),
    ],
)
def test_odd_tables_are_one_clear_message(scans, text, message):
    with pytest.raises(PocketError, match=message):
        scans(text)


def test_a_table_that_is_no_regular_file_is_not_waited_for(photos, tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(PocketError, match="no regular file"):
        open_images(photos("scans"), labels=tmp_path / "pipe.csv")


def test_whole_paths_and_folders_in_front_are_understood_and_ids_do_not_depend_on_the_machine(photos, tmp_path):
    def table(place, folder, front) -> None:
        lines = [f"{front}{folder}/{index:03}.png,{'sick' if index % 3 == 0 else 'well'}" for index in range(10)]
        (place / "scans.csv").write_text("file,label\n" + "\n".join(lines))

    first, second, apart = tmp_path / "one", tmp_path / "two/deeper", tmp_path / "apart"
    apart.mkdir()
    for place in (first, second):
        photos("scans", folder=place)
    table(first, "scans", f"{first}/")
    here = open_images(first / "scans.csv", val_fraction=0)
    table(first, "scans", "/data/of/another/machine/")
    assert open_images(first / "scans.csv", val_fraction=0).train.fingerprint == here.train.fingerprint
    table(first, "scans", "")
    assert open_images(first / "scans.csv", val_fraction=0).train.fingerprint == here.train.fingerprint
    table(apart, "scans", f"{first}/")
    beside = open_images(apart / "scans.csv", val_fraction=0)
    table(apart, "scans", f"{second}/")
    assert open_images(apart / "scans.csv", val_fraction=0).train.fingerprint == beside.train.fingerprint
    assert len(beside.train) == 10


def test_classes_are_in_the_same_order_whatever_the_hash_seed(photos, tmp_path):
    """They were once sorted from a set by value alone: a resumed run could have permuted classes."""
    folder = photos("scans", folder=tmp_path) / "scans"
    (tmp_path / "scans.csv").write_text(labelled(*["10", "9", "b", "B", "nan"] * 2))
    program = (
        f"from pocketvit.sources import open_images; print(open_images({str(folder)!r}, labels="
        f"{str(tmp_path / 'scans.csv')!r}, val_fraction=0, progress=False).classes)"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {"('10', '9', 'B', 'b')\n"}


def test_none_is_a_class_and_words_for_unknown_are_named(scans):
    lines = [f"{index:03}.png,{('none', 'mild', 'NaN')[index % 3]}" for index in range(10)]
    dataset = scans("\n".join(["file,finding_label", *lines]).replace("finding_label", "label"))
    assert set(dataset.classes) == {"none", "mild"}
    assert any("3 images have no label in scans.csv (NaN: not known)" in note for note in dataset.notes)
    with pytest.raises(PocketError, match=r"one label only, 'Polyp' \(None: not known\)"):
        scans("\n".join(["file,label", *(f"{index:03}.png,{('None', 'Polyp')[index % 2]}" for index in range(10))]))


def test_a_column_that_is_nearly_a_label_is_not_passed_over_in_silence(scans):
    lines = [f"{index:03}.png,{index % 2},1,{-1.0 if index == 4 else float(index % 2)},{index}" for index in range(10)]
    dataset = scans("\n".join(["file,Fracture,Device,Edema,age", *lines]))
    assert dataset.classes == ("Fracture", "Device")
    (warning,) = [note for note in dataset.notes if "Edema" in note]
    assert "'Edema' holds -1.0 beside 0 and 1 in scans.csv, and no label for that" in warning


def columns(heading, *cells):
    """A table of ten scans with further columns, each of a function of the row's number."""
    lines = [",".join([f"{index:03}.png", *(str(cell(index)) for cell in cells)]) for index in range(10)]
    return "\n".join([f"Image Path,{heading}", *lines])


def sick(index):
    return "sick" if index % 3 == 0 else "well"


@pytest.mark.parametrize(
    "text",
    [
        columns("species", sick),
        columns("age,Species", lambda index: 30 + index, sick),
        columns("what", sick),  # the only other column
        "," + columns("what", sick).replace("\n", "\n0,"),  # as pandas writes its index
        "id,name," + columns("diagnosis", sick).replace("\n", "\n0,Bob,"),  # of a row, of a person
        columns("label,class name", lambda index: int(sick(index) == "well"), sick),  # the same in words
        columns("label,target", sick, lambda index: index),  # "label" is what we ask for
        columns("diagnosis", sick).replace(".png", ".PNG"),
        columns("diagnosis", sick).replace("\n", "\nC:\\me\\scans\\"),
        columns("diagnosis", lambda index: f' "{sick(index)}"'),
    ],
)
def test_columns_that_leave_no_doubt_are_taken(scans, text):
    dataset = scans(text)
    assert dataset.classes == ("sick", "well")
    assert dataset.train.fingerprint == scans("file,label\n" + rows()).train.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (columns("target,diagnosis", lambda i: i % 2, sick), "labels in 'target' and 'diagnosis', which say different"),
        (columns("label,label", lambda i: i % 2, sick), "labels in 'label' and 'label', which say different things"),
        (columns("what,colour", sick, sick), "files in 'Image Path' and no labels for certain: name the one with"),
        (columns("caption", lambda i: f"scan {i}"), "no labels for certain"),
    ],
)
def test_columns_in_doubt_are_refused_by_name(scans, text, message):
    with pytest.raises(PocketError, match=message):
        scans(text)


def test_columns_of_true_and_false_are_labels_like_0_and_1(scans):
    dataset = scans(columns("edema,fracture", lambda index: index % 3 == 0, lambda index: index % 2 == 0))
    assert (dataset.classes, dataset.task) == (("edema", "fracture"), "multilabel")
    assert dataset.train.targets.tolist() == [[int(i % 3 == 0), int(i % 2 == 0)] for i in range(10)]


def test_whole_numbers_that_pandas_wrote_as_floats_are_whole(scans):
    cells = ["1.0", "2.0", "", "1.0", "2", "1", "2.0", "2.0", "1.0", "1.0"]
    assert scans(labelled(*cells)).classes == ("1", "2")
