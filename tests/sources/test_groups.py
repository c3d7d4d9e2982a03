"""Groups: nobody on both sides of a split, and the classes as even as that allows."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_files import dicom
from PIL import Image

from pocketvit import PocketError
from pocketvit.sources import open_images
from pocketvit.sources.splits import hold_out_groups, spread, united
from pocketvit.sources.subset import Subset


@pytest.fixture
def clinic(tmp_path, noise):
    """Return a function that draws scans, writes their table, and opens both: rows are (file, label, patient, ...)."""

    def opened(rows, heading="file,label,patient", group="patient", **options):
        folder = tmp_path / "scans"
        folder.mkdir(exist_ok=True)
        for number, row in enumerate(rows):
            if not (folder / row[0]).exists():
                Image.fromarray(noise(number)).save(folder / row[0])
        text = "\n".join([heading, *(",".join(row) for row in rows)])
        (tmp_path / "scans.csv").write_text(text, encoding="utf-8")
        return open_images(folder, labels=tmp_path / "scans.csv", group=group, **options)

    return opened


def visits(patients=20, each=6):
    """Every patient has images of one of two classes, and one image more or less."""
    return [
        (f"{patient:02}-{visit}.png", "sick" if patient % 2 else "well", f"P{patient}")
        for patient in range(patients)
        for visit in range(each + patient % 3 - 1)
    ]


def sides(dataset):
    return [set(source.groups.tolist()) for source in dataset.splits.values()]


def test_no_patient_is_on_two_sides_and_both_classes_are_everywhere(clinic):
    dataset = clinic(visits(), val_fraction=0.2)
    train, val, test = sides(dataset)
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(train | val | test) == 20
    for source in (dataset.val, dataset.test):
        counts = np.bincount(source.targets, minlength=2)
        assert abs(counts[0] - counts[1]) <= 2
        assert abs(len(source) - 24) <= 4  # a fifth of 120
    assert (dataset.group, dataset.research) == ("patient", True)
    assert "20 groups (patient): none is on both sides of a split" in dataset.notes


def test_groups_say_which_images_are_of_one_patient(clinic):
    dataset = clinic(visits())
    for source in dataset.splits.values():
        patients = np.array([name[:2] for name in source.names])
        assert all(len(set(source.groups[patients == patient])) == 1 for patient in set(patients))
    some = Subset(dataset.train, np.array([5, 2]))
    assert some.groups.tolist() == dataset.train.groups[[5, 2]].tolist()


def test_the_split_depends_on_neither_the_order_of_the_rows_nor_the_names_of_the_patients(clinic):
    rows = visits()
    dataset = clinic(rows)
    names = [(name, label, f"Q{99 - int(patient[1:])}") for name, label, patient in reversed(rows)]
    assert clinic(names).test.names == dataset.test.names
    assert clinic(rows, seed=1).test.names != dataset.test.names


def test_equal_images_of_two_patients_bring_both_to_one_side(clinic, tmp_path, noise):
    rows = visits(8)
    (tmp_path / "scans").mkdir()
    for name in ("00-0.png", "01-0.png", "02-0.png", "03-0.png"):
        Image.fromarray(noise(999)).save(tmp_path / "scans" / name)
    dataset = clinic(rows, val_fraction=0.25)
    where = [split for split, source in dataset.splits.items() for name in source.names if name[:2] in ("00", "03")]
    assert len(set(where)) == 1
    assert dataset.checks.duplicates == ()


def test_a_patient_in_two_given_splits_is_refused_by_name(clinic):
    rows = [(*row, "test" if row[0].endswith("-0.png") and row[2] == "P3" else "train") for row in visits(6)]
    with pytest.raises(PocketError, match=r"patient 'P3' is in the test split \(03-0.png\) and in the train split"):
        clinic(rows, heading="file,label,patient,split")


def test_given_splits_with_whole_patients_are_kept(clinic):
    rows = [(*row, "test" if row[2] in ("P3", "P4") else "train") for row in visits(12)]
    dataset = clinic(rows, heading="file,label,patient,split")
    assert {name[:2] for name in dataset.test.names} == {"03", "04"}
    train, val, test = sides(dataset)
    assert val
    assert not train & val
    assert not val & test


def test_an_image_without_a_patient_is_a_group_of_its_own(clinic):
    rows = visits(10)
    rows = [(name, label, "" if index < 4 else patient) for index, (name, label, patient) in enumerate(rows)]
    dataset = clinic(rows)
    everyone = np.concatenate([source.groups for source in dataset.splits.values()])
    names = [name for source in dataset.splits.values() for name in source.names]
    alone = [everyone[names.index(rows[index][0])] for index in range(4)]
    assert all((everyone == group).sum() == 1 for group in alone)
    assert "4 images have no patient: each counts as a group of its own" in dataset.notes


def test_unlabelled_images_of_held_out_patients_are_on_neither_side(clinic):
    rows = [(name, "" if name.endswith("-0.png") else label, patient) for name, label, patient in visits(12)]
    dataset = clinic(rows, val_fraction=0.2)
    held = {name[:2] for source in (dataset.val, dataset.test) for name in source.names}
    assert (dataset.val.targets >= 0).all()
    assert not held & {name[:2] for name in dataset.train.names}
    lost = len(rows) - sum(len(source) for source in dataset.splits.values())
    assert lost == len(held)
    assert any(note.startswith(f"{lost} images without a label go with held-out ones") for note in dataset.notes)


def test_a_class_of_one_patient_stays_in_training(clinic):
    rows = [(name, "rare" if patient == "P4" else label, patient) for name, label, patient in visits(12)]
    for seed in range(5):
        dataset = clinic(rows, val_fraction=0.2, seed=seed)
        assert dataset.classes.index("rare") in dataset.train.targets


def test_two_patients_are_too_few_for_three_splits(clinic):
    dataset = clinic([(name, "ab"[index % 2], patient) for index, (name, _, patient) in enumerate(visits(2))])
    assert len(dataset.splits) == 2
    assert any("too few groups (patient) to hold one out" in note for note in dataset.notes)


def test_columns_that_are_not_there_are_refused_with_those_that_are(clinic):
    with pytest.raises(PocketError, match="no column 'person': it has file, label, patient"):
        clinic(visits(4), group="person")
    with pytest.raises(PocketError, match="no headings, so no column 'patient': give it a first line such as"):
        clinic(visits(4)[1:], heading=",".join(visits(4)[0]))


def test_an_image_with_two_patients_is_refused(clinic):
    with pytest.raises(PocketError, match=r"gives 00-0\.png the patient 'P0' in line 2 and 'P9' in line"):
        clinic([*visits(4), ("00-0.png", "well", "P9")])


def test_grouping_without_a_table_says_what_to_give(photos):
    with pytest.raises(PocketError, match=r"needs a table .* columns file, label and patient, as --table FILE"):
        open_images(photos("cat", "dog"), group="patient")


def test_units_are_joined_in_chains():
    looks = ["a", "b", "b", "c", "d", "e"]
    groups = [0, 0, 1, 1, 2, 3]
    assert united(looks, groups).tolist() == [0, 0, 0, 0, 4, 5]
    assert united(looks, None).tolist() == [0, 1, 1, 3, 4, 5]


def test_spread_is_even_in_every_class_where_nothing_is_grouped():
    targets = np.repeat([0, 1, 2], [50, 23, 7])
    keys = [str(index) for index in range(80)]
    fold = spread(keys, np.arange(80), targets, 5, seed=0)
    counts = np.array([np.bincount(fold[targets == label], minlength=5) for label in range(3)])
    assert (counts.max(1) - counts.min(1) <= 1).all()
    assert np.bincount(fold).tolist() == [16] * 5


def test_held_out_groups_have_their_share_of_several_labels():
    generator = np.random.default_rng(0)
    targets = (generator.random((600, 4)) < [0.5, 0.3, 0.1, 0.05]).astype(np.int64)
    units = np.arange(600) // 4
    chosen = hold_out_groups([str(i) for i in range(600)], units, targets, {"val": 0.2, "test": 0.2}, 0)
    for split in ("val", "test"):
        assert abs((chosen == split).sum() - 120) <= 8
        share = targets[chosen == split].sum(0) / targets.sum(0)
        assert (np.abs(share - 0.2) < 0.08).all()


def test_a_patient_in_a_second_table_is_no_secret(clinic, tmp_path, noise):
    (tmp_path / "new").mkdir()
    for number in range(4):
        Image.fromarray(noise(900 + number)).save(tmp_path / "new" / f"{number}.png")

    def table(*patients):
        lines = [f"{number}.png,{('well', 'sick')[number % 2]},{patient}" for number, patient in enumerate(patients)]
        (tmp_path / "new" / "test.csv").write_text("\n".join(["file,label,Patient", *lines]))
        return tmp_path / "new" / "test.csv"

    assert clinic(visits(), test=table("Q1", "Q2", "Q3", "Q3")).test.groups is not None
    with pytest.raises(PocketError, match="patient 'P3' is in the"):
        clinic(visits(), test=table("Q1", "P3", "Q2", "Q3"))
    (tmp_path / "new" / "test.csv").write_text("file,label\n0.png,well\n1.png,sick\n")
    notes = clinic(visits(), test=tmp_path / "new" / "test.csv").notes
    assert any("nothing says which patient the images of --test are of" in note for note in notes)


@pytest.mark.parametrize("shared", [False, True])
def test_validation_images_are_held_out_by_patient_where_a_test_split_is_given(tmp_path, shared):
    pytest.importorskip("pydicom")
    generator = np.random.default_rng(0)
    for patient in range(12):
        split = "test" if patient > 9 else "train"
        for visit in range(5):
            folder = tmp_path / split / ("well", "sick")[patient % 2]
            folder.mkdir(parents=True, exist_ok=True)
            who = "P0" if shared and patient == 10 else f"P{patient}"
            pixels = generator.integers(0, 4000, (8, 8)).astype(np.uint16)
            (folder / f"{patient}-{visit}.dcm").write_bytes(dicom(pixels, bits=12, patient=who))
    dataset = open_images(tmp_path, val_fraction=0.2)
    train, val, _ = sides(dataset)
    assert val
    assert not train & val
    assert any("more than one split" in note for note in dataset.notes) == shared


@pytest.mark.parametrize("title", ["patient", "Patient ID", "subject_id"])
def test_a_column_of_patients_groups_unasked(clinic, title):
    dataset = clinic(visits(), heading=f"file,label,{title}", group=None)
    train, val, test = sides(dataset)
    assert not train & (val | test)
    assert not val & test
    assert f"20 groups ({title}): none is on both sides of a split" in dataset.notes


def test_a_given_split_that_parts_a_patient_is_kept_and_warned_of_where_nobody_asked(clinic):
    rows = [(*row, "test" if row[0].endswith("-0.png") else "train") for row in visits()]
    dataset = clinic(rows, heading="file,label,patient,split", group=None)
    assert len(dataset.test) == 20
    assert any("20 patients ('P0' first) are in more than one split" in note for note in dataset.notes)
    assert not {name[:2] for name in dataset.train.names} & {name[:2] for name in dataset.val.names}


def test_a_column_that_names_each_image_once_groups_nothing(clinic):
    rows = [(name, label, f"P{number}") for number, (name, label, _) in enumerate(visits())]
    assert clinic(rows, group=None).group is None


@pytest.mark.parametrize("heading", ["Patient ID", "patient_id", "PatientID"])
def test_a_column_of_groups_is_found_under_the_spelling_of_its_table(clinic, heading):
    as_written = clinic(visits(), heading=f"file,label,{heading}", group=heading)
    dataset = clinic(visits(), heading=f"file,label,{heading}", group="patient")
    assert dataset.group == heading
    assert dataset.train.groups.tolist() == as_written.train.groups.tolist()


def test_two_columns_that_may_be_the_groups_are_refused(clinic):
    rows = [(*row, row[-1]) for row in visits(4)]
    with pytest.raises(PocketError, match="no column 'patient', and several like it: give one of patient_id, Pat"):
        clinic(rows, heading="file,label,patient_id,Patient Name")
