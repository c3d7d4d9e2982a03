"""Holding out: stratified, keyed, and steady when images come and go."""

from __future__ import annotations

import numpy as np

from pocketvit.sources.splits import hold_out

SHARES = {"val": 0.1, "test": 0.2}


def split(keys, targets=None, seed=0, shares=SHARES, groups=None):
    targets = np.zeros(len(keys), np.int64) if targets is None else targets
    return hold_out(keys, groups or [key.encode() for key in keys], targets, shares, seed)


def keys(count):
    return [f"image-{index}.png" for index in range(count)]


def test_each_class_gives_its_share():
    targets = np.repeat([0, 1, -1], [100, 50, 30])
    chosen = split(keys(180), targets)
    for target, count in ((0, 100), (1, 50), (-1, 30)):
        here = chosen[targets == target]
        assert (here == "val").sum() == count // 10
        assert (here == "test").sum() == count // 5


def test_small_classes_train_first():
    assert (split(keys(2)) == "train").all()
    assert sorted(split(keys(3))) == ["test", "train", "val"]
    for count in range(3, 9):
        assert (split(keys(count), shares={"val": 0.49, "test": 0.49}) == "train").any()


def test_one_more_image_moves_at_most_one_other_at_each_border():
    before = split(keys(200))
    for extra in range(20):
        after = split([*keys(200), f"new-{extra}.png"])
        assert (before != after[:-1]).sum() <= 2


def test_an_image_never_moves_between_validation_and_test():
    before, after = split(keys(100)), split(keys(400))[:100]
    assert not (((before == "val") & (after == "test")) | ((before == "test") & (after == "val"))).any()


def test_the_order_in_which_images_are_found_does_not_matter():
    names = keys(100)
    order = np.random.default_rng(0).permutation(100)
    assert (split([names[i] for i in order]) == split(names)[order]).all()


def test_another_seed_chooses_others():
    assert (split(keys(100)) != split(keys(100), seed=1)).any()


def test_a_missing_split_does_not_change_who_the_other_takes():
    both, only = split(keys(100)), split(keys(100), shares={"test": 0.2})
    assert ((both == "test") == (only == "test")).all()


def test_equal_images_stay_together():
    groups = [str(index % 40).encode() for index in range(120)]
    chosen = split(keys(120), groups=groups)
    assert all(len(set(chosen[group::40])) == 1 for group in range(40))
    assert (chosen == "val").any()
