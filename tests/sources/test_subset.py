"""Fewer images or labels of a source: the same images, balanced, with views that stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from pocketvit.config import ViewConfig
from pocketvit.sources import open_images
from pocketvit.sources.subset import Subset, balanced, hide_labels
from pocketvit.views import Views


@pytest.fixture(scope="module")
def source():
    array = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    targets = np.repeat([0, 1, 2], [30, 25, 5])
    return open_images((array, targets), val_fraction=0, progress=False).train


def test_a_subset_holds_the_images_asked_for_in_their_order(source):
    positions = np.array([7, 3, 50])
    some = Subset(source, positions)
    assert len(some) == 3
    assert np.array_equal(some.ids, source.ids[positions])
    assert np.array_equal(some.targets, source.targets[positions])
    assert list(some.names) == [source.names[position] for position in positions]
    assert np.array_equal(some.rgb(np.array([2, 0])), source.rgb(np.array([50, 7])))
    assert np.array_equal(some[1][0], source[3][0])
    assert (some.classes, some.size, some.split) == (source.classes, source.size, source.split)


def test_fingerprints_tell_subsets_apart(source):
    prints = {Subset(source, np.array(chosen)).fingerprint for chosen in ([1, 2], [2, 1], [1], [1, 2, 3])}
    assert len(prints) == 4
    assert source.fingerprint not in prints
    assert Subset(source, np.array([1, 2])).fingerprint == Subset(source, np.array([1, 2])).fingerprint


def test_a_subset_has_the_views_of_the_whole(source):
    config = ViewConfig(view_size=8, crop="padded", flip=0.5, randaugment_ops=2)
    whole = Views(source, config).render(np.array([4, 9]), 3).pixels
    part = Views(Subset(source, np.array([9, 4])), config).render(np.array([1, 0]), 3).pixels
    assert (whole == part).all()


@pytest.mark.parametrize("count", [3, 15, 20, 60, 100])
def test_classes_take_turns_until_one_runs_out(source, count):
    chosen = balanced(source, count)
    assert len(chosen) == min(count, 60)
    assert (np.diff(chosen) > 0).all()
    counts = np.bincount(source.targets[chosen], minlength=3)
    available = np.array([30, 25, 5])
    short = counts < available
    assert counts.max() - counts[short].min() <= 1 if short.any() else (counts == available).all()


def test_choices_are_repeatable_and_depend_on_the_seed(source):
    assert np.array_equal(balanced(source, 12), balanced(source, 12))
    assert not np.array_equal(balanced(source, 12), balanced(source, 12, seed=1))


def test_more_labels_keep_those_that_were_chosen(source):
    assert set(balanced(source, 6)) < set(balanced(source, 12))


def test_hidden_labels_are_forgotten_in_a_copy_alone(source):
    hidden = hide_labels(source, np.array([0, 40]))
    assert hidden.targets[[0, 40]].tolist() == [0, 1]
    assert (np.delete(hidden.targets, [0, 40]) == -1).all()
    assert (source.targets >= 0).all()
    assert np.array_equal(hidden.rgb(np.array([5])), source.rgb(np.array([5])))
    assert hidden.fingerprint == source.fingerprint  # the images are the same, so that stored labels serve


def test_of_several_labels_the_rarest_takes_its_turn_and_hidden_ones_are_whole_rows():
    labels = np.zeros((40, 3), np.int64)
    labels[:, 0] = 1
    labels[::8, 1] = 1
    labels[3] = [0, 0, 1]
    array = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    several = open_images((array, labels), val_fraction=0, progress=False).train
    assert several.targets[balanced(several, 5)].sum(0).tolist()[1:] == [2, 1]
    hidden = hide_labels(several, np.array([3]))
    assert hidden.targets[3].tolist() == [0, 0, 1]
    assert (np.delete(hidden.targets, 3, 0) == -1).all()
    assert Subset(hidden, np.array([4]))[0][1].tolist() == [-1, -1, -1]
