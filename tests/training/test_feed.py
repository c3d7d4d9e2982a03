"""Batches are a function of (seed, epoch, number), whatever was asked for before."""

from __future__ import annotations

import dataclasses
import itertools
import threading

import numpy as np
import pytest
import torch
from training_fakes import MIXED, PLAIN, TASK, ArraySource, FixedTeacher

from pocketvit.config import LossConfig
from pocketvit.errors import PocketError
from pocketvit.labels import FullLabels, decode, write_labels
from pocketvit.tasks import task_named
from pocketvit.training import Feed
from pocketvit.views import Views


@pytest.fixture
def feeds():
    """Make feeds, and stop their threads after the test."""
    made = []

    def make(count=45, config=MIXED, batch_size=8, **options) -> Feed:
        made.append(Feed(Views(ArraySource(count), config), batch_size, **options))
        return made[-1]

    yield make
    for feed in made:
        feed.close()


def positions(batches) -> list[list[int]]:
    return [batch.positions.tolist() for batch in batches]


@pytest.mark.parametrize("config", [PLAIN, MIXED], ids=["plain", "mixed"])
@pytest.mark.parametrize("batch_size", [2, 7, 8, 45, 64])
def test_an_epoch_shows_every_image_once_in_batches_of_nearly_equal_size(feeds, config, batch_size):
    feed = feeds(config=config, batch_size=batch_size)
    batches = positions(feed.epoch(0))
    assert len(batches) == feed.steps_per_epoch
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(45))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= max(2, batch_size)
    assert max(sizes) - min(sizes) <= 3


def test_partners_are_never_split_and_carry_each_others_class(feeds):
    feed = feeds()
    targets = feed.source.targets
    lonely = 0
    for batch in feed.epoch(0):
        order = feed.views.order(0).tolist()
        for position, partner_target, ratio in zip(
            batch.positions.tolist(), batch.partner_targets.tolist(), batch.ratio.tolist(), strict=True
        ):
            slot = order.index(position) ^ 1
            if slot >= 45:
                lonely += 1
                assert ratio == 1
                continue
            assert order[slot] in batch.positions.tolist()
            assert partner_target == targets[order[slot]] or ratio == 1
    assert lonely == 1


def test_batches_hold_the_views_of_their_positions(feeds):
    feed = feeds()
    for batch in feed.epoch(3):
        alone = feed.views.render(batch.positions.numpy(), 3)
        assert torch.equal(batch.pixels, alone.pixels)
        assert torch.equal(batch.ratio, torch.from_numpy(alone.ratio))
        assert np.array_equal(batch.targets.numpy(), feed.source.targets[batch.positions.numpy()])


def test_epochs_differ_in_order_and_are_keyed_by_the_seed(feeds):
    a, b, other = feeds(config=PLAIN), feeds(config=PLAIN), feeds(config=PLAIN, seed=1)
    first = positions(a.epoch(0))
    assert first == positions(b.epoch(0))
    assert first != positions(a.epoch(1))
    assert first != positions(other.epoch(0))


@pytest.mark.parametrize("start", [1, 4])
def test_starting_within_an_epoch_gives_the_rest_of_it(feeds, start):
    whole = list(feeds().epoch(2))
    rest = list(feeds().epoch(2, start))
    assert positions(rest) == positions(whole[start:])
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(rest, whole[start:], strict=True))


def test_epochs_can_be_taken_in_any_order_and_left_early(feeds):
    feed = feeds()
    expected = {epoch: positions(feeds().epoch(epoch)) for epoch in range(3)}
    assert positions(feed.epoch(0)) == expected[0]
    assert positions(feed.epoch(1)) == expected[1]  # prepared ahead by the same thread
    next(feed.epoch(2))
    assert positions(feed.epoch(2)) == expected[2]
    assert positions(feed.epoch(0)) == expected[0]


def test_views_are_cycled_through(feeds):
    feed = feeds(view_count=2, config=dataclasses.replace(PLAIN, flip=0.5))
    assert [feed.view(epoch) for epoch in range(5)] == [0, 1, 0, 1, 0]
    by_epoch = []
    for epoch in range(4):
        pixels = {p: x for b in feed.epoch(epoch) for p, x in zip(b.positions.tolist(), b.pixels, strict=True)}
        by_epoch.append(torch.stack([pixels[position] for position in range(45)]))
    assert torch.equal(by_epoch[0], by_epoch[2])
    assert torch.equal(by_epoch[1], by_epoch[3])
    assert not torch.equal(by_epoch[0], by_epoch[1])


def test_hard_epochs_show_views_of_their_own_without_labels(feeds, tmp_path):
    views = Views(ArraySource(), PLAIN)
    teacher = FixedTeacher(0)
    store = write_labels(tmp_path, views.source, views, [teacher], 2, progress=False, batch_size=16)
    feed = feeds(config=PLAIN, labels=store, teachers=[teacher.name], hard=range(2, 4))
    assert [feed.view(epoch) for epoch in range(6)] == [0, 1, 4, 5, 0, 1]
    for epoch in range(6):
        assert all(bool(batch.soft) == (epoch not in (2, 3)) for batch in feed.epoch(epoch))
    assert feed.fingerprint() != feeds(config=PLAIN, labels=store, teachers=[teacher.name]).fingerprint()
    with pytest.raises(ValueError, match="without features"):
        feeds(config=PLAIN, live=[teacher], hard=range(2, 4))


def test_ranks_share_each_batch(feeds):
    whole = positions(feeds().epoch(1))
    shares = [positions(feeds(rank=rank, world=2).epoch(1)) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(itertools.chain.from_iterable(parts))
        assert all(parts)
    assert all(batch.total == len(rows) for batch, rows in zip(feeds(rank=1, world=2).epoch(1), whole, strict=True))


def test_an_error_while_rendering_reaches_the_caller_and_does_not_hang_the_next_try(feeds, monkeypatch):
    feed = feeds()
    render = feed.views.render
    monkeypatch.setattr(feed.views, "render", lambda *_: (_ for _ in ()).throw(PocketError("broken image")))
    for _ in range(2):
        with pytest.raises(PocketError, match="broken image"):
            list(feed.epoch(0))
    monkeypatch.setattr(feed.views, "render", render)
    assert len(list(feed.epoch(0))) == feed.steps_per_epoch


def test_no_images_and_too_many_processes_are_told(feeds):
    with pytest.raises(PocketError, match="no training images"):
        feeds(count=0)
    with pytest.raises(PocketError, match="cannot be shared by 5 processes"):
        feeds(count=45, batch_size=8, world=5)


@pytest.mark.parametrize("config", [PLAIN, MIXED], ids=["plain", "mixed"])
def test_stored_labels_are_those_of_live_teachers_on_the_same_pixels(feeds, tmp_path, config):
    teachers = [FixedTeacher(0), FixedTeacher(1)]
    views = Views(ArraySource(), config)
    store = write_labels(tmp_path, views.source, views, teachers, 2, progress=False, batch_size=16)
    stored = feeds(config=config, labels=store, teachers=[teacher.name for teacher in teachers])
    live = feeds(config=config, live=teachers, view_count=2)
    assert stored.view_count == 2
    for epoch in range(3):
        for a, b in zip(stored.epoch(epoch), live.epoch(epoch), strict=True):
            assert torch.equal(a.pixels, b.pixels)
            for kept, fresh in zip(a.soft, b.soft, strict=True):
                torch.testing.assert_close(kept.logits, fresh.logits, rtol=1e-3, atol=1e-3)  # fp16 in the store


def test_a_store_lends_its_labels_to_student_losses(feeds, tmp_path):
    teacher = FixedTeacher(0)
    views = Views(ArraySource(), MIXED)
    store = write_labels(tmp_path, views.source, views, [teacher], 1, progress=False, batch_size=16)
    batch = next(feeds(labels=store, teachers=[teacher.name]).epoch(0))
    loss, _ = TASK.loss(LossConfig(objective="kl", temperature=1, weight=1))((batch.soft[0].logits,), batch)
    assert loss.abs() < 1e-6


def test_labels_of_other_images_views_or_outputs_are_refused(feeds, tmp_path):
    """A store is replayed only on the very images and views that were labelled."""
    views = Views(ArraySource(), MIXED)
    store = write_labels(tmp_path, views.source, views, [FixedTeacher(0)], 1, progress=False, batch_size=16)
    taught = {"labels": store, "teachers": ["teacher0"]}
    feeds(**taught, task=task_named("classification"))
    with pytest.raises(PocketError, match=r"other images.*images: 45 there, 44 here"):
        feeds(count=44, **taught)
    with pytest.raises(PocketError, match=r"other views.*flip: 0.5 there, 0.25 here"):
        feeds(config=dataclasses.replace(MIXED, flip=0.25), **taught)
    with pytest.raises(PocketError, match="of the kind softmax, and what learns from them takes sigmoid"):
        feeds(**taught, task=task_named("multilabel"))


def test_the_fingerprint_knows_teachers_classes_and_targets(feeds):
    """A resumed run must not go on with corrected labels, classes in another order, or another live teacher."""
    whole = feeds().fingerprint()
    assert whole == feeds().fingerprint()
    prints = {whole, feeds(live=[FixedTeacher(0)]).fingerprint(), feeds(live=[FixedTeacher(1)]).fingerprint()}
    for change in ("targets", "classes"):
        source = ArraySource(45)
        if change == "targets":
            source.targets[3] = -1
        else:
            source.classes = source.classes[::-1]
        prints.add(Feed(Views(source, MIXED), 8).fingerprint())
    assert len(prints) == 5


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("k", [0, 3])
def test_a_process_reads_only_the_labels_of_its_own_images(feeds, tmp_path, monkeypatch, balance, k):
    """And each image's are those that a single process would learn from."""
    views, teacher = Views(ArraySource(), MIXED), FixedTeacher(0)
    teacher.num_outputs = 5  # of which three are fewer
    teacher.weight = torch.randn(len(teacher.weight), 5, generator=torch.Generator().manual_seed(0))
    store = write_labels(tmp_path, views.source, views, [teacher], 2, k=k, progress=False, batch_size=16)
    whole = [store.read("teacher0", view) for view in (0, 1)]
    read = []
    real = type(store).read
    monkeypatch.setattr(type(store), "read", lambda self, *a: (read.append(a[2]), real(self, *a))[1])
    shown = []
    for rank in range(2):
        feed = feeds(labels=store, teachers=["teacher0"], balance=balance, rank=rank, world=2)
        for epoch in (0, 1):
            for batch in feed.epoch(epoch):
                assert torch.equal(decode(batch.soft[0]), decode(whole[epoch].index(batch.positions)))
                shown += batch.positions.tolist() if epoch == 0 else []
    assert balance or sorted(shown) == list(range(45))
    assert all(rows is not None and len(rows) < 30 for rows in read)


def test_targets_of_any_form_are_gathered(feeds):
    """Collating is a gather of the source's array: classes, labels, or numbers."""
    source = ArraySource(45)
    for targets in (np.eye(3, dtype=np.int64)[source.targets], np.arange(90, dtype=np.float32).reshape(45, 2)):
        source.targets = targets
        feed = Feed(Views(source, MIXED), 8)
        for batch in feed.epoch(0):
            assert torch.equal(batch.targets, torch.from_numpy(targets)[batch.positions])
        feed.close()


def test_threads_end_with_the_feed_and_start_again(feeds, tmp_path):
    views = Views(ArraySource(), MIXED)
    store = write_labels(tmp_path, views.source, views, [FixedTeacher(0)], 1, progress=False, batch_size=16)
    feed = feeds(labels=store, teachers=["teacher0"])
    before = threading.active_count()
    for _ in range(2):
        next(feed.epoch(0))
        assert threading.active_count() == before + 2  # one renders, one reads labels
        feed.close()
        assert threading.active_count() == before


def test_a_damaged_shard_stops_the_feed_with_its_name(feeds, tmp_path):
    views = Views(ArraySource(), MIXED)
    store = write_labels(tmp_path, views.source, views, [FixedTeacher(0)], 1, progress=False, batch_size=16)
    path = store.shards("teacher0", 0)[0][0]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    feed = feeds(labels=store, teachers=["teacher0"])
    for _ in range(2):
        with pytest.raises(PocketError, match=f"{path.name} is damaged"):
            list(feed.epoch(0))


def test_batches_for_a_gpu_are_pinned_ahead_and_their_copies_do_not_wait(feeds, tmp_path, monkeypatch):
    """All of a batch, the teachers' labels too; pinned by the thread that renders, not by the one that trains."""
    pinned, moved = [], []
    views = Views(ArraySource(), PLAIN)
    store = write_labels(tmp_path, views.source, views, [FixedTeacher(0)], 1, progress=False)

    def pin(one):
        pinned.append((type(one), threading.current_thread() is threading.main_thread()))
        return one

    def to(one, device, non_blocking=False):
        moved.append((type(one), non_blocking))
        return one

    for kind in (torch.Tensor, FullLabels):
        monkeypatch.setattr(kind, "pin_memory", pin)
        monkeypatch.setattr(kind, "to", to)
    feed = feeds(config=PLAIN, labels=store, teachers=store.teachers(), device="cuda")
    next(feed.epoch(0))
    parts = [torch.Tensor] * 5 + [FullLabels]
    assert pinned[:6] == [(part, False) for part in parts]
    assert moved[-6:] == [(part, True) for part in parts]
