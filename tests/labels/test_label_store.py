"""Reading a store, adding to it, and refusing what does not fit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from label_fakes import FakeSource, FakeTeacher, FakeViews

from pocketvit.errors import PocketError
from pocketvit.labels import LabelStore, decode, verify, write_labels
from pocketvit.labels.shard import read_shard, write_shard
from pocketvit.labels.store import missing_rows


def label(folder, source=None, views=None, teachers=None, count=2, **options):
    source = source or FakeSource()
    options = {"batch_size": 8, "rows_per_shard": 16, "progress": False} | options
    teachers = teachers or [FakeTeacher("a")]
    return write_labels(folder, source, views or FakeViews(source, mixed=True), teachers, count, **options)


def test_stores_are_merged_by_copying_their_files(tmp_path):
    """A teacher's folder and a view's folder of another store, cut into other shards, read as if labelled here."""
    whole = label(tmp_path / "whole", teachers=[FakeTeacher("a"), FakeTeacher("b", seed=1)])
    label(tmp_path / "merged", count=1)
    other = label(tmp_path / "other", teachers=[FakeTeacher("a"), FakeTeacher("b", seed=1)], rows_per_shard=24)
    key_a, key_b = other.teachers()
    shutil.copytree(tmp_path / "other" / key_b, tmp_path / "merged" / key_b)
    shutil.copytree(tmp_path / "other" / key_a / "view-00001", tmp_path / "merged" / key_a / "view-00001")
    merged = LabelStore(tmp_path / "merged")
    assert merged.views() == [0, 1]
    for name in "ab":
        for view in (0, 1):
            assert torch.equal(merged.read(name, view).logits, whole.read(name, view).logits)
    teacher = FakeTeacher("a")
    label(tmp_path / "merged", teachers=[teacher])
    assert not teacher.batches  # nothing is missing, although the shards are cut differently


def test_a_view_that_is_read_again_costs_nothing_and_only_the_last_is_kept(tmp_path):
    store = label(tmp_path)
    assert store.read("a", 0) is store.read("a", 0)
    first = store.read("a", 0)
    assert not torch.equal(store.read("a", 1).logits, first.logits)
    assert store.read("a", 0) is not first


@pytest.mark.parametrize("k", [None, 5])
def test_a_process_may_read_only_the_images_it_sees(tmp_path, k):
    source = FakeSource(50, 40)
    store = label(tmp_path, source, FakeViews(source, mixed=True), [FakeTeacher("a", 40)], k=k)
    rows = np.array([0, 3, 17, 18, 49])
    part = store.read("a", 1, rows)
    assert len(part) == 5
    assert torch.equal(decode(part), decode(store.read("a", 1))[rows])


def test_a_flipped_byte_is_found_by_read_and_label_repairs_only_that_shard(tmp_path):
    store = label(tmp_path)
    path = store.shards("a", 1)[1][0]
    good = path.read_bytes()
    path.write_bytes(good[:-30] + bytes([good[-30] ^ 4]) + good[-29:])
    store = LabelStore(tmp_path)
    with pytest.raises(PocketError, match=f"{path.name} is damaged.*Delete this file and run `label` again"):
        store.read("a", 1)
    store.read("a", 0)
    path.unlink()
    label(tmp_path).read("a", 1)
    assert path.read_bytes() == good


def test_an_interrupted_view_is_not_offered_and_read_says_how_many_are_missing(tmp_path):
    store = label(tmp_path)
    store.shards("a", 1)[3][0].unlink()
    assert store.views("a") == [0]
    with pytest.raises(PocketError, match=r"lacks 2 of 50 images \(complete views: 0\)"):
        store.read("a", 1)


def test_other_images_are_refused_with_what_differs(tmp_path):
    store = label(tmp_path)
    for source, words in ((FakeSource(40), "images: 50 there, 40 here"), (FakeSource(salt="edited"), "other content")):
        with pytest.raises(PocketError, match=f"source differs.*{words}"):
            store.check(source)
        with pytest.raises(PocketError, match=f"source differs.*{words}"):
            label(tmp_path, source)
    store.check(FakeSource())


def test_another_view_config_is_refused_with_the_differing_fields(tmp_path):
    store = label(tmp_path)
    source = FakeSource()
    changed = FakeViews(source, mixed=True, seed=3, crop="padded")
    words = r"view config differs \(crop: the default there, 'padded' here; seed: 0 there, 3 here\)"
    with pytest.raises(PocketError, match=words):
        store.check(views=changed)
    with pytest.raises(PocketError, match=words):
        label(tmp_path, views=changed)
    store.check(views=FakeViews(source, mixed=True))


def test_another_teacher_of_the_same_name_is_refused_with_the_differing_fields(tmp_path):
    store = label(tmp_path)
    with pytest.raises(PocketError, match=r"teacher differs \(weights: '0000.*there, '1111.*here\)"):
        store.check(teachers=[FakeTeacher("a", seed=1)])
    with pytest.raises(PocketError, match="no labels by a teacher 'z', only by a-"):
        store.read("z", 0)
    assert store.check(teachers=[FakeTeacher("a")]) == []


def test_other_library_versions_only_warn(tmp_path):
    store = label(tmp_path)
    path = tmp_path / store.teachers()[0] / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["environment"]["torch"] = "1.0"
    path.write_text(json.dumps(manifest))
    store = LabelStore(tmp_path)
    assert "torch: '1.0' there" in store.check(teachers=[FakeTeacher("a")])[0]
    assert verify(store, FakeSource(), FakeViews(FakeSource(), True), [FakeTeacher("a")], records=20)[0].warnings


def test_labels_made_elsewhere_excuse_no_teacher_of_a_similar_name(tmp_path):
    teachers = [FakeTeacher("a"), FakeTeacher("ab", seed=1)]
    path = label(tmp_path, teachers=teachers).folder / LabelStore(tmp_path).key("ab") / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"environment": manifest["environment"] | {"torch": "1.0"}}))
    source = FakeSource()
    here, elsewhere = verify(LabelStore(tmp_path), source, FakeViews(source, mixed=True), teachers, records=20)
    assert not here.warnings
    assert here.tolerance < elsewhere.tolerance


def test_shards_and_teachers_of_another_store_are_refused(tmp_path):
    """Copying goes wrong when the images or views are others: it is said before anything is learned from it."""
    store = label(tmp_path / "a")
    source = FakeSource(salt="other")
    other = label(tmp_path / "b", source, FakeViews(source, mixed=True), teachers=[FakeTeacher("b", seed=1)])
    foreign = label(tmp_path / "c", source, FakeViews(source, mixed=True))
    path = store.shards("a", 0)[0][0]
    shutil.copy(foreign.shards("a", 0)[0][0], path)
    with pytest.raises(PocketError, match="source fingerprint differs"):
        store.read("a", 0)
    shutil.copytree(tmp_path / "b" / other.teachers()[0], tmp_path / "a" / other.teachers()[0])
    with pytest.raises(PocketError, match="labelled different images"):
        LabelStore(tmp_path / "a")


def test_a_shard_in_the_wrong_view_is_refused(tmp_path):
    store = label(tmp_path)
    path = store.shards("a", 0)[0][0]
    shutil.copy(store.shards("a", 1)[0][0], path)
    with pytest.raises(PocketError, match="is of view 1"):
        store.read("a", 0)


def test_an_empty_folder_is_no_store(tmp_path):
    with pytest.raises(PocketError, match="no soft labels in"):
        LabelStore(tmp_path)


@pytest.mark.parametrize("k", [None, 5])
def test_verify_replays_records_against_the_live_teacher(tmp_path, k):
    source = FakeSource(50, 40)
    views = FakeViews(source, mixed=True)
    store = label(tmp_path, source, views, [FakeTeacher("a", 40)], k=k)
    (result,) = verify(store, source, views, [FakeTeacher("a", 40)], records=64)
    assert result.records == 64
    assert 0 < result.worst < 1e-3
    assert "64 records replayed" in result.text()


@pytest.mark.parametrize("k", [None, 5])
def test_verify_finds_a_record_that_is_not_the_teachers(tmp_path, k):
    """One logit off by 1 %, with checksums that fit."""
    source = FakeSource(16, 40)
    views = FakeViews(source)
    store = label(tmp_path, source, views, [FakeTeacher("a", 40)], count=1, k=k)
    path, info = store.shards("a", 0)[0]
    arrays = {name: array.copy() for name, array in read_shard(path)[1].items()}
    name = "values" if k else "logits"
    column = -1 if k else int(abs(arrays[name][3]).argmax())
    arrays[name][3, column] *= 1.02
    write_shard(path, info, arrays)
    with pytest.raises(PocketError, match="not what the teacher says now"):
        verify(LabelStore(tmp_path), source, views, [FakeTeacher("a", 40)], records=16)


def test_a_manifest_of_fewer_images_than_its_shards_hold_is_told(tmp_path):
    source = FakeSource(16)
    store = label(tmp_path, source, FakeViews(source), [FakeTeacher("a")], count=1)
    path = tmp_path / store.key("a") / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["source"]["images"] = 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(PocketError, match="its rows end at 16, beyond the 1 images"):
        LabelStore(tmp_path).read("a", 0)


def test_missing_rows_of_overlapping_pieces():
    assert missing_rows([(0, 4), (2, 4), (8, 2)], 12) == 4
    assert missing_rows([(0, 100)], 12) == 0
    assert missing_rows([(0, 6), (2, 1), (8, 8)], 10, 4) == 2
    assert missing_rows([], 5) == 5
