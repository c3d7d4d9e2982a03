"""Folders: every layout is recognized, what is wrong is named, and ids do not depend on the machine."""

from __future__ import annotations

import errno
import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from pocketvit import PocketError
from pocketvit.sources import open_images, open_test_images
from pocketvit.sources.base import sample_id


def names(source):
    return list(source.names)


def test_class_folders_are_split_80_10_10_and_it_is_said(photos):
    dataset = open_images(photos("cat", "dog", count=20))
    assert dataset.classes == ("cat", "dog")
    assert dataset.checks.counts == {
        "train": {"cat": 16, "dog": 16},
        "val": {"cat": 2, "dog": 2},
        "test": {"cat": 2, "dog": 2},
    }
    assert sum("held out" in note for note in dataset.notes) == 2
    joined = names(dataset.train) + names(dataset.val) + names(dataset.test)
    assert sorted(joined) == sorted({f"{label}/{i:03}.png" for label in ("cat", "dog") for i in range(20)})
    for source in dataset.splits.values():
        expected = [dataset.classes.index(name.split("/")[0]) for name in source.names]
        assert source.targets.tolist() == expected


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders_are_kept_whatever_validation_is_called(photos, tmp_path, val):
    root = tmp_path / "photos"
    for seed, split in enumerate(("train", val, "test")):
        photos("cat", "dog", count=5 - seed, folder=root / split, seed=seed)
    dataset = open_images(root)
    assert [len(source) for source in dataset.splits.values()] == [10, 8, 6]
    assert list(dataset.splits) == ["train", "val", "test"]
    assert "the train, val, test splits are those of photos" in dataset.notes
    assert dataset.val.ids[0] == sample_id("val", "cat/000.png")


def test_missing_test_folder_is_held_out_of_train_and_validation_kept(photos, tmp_path):
    photos("cat", "dog", count=20, folder=tmp_path / "p/train")
    photos("cat", "dog", count=3, folder=tmp_path / "p/val", seed=1)
    dataset = open_images(tmp_path / "p")
    assert [len(source) for source in dataset.splits.values()] == [36, 6, 4]


def test_a_flat_folder_is_legal_and_unlabelled(photos, tmp_path):
    dataset = open_images(photos("loose", count=20) / "loose")
    assert dataset.classes == ()
    assert set(dataset.train.targets) == {-1}
    assert [len(source) for source in dataset.splits.values()] == [16, 2, 2]
    assert any("no labels" in note for note in dataset.notes)


def test_no_fraction_holds_nothing_out(photos):
    dataset = open_images(photos("cat", "dog"), val_fraction=0)
    assert len(dataset.train) == 20
    assert dataset.val is None
    assert dataset.test is None


def test_ids_and_fingerprint_do_not_depend_on_where_the_folder_lies_or_how_it_was_filled(photos, tmp_path):
    first = open_images(photos("cat", "dog"))
    for path in sorted((tmp_path / "photos").rglob("*.png"), reverse=True):
        target = tmp_path / "elsewhere/else" / path.relative_to(tmp_path / "photos")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    second = open_images(tmp_path / "elsewhere/else")
    for split, source in first.splits.items():
        assert np.array_equal(source.ids, second.splits[split].ids)
        assert source.fingerprint == second.splits[split].fingerprint


def test_ids_are_those_of_every_machine():
    """Golden: these numbers stand in every label store."""
    assert sample_id("train", "cat/1.jpg") == 0xB9ABC52D1BF26CBA
    assert sample_id("train", "0") == 0x7B424304CF4E14C2


def test_composed_and_decomposed_names_are_one(photos, tmp_path):
    photos("caf\u00e9", "dog", count=4, folder=tmp_path / "linux")
    photos("cafe\u0301", "dog", count=4, folder=tmp_path / "mac")
    linux, mac = open_images(tmp_path / "linux"), open_images(tmp_path / "mac")
    assert linux.classes == mac.classes
    assert linux.train.fingerprint == mac.train.fingerprint


def test_fingerprint_changes_with_a_pixel_a_name_and_the_split(photos, tmp_path, noise):
    root = photos("cat", "dog")
    before = open_images(root).train
    name = before.names[0]
    Image.fromarray(noise(99)).save(root / name)
    changed = open_images(root).train
    assert np.array_equal(before.ids, changed.ids)
    assert before.fingerprint != changed.fingerprint
    assert open_images(root, seed=1).train.fingerprint != changed.fingerprint


def test_equal_images_with_different_labels_are_named(photos):
    root = photos("cat", "dog")
    (root / "dog/copy.png").write_bytes((root / "cat/003.png").read_bytes())
    (note,) = (note for note in open_images(root).notes if "different labels" in note)
    assert "cat/003.png = dog/copy.png" in note


def test_broken_files_are_left_out_by_name_and_the_rest_stays(photos):
    root = photos("cat", "dog")
    (root / "cat/000.png").write_bytes((root / "cat/000.png").read_bytes()[:60])
    (root / "dog/001.png").write_bytes(b"")
    dataset = open_images(root)
    assert [name for name, _ in dataset.checks.broken] == ["cat/000.png", "dog/001.png"]
    assert sum(len(source) for source in dataset.splits.values()) == 18
    lines = dataset.checks.lines()
    assert "left out: 2" in lines
    assert any("cat/000.png is damaged" in line for line in lines)
    assert "classes: 2 (cat, dog), with 7 training images each" in lines


def test_equal_images_in_given_splits_are_listed(photos, tmp_path):
    photos("cat", "dog", count=4, folder=tmp_path / "p/train")
    photos("cat", "dog", count=2, folder=tmp_path / "p/test", seed=1)
    shutil.copy(tmp_path / "p/train/cat/003.png", tmp_path / "p/test/cat/copy.png")
    dataset = open_images(tmp_path / "p")
    assert dataset.checks.duplicates == (("train/cat/003.png", "test/cat/copy.png"),)
    (note,) = (note for note in dataset.notes if "in two splits" in note)
    assert "test/cat/copy.png = train/cat/003.png first" in note


def test_copies_on_one_side_of_a_split_are_told(photos):
    root = photos("cat", "dog", count=8)
    assert not [note for note in open_images(root).notes if "cop" in note]
    shutil.copy(root / "cat/003.png", root / "cat/twin.png")
    assert "1 image is a copy of another one in the same split (cat/twin.png = cat/003.png)" in open_images(root).notes
    shutil.copy(root / "dog/003.png", root / "dog/twin.png")
    (note,) = (note for note in open_images(root).notes if "cop" in note)
    assert note.startswith("2 images are copies of others in the same split (cat/twin.png = cat/003.png first)")


def test_a_copy_in_another_format_is_found_too(photos, tmp_path):
    photos("cat", "dog", count=4, folder=tmp_path / "p/train")
    photos("cat", "dog", count=2, folder=tmp_path / "p/test", seed=1)
    Image.open(tmp_path / "p/train/cat/003.png").save(tmp_path / "p/test/cat/copy.bmp")
    assert len(open_images(tmp_path / "p").checks.duplicates) == 1


def test_equal_images_never_end_on_two_sides_of_a_split_made_here(photos):
    root = photos("cat", "dog", count=15)
    for index in range(15):
        shutil.copy(root / f"cat/{index:03}.png", root / f"cat/again{index:03}.png")
    assert open_images(root).checks.duplicates == ()


def test_sizes_and_kinds_are_counted(photos):
    root = photos("cat", "dog")
    Image.new("CMYK", (30, 20)).save(root / "cat/print.jpg")
    checks = open_images(root).checks
    assert checks.sizes == {(9, 12): 20, (20, 30): 1}
    assert checks.modes == {"RGB": 20, "CMYK": 1}
    assert "sizes: 12x9 to 30x20 pixels" in checks.lines()


def test_size_is_said_only_when_all_share_it(photos):
    root = photos("cat", "dog")
    assert open_images(root).train.size == (9, 12)
    for label in ("cat", "dog"):
        for index in range(10):
            Image.new("L", (20 + index, 20)).save(root / label / f"l{index}.png")
    dataset = open_images(root)
    assert dataset.train.size is None
    images = dataset.train.rgb(np.arange(len(dataset.train)))
    assert {image.shape[2] for image in images} == {3}


def test_ignored_files_are_counted_and_hidden_ones_passed_over(photos):
    root = photos("cat", "dog")
    (root / "cat/notes.txt").write_text("x")
    (root / "dog/.DS_Store").write_text("x")
    assert "1 file that is no image was ignored (1 .txt)" in open_images(root).notes


def test_a_class_that_validation_lacks_is_said(photos, tmp_path):
    photos("cat", "dog", "wolf", folder=tmp_path / "p/train")
    photos("cat", "dog", folder=tmp_path / "p/val", seed=1)
    assert "the val split has no images of wolf" in open_images(tmp_path / "p").notes


def test_an_unlabelled_test_folder_beside_labelled_ones_is_left_out_in_one_line(photos, tmp_path):
    photos("cat", "dog", count=20, folder=tmp_path / "p/train")
    photos("test", count=4, folder=tmp_path / "p", seed=1)
    dataset = open_images(tmp_path / "p")
    assert len(dataset.test) == 4
    assert "4 images beside the class folders were left out, test/000.png first" in dataset.notes
    assert all(name.startswith("train/") for name in dataset.test.names)


def test_float_needs_a_window(photos):
    root = photos("cat", "dog")
    Image.fromarray(np.linspace(0, 2, 16, dtype=np.float32).reshape(4, 4)).save(root / "cat/height.tif")
    with pytest.raises(PocketError, match=r"in cat/height\.tif of photos.*as --window 0,2 .where 99\.8% of their pix"):
        open_images(root)
    assert open_images(root, window=(0, 2)).train.window == (0, 2)
    with pytest.raises(PocketError, match="LOW below HIGH"):
        open_images(root, window=(2, 0))


def make_empty_class(root):
    (root / "bird").mkdir()


def make_stranger(root):
    for place in ("train/cat", "train/dog", "val/dog", "val/wolf"):
        shutil.copytree(root / "cat", root / place)
    shutil.rmtree(root / "cat")
    shutil.rmtree(root / "dog")


def make_mixture(root):
    shutil.copytree(root / "cat", root / "train/cat")


def make_broken_class(root):
    for path in (root / "dog").iterdir():
        path.write_bytes(b"x")


def make_two_validations(root):
    for split in ("train", "val", "valid"):
        shutil.copytree(root / "cat", root / split / "cat")
    shutil.rmtree(root / "cat")
    shutil.rmtree(root / "dog")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (make_empty_class, r"class folder .*bird has no images: add some, or delete"),
        (make_stranger, r"class 'wolf' is in .*val but not in .*train"),
        (make_mixture, r"split folders \(train\) and others with images \(cat, dog\)"),
        (make_broken_class, r"class 'dog' of photos has no train image that can be read, of 10 \(dog/000\.png is not"),
        (make_two_validations, "val and valid, which both mean val"),
        (lambda root: shutil.rmtree(root / "dog"), "one class folder only, 'cat'"),
    ],
)
def test_folders_that_cannot_be_used_say_what_where_and_what_to_do(photos, spoil, message):
    root = photos("cat", "dog")
    spoil(root)
    with pytest.raises(PocketError, match=message):
        open_images(root)


def test_a_folder_without_images_says_what_is_there_instead(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"x")
    with pytest.raises(PocketError, match=r"no images in .* \(1 \.mp4\)"):
        open_images(tmp_path)
    (tmp_path / "brain.nii.gz").write_bytes(b"x")
    with pytest.raises(PocketError, match=r"NIfTI volumes are not read: save the slices you mean as PNG"):
        open_images(tmp_path)


def test_what_is_not_there_or_not_images_is_refused(tmp_path):
    with pytest.raises(PocketError, match=r"there is no .*photo: give a folder"):
        open_images(tmp_path / "photo")
    with pytest.raises(PocketError, match="images are a int: give a folder"):
        open_images(3)


def test_validation_and_test_folders_without_training_ones_are_no_classes(photos, tmp_path):
    photos("val", "test", folder=tmp_path / "p")
    with pytest.raises(PocketError, match=r"has test and val but no train folder: add one, or name .* as --test .*p"):
        open_images(tmp_path / "p")


def test_a_folder_of_test_images_alone_is_for_testing(photos, tmp_path):
    photos("cat", "dog", folder=tmp_path / "p/test")
    found = open_test_images(tmp_path / "p")
    assert (found.classes, found.test.split, list(found.checks.counts)) == (("cat", "dog"), "test", ["test"])
    assert found.checks.lines()[1] == "classes: 2 (cat, dog), with 10 test images each"
    whole = photos("cat", "dog", folder=tmp_path / "whole", seed=1)
    assert len(open_images(whole, test=tmp_path / "p").test) == 20


def test_of_a_set_beside_its_own_split_of_that_name_is_taken(photos, tmp_path):
    """Its training images would be in the test otherwise."""
    whole = photos("cat", "dog", folder=tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "other/train")
    photos("cat", "dog", folder=tmp_path / "other/test", seed=1)
    dataset = open_images(whole, test=tmp_path / "other")
    assert len(dataset.test) == 20
    assert not dataset.checks.duplicates
    assert "test: 20 images of other (its test split, of 40)" in dataset.notes


def test_runs_made_among_the_images_are_no_class(photos):
    root = photos("cat", "dog")
    (root / "runs/photos-1").mkdir(parents=True)
    (root / "runs/photos-1/config.yaml").write_text("verb: distill\n")
    (root / "runs/photos-1/wrong-answers.png").write_bytes((root / "cat/000.png").read_bytes())
    dataset = open_images(root)
    assert dataset.classes == ("cat", "dog")
    assert not any("runs" in name for source in dataset.splits.values() for name in source.names)


def test_a_folder_that_cannot_be_read_is_named(photos, monkeypatch):
    root = photos("cat", "dog")
    (root / "cat/locked").mkdir()
    real = os.scandir

    def refused(path):
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PocketError, match=r"the folder .*locked cannot be read \(Permission denied\): allow it"):
        open_images(root)


def test_names_that_differ_only_in_how_accents_are_composed_are_refused(photos):
    root = photos("cat", "dog")
    for form in ("NFC", "NFD"):
        (root / f"cat/{unicodedata.normalize(form, 'é')}.png").write_bytes((root / "cat/000.png").read_bytes())
    with pytest.raises(
        PocketError, match=r"names differ only in how their accents are written, cat/é\.png: rename one"
    ):
        open_images(root)


def test_a_large_jpeg_and_its_copy_as_png_in_another_split_are_found(photos, tmp_path):
    root = tmp_path / "p"
    photos("cat", "dog", folder=root / "train")
    photos("cat", "dog", folder=root / "test", seed=1)
    random = np.random.default_rng(0)
    for name in ("one", "two"):
        small = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        small.resize((640, 480)).save(root / f"train/cat/{name}.jpg")
    Image.open(root / "train/cat/one.jpg").save(root / "test/cat/copy.png")
    assert open_images(root).checks.duplicates == (("train/cat/one.jpg", "test/cat/copy.png"),)


def test_an_unlabelled_copy_of_a_held_out_image_does_not_train(photos, tmp_path):
    root, flat = photos("cat", "dog", count=20), tmp_path / "more"
    photos("x", count=5, folder=flat, seed=9)
    held = open_images(root).test.names
    for number, name in enumerate(held):
        (flat / f"x/copy{number}.png").write_bytes((root / name).read_bytes())
    dataset = open_images(root, unlabelled=flat / "x")
    assert not any("copy" in name for name in dataset.train.names)
    assert f"{len(held)} images without a label are copies of held-out ones: left out" in dataset.notes


def test_what_systems_and_archives_leave_behind_is_passed_over_and_names_of_any_bytes_survive(photos):
    root = photos("cat", "dog")
    picture = (root / "cat/000.png").read_bytes()
    (root / "__MACOSX/cat").mkdir(parents=True)
    for name in (".DS_Store", "cat/.DS_Store", "cat/._001.png", "__MACOSX/cat/001.png", "dog/Thumbs.db"):
        (root / name).write_bytes(picture)
    (root / "dog/loop").symlink_to(root / "dog")
    Image.fromarray(np.full((9, 12, 3), 7, np.uint8)).save(root / "dog/new.png")
    os.rename(root / "dog/new.png", os.fsencode(root / "dog") + b"/gr\xfcn.png")
    dataset = open_images(root, val_fraction=0)
    assert len(dataset.train) == 21
    assert "dog/gr\udcfcn.png" in dataset.train.names


def test_folders_of_splits_may_be_called_sets(photos, tmp_path):
    photos("cat", "dog", folder=tmp_path / "training_set")
    photos("cat", "dog", folder=tmp_path / "test_set")
    dataset = open_images(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.test) == 20


def test_held_out_images_in_a_folder_of_no_class_are_left_out_in_one_line(photos, tmp_path):
    """Tiny ImageNet's own val/images, whose labels stand in a table, and Kaggle's test/unknown."""
    photos("cat", "dog", folder=tmp_path / "train")
    photos("images", folder=tmp_path / "val")
    photos("unknown", folder=tmp_path / "test")
    dataset = open_images(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.train) + len(dataset.val) + len(dataset.test) == 20
    (test, val) = (note for note in dataset.notes if "are in no folder of a class" in note)
    assert "10 images of val" in val
    assert "--test FILE.csv" in test
    photos("bird", folder=tmp_path / "val")
    with pytest.raises(PocketError, match="class 'bird' is in"):
        open_images(tmp_path)


def test_the_folder_that_an_archive_was_unpacked_into_is_named(photos, tmp_path):
    photos("cat", "dog", folder=tmp_path / "dataset")
    with pytest.raises(
        PocketError, match=r"holds one folder, 'dataset', and the images are sorted in it: give .*dataset"
    ):
        open_images(tmp_path)


def test_a_folder_too_many_is_no_class(photos, tmp_path):
    photos("cat", "dog", folder=tmp_path / "train" / "train")
    with pytest.raises(PocketError, match=r"one class folder only, 'train'.*move what is in"):
        open_images(tmp_path)


def test_a_hidden_folder_of_images_is_told(photos):
    notes = open_images(photos("cat", "dog", ".bird")).notes
    assert ".bird/ is hidden, and its 10 images passed over: rename it if they count" in notes
