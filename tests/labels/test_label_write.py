"""Labelling: what is written, that it can be stopped and shared at will, and what stops it."""

from __future__ import annotations

import errno
import multiprocessing
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from label_fakes import FakeSource, FakeTeacher, FakeViews

from pocketvit.errors import PocketError
from pocketvit.labels import LabelStore, plan_labels, write_labels
from pocketvit.labels import write as writing


def label(folder, images=50, classes=10, mixed=True, count=2, teachers=None, pause=0.0, **options):
    source = FakeSource(images, classes)
    teachers = teachers or [FakeTeacher("a", classes, 0, pause), FakeTeacher("b", classes, 1, pause)]
    options = {"batch_size": 8, "rows_per_shard": 16, "progress": False} | options
    return write_labels(folder, source, FakeViews(source, mixed), teachers, count, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a store, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("k", [None, 12])
def test_the_store_gives_back_what_the_teacher_said_in_source_order(tmp_path, mixed, k):
    """Every image of every view, whatever order the rows are stored in; fp16 rounding is all that is lost."""
    teacher = FakeTeacher(classes=40)
    store = label(tmp_path, classes=40, mixed=mixed, teachers=[teacher], k=k)
    views = FakeViews(FakeSource(50, 40), mixed)
    for view in (0, 1):
        soft = store.read("teacher", view)
        logits = teacher.logits(views.render(np.arange(50), view).pixels)
        if k is None:
            assert torch.allclose(soft.logits, logits, rtol=2**-10, atol=1e-3)
        else:
            shifted = logits - logits.amax(1, keepdim=True)
            assert torch.allclose(soft.values, shifted.gather(1, soft.ids), rtol=2**-10, atol=1e-3)
            assert torch.allclose(soft.maximum, logits.amax(1))


def test_true_classes_of_image_and_partner_are_kept(tmp_path):
    source = FakeSource(50, 40)
    views = FakeViews(source, mixed=True)
    store = label(tmp_path, classes=40, k=3)
    partner = views.render(np.arange(50), 1).partner
    soft = store.read("a", 1)
    ids = soft.ids.numpy()
    for wanted in (source.targets, source.targets[partner]):
        assert (ids == wanted[:, None]).any(1).all()
    assert (soft.values[:, 0] == 0).all()  # and the teacher's own class, which `hard` learns


def test_each_view_is_rendered_once_for_all_teachers(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "plan_labels", lambda *a, **o: plan_labels(*a, **o, probe=False))
    source = FakeSource(50)
    views = FakeViews(source, mixed=True)
    teachers = [FakeTeacher(name, seed=seed) for seed, name in enumerate("abc")]
    write_labels(tmp_path, source, views, teachers, 2, batch_size=8, rows_per_shard=16, progress=False)
    assert views.rendered == 2 * 50
    assert all(sum(teacher.batches) == 2 * 50 for teacher in teachers)


def test_batches_do_not_depend_on_how_shards_are_cut(tmp_path, monkeypatch):
    """Otherwise the last bits of the logits would."""
    monkeypatch.setattr(writing, "plan_labels", lambda *a, **o: plan_labels(*a, **o, probe=False))
    seen = []
    for rows in (8, 16, 1000):
        teacher = FakeTeacher()
        label(tmp_path / str(rows), teachers=[teacher], rows_per_shard=rows)
        seen.append(teacher.batches)
    assert seen[0] == seen[1] == seen[2] == [8, 8, 8, 8, 8, 8, 2] * 2


def test_more_views_and_teachers_only_add_files(tmp_path):
    label(tmp_path, count=1, teachers=[FakeTeacher("a")])
    before = contents(tmp_path)
    label(tmp_path, count=3, teachers=[FakeTeacher("a")])
    store = label(tmp_path, count=2, teachers=[FakeTeacher("a"), FakeTeacher("b", seed=1)])
    after = contents(tmp_path)
    assert before.items() <= after.items()
    assert store.views("a") == [0, 1, 2]
    assert store.views("b") == store.views() == [0, 1]
    label(tmp_path / "at once", count=2)
    assert {n: b for n, b in after.items() if n.startswith("b-")} == {
        n: b for n, b in contents(tmp_path / "at once").items() if n.startswith("b-")
    }


def test_labelling_again_touches_nothing(tmp_path):
    label(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    teachers = [FakeTeacher("a"), FakeTeacher("b", seed=1)]
    label(tmp_path, teachers=teachers)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert not teachers[0].batches


def test_a_deleted_shard_alone_is_computed_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "plan_labels", lambda *a, **o: plan_labels(*a, **o, probe=False))
    store = label(tmp_path)
    before = contents(tmp_path)
    store.shards("b", 1)[2][0].unlink()
    teachers = [FakeTeacher("a"), FakeTeacher("b", seed=1)]
    label(tmp_path, teachers=teachers)
    assert (teachers[0].batches, teachers[1].batches) == ([], [8, 8])
    assert contents(tmp_path) == before


def test_two_processes_write_the_bytes_of_one(tmp_path, monkeypatch):
    """Rank 0 plans and takes every second shard, rank 1 the others, as under torchrun."""
    label(tmp_path / "one")
    monkeypatch.setattr(writing, "wait_for", lambda paths: None)  # they run after each other here
    counts = []
    for rank in (0, 1):
        label(tmp_path / "two", rank=rank, world=2)
        counts.append(len(contents(tmp_path / "two")))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert counts == [2 + 8, 2 + 16]


def _label_slowly(folder: str) -> None:
    label(Path(folder), images=120, pause=0.1)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_three_times_at_random_moments_the_store_ends_with_the_bytes_of_an_unbroken_one(tmp_path):
    """SIGKILL while labelling; what is left is resumed, and no temporary file stays behind."""
    label(tmp_path / "unbroken", images=120)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["label_fakes", "pocketvit.labels"])
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    folder, progress = tmp_path / "killed", []
    for _ in range(3):
        process = context.Process(target=_label_slowly, args=(str(folder),))
        process.start()
        while not folder.exists() and process.is_alive():
            time.sleep(0.01)
        time.sleep(rng.uniform(0.05, 0.4))
        assert process.is_alive(), "it ended before it was killed: make it slower"
        process.kill()
        process.join()
        progress.append(len(list(folder.rglob("rows-*.safetensors"))))
    assert progress[-1] < 32, "nothing was left to resume: make it slower"
    label(folder, images=120)
    assert contents(folder) == contents(tmp_path / "unbroken"), f"seed {seed}, shards after each kill {progress}"


def test_a_full_disk_leaves_finished_shards_and_says_how_to_go_on(tmp_path, monkeypatch):
    """The third shard cannot be written; after space was made, the rest is labelled and equals an unbroken store."""
    real, calls = Path.write_bytes, []

    def full(path, data):
        calls.append(path)
        if len(calls) == 3:
            real(path, data[:9])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PocketError, match=r"disk is full.*Finished shards stay.*running `label` again"):
        label(tmp_path / "full")
    monkeypatch.setattr(Path, "write_bytes", real)
    label(tmp_path / "unbroken")
    left, whole = contents(tmp_path / "full"), contents(tmp_path / "unbroken")
    assert left.items() < whole.items()
    assert sum(name.endswith("safetensors") for name in left) >= 2
    label(tmp_path / "full")
    assert contents(tmp_path / "full") == whole


def test_too_little_space_is_found_out_before_anything_is_written(tmp_path, monkeypatch):
    from pocketvit import files

    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: _Usage)
    with pytest.raises(PocketError, match=r"needs .* but only 1 kB are free"):
        label(tmp_path / "store")
    assert not (tmp_path / "store").exists()


class _Usage:
    free = 1000


@pytest.mark.parametrize("k", [None, 3])
def test_logits_that_are_not_finite_stop_labelling_and_name_the_image(tmp_path, k):
    class Broken(FakeTeacher):
        def logits(self, pixels):
            logits = super().logits(pixels)
            if len(self.batches) == 8:
                logits[2, 1] = float("nan")
            return logits

    with pytest.raises(PocketError, match=r"teacher gave logits that are not finite.*image-\d+.png, view 0"):
        label(tmp_path, mixed=False, count=1, teachers=[Broken()], k=k)
    assert len(list(tmp_path.rglob("rows-*.safetensors"))) >= 1


def test_a_teacher_that_changes_while_it_labels_writes_nothing(tmp_path):
    class Learning(FakeTeacher):
        def check_unchanged(self):
            raise PocketError("its buffers changed")

    with pytest.raises(PocketError, match="buffers changed"):
        label(tmp_path, teachers=[Learning()])
    assert not list(tmp_path.rglob("rows-*.safetensors"))


def test_requests_that_cannot_be_served_are_refused(tmp_path):
    label(tmp_path, classes=40, teachers=[FakeTeacher("a", 40)], k=3)
    with pytest.raises(PocketError, match="hold top 3 of 40 logits, not all 40"):
        label(tmp_path, classes=40, teachers=[FakeTeacher("a", 40)], k=0)
    with pytest.raises(PocketError, match="10 outputs, but fake has 40 classes"):
        label(tmp_path / "b", classes=40, teachers=[FakeTeacher("a", 10)])
    with pytest.raises(PocketError, match="named twice"):
        label(tmp_path / "b", teachers=[FakeTeacher(), FakeTeacher()])
    with pytest.raises(PocketError, match="even batch size"):
        label(tmp_path / "b", batch_size=7)
    with pytest.raises(PocketError, match="at least one view per image"):
        label(tmp_path / "b", count=0)
    for few in (1, 2):  # of two logits, both may be those of a mixed pair's classes, and neither the teacher's own
        with pytest.raises(PocketError, match="at least 3"):
            label(tmp_path / "b", k=few)
    assert not (tmp_path / "b").exists()


def test_ctrl_c_keeps_finished_shards_and_leaves_no_thread(tmp_path):
    import threading

    class Interrupted(FakeTeacher):
        def logits(self, pixels):
            if len(self.batches) == 9:
                raise KeyboardInterrupt
            return super().logits(pixels)

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        label(tmp_path, teachers=[Interrupted()])
    assert len(list(tmp_path.rglob("rows-*.safetensors"))) >= 1
    assert not list(tmp_path.rglob("*.part"))
    assert threading.active_count() == before


def test_the_plan_names_the_bytes_that_are_written(tmp_path):
    source = FakeSource(50, 300)
    views = FakeViews(source)
    plan = plan_labels(50, [FakeTeacher("a", 300)], views, 3, batch_size=8, rows_per_shard=32)
    write_labels(tmp_path, source, views, [FakeTeacher("a", 300)], 3, batch_size=8, rows_per_shard=32, progress=False)
    written = sum(len(data) for name, data in contents(tmp_path).items() if name.endswith("safetensors"))
    assert written <= plan.bytes < 1.2 * written
    assert plan.seconds > 0
    assert "50 images x 3 views x 1 teacher" in plan.text()
    assert "top 100 of 300 logits, 416 bytes per record" in plan.text()


def test_a_shard_is_at_most_five_minutes_of_work(monkeypatch):
    from pocketvit.labels import plan

    monkeypatch.setattr(plan, "probe_speed", lambda *_: (10.0, [0.0]))
    source = FakeSource(100_000)
    slow = plan_labels(100_000, [FakeTeacher()], FakeViews(source), 1)
    assert slow.rows_per_shard == 2048
    monkeypatch.setattr(plan, "probe_speed", lambda *_: (1e6, [0.0]))
    fast = plan_labels(100_000, [FakeTeacher()], FakeViews(source), 1)
    assert fast.rows_per_shard == 65_536


def test_a_store_reopened_is_the_store_returned(tmp_path):
    store = label(tmp_path)
    again = LabelStore(tmp_path)
    assert again.manifest == store.manifest
    assert torch.equal(again.read("a", 1).logits, store.read("a", 1).logits)


def test_adding_a_teacher_with_fewer_logits_leaves_the_first_as_it_is(tmp_path):
    """Each teacher has its own k; the plan counts the bytes of what is missing only."""
    label(tmp_path, classes=40, teachers=[FakeTeacher("a", 40)])
    teachers = [FakeTeacher("a", 40), FakeTeacher("b", 40, seed=1)]
    source = FakeSource(50, 40)
    plan = writing._plan(tmp_path, source, FakeViews(source, True), teachers, 2, None, None, None)
    assert plan.missing == (0, 100)
    assert "a: all 40 logits, 84 bytes per record, complete" in plan.text()
    store = label(tmp_path, classes=40, teachers=teachers[1:], k=3)
    assert [store.record(name).k for name in "ab"] == [0, 3]
