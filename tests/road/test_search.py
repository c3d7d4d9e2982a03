"""Which ways `compress --fit` tries and leaves out, and how it divides the recovery; `test_compress` walks them."""

from __future__ import annotations

import dataclasses
import types

import pytest
import timm

from pocketvit.config import TrainConfig
from pocketvit.errors import PocketError
from pocketvit.road.search import Tried, _brief, _left_out, _rest, ways
from pocketvit.settings import Compress

TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}


@pytest.fixture
def origin():
    model = timm.create_model("vit_tiny_patch16_224", **TINY)
    return types.SimpleNamespace(student=types.SimpleNamespace(module=model))


def names(origin, **settings):
    return [way.name for way in ways(Compress("a", fit="1MB", **settings), origin)]


def test_what_is_asked_for_settles_its_part(origin):
    assert names(origin) == ["8 bits", "8 bits, shared by 2 blocks", "4 bits", "4 bits, shared by 2 blocks"]
    assert names(origin, share=2) == ["8 bits, shared by 2 blocks", "4 bits, shared by 2 blocks"]
    assert names(origin, quantize="qat", bits=2) == ["2 bits", "2 bits, shared by 2 blocks"]
    assert names(origin, recover=False) == ["8 bits", "8 bits, shared by 2 blocks"]  # four bits have to be trained


def test_a_student_of_one_block_has_nothing_to_share():
    model = timm.create_model("vit_tiny_patch16_224", **(TINY | {"depth": 1}))
    alone = types.SimpleNamespace(student=types.SimpleNamespace(module=model))
    assert names(alone) == ["8 bits", "4 bits"]


def way(name, share, bits, keep, note=""):
    return Tried(name, share, "dynamic" if bits == 8 else "qat", bits, keep, 1000, 1000, note=note)


def test_a_way_is_needless_where_a_simpler_one_leaves_as_much():
    """A limit of time is met by pruning: shared layers and fewer bits save none."""
    tried = [way("a", None, 8, 0.5), way("b", 2, 8, 0.5), way("c", None, 4, 0.7), way("d", 2, 4, 0.7)]
    assert [bool(one.note) for one in _left_out(tried)] == [False, True, False, True]
    assert _left_out(tried)[3].note == "not tried: c is as wide"
    wider = [way("a", None, 8, 0.3), way("b", 2, 8, 0.5)]
    assert _left_out(wider) == wider


def test_where_nothing_fits_each_way_says_why():
    tried = [dataclasses.replace(way("a", None, 8, None), note="does not fit: the graph alone takes more")]
    with pytest.raises(PocketError, match=r"--fit: nothing fits \(a: does not fit: the graph alone takes more\)"):
        _left_out(tried)


@pytest.mark.parametrize("epochs", [1, 2, 10, 13])
def test_the_brief_part_and_the_rest_are_the_recovery(epochs):
    @dataclasses.dataclass(frozen=True)
    class Config:
        train: TrainConfig

    whole = Config(dataclasses.replace(TrainConfig(), epochs=epochs, seconds=8.0))
    brief, rest = _brief(whole).train, _rest(whole, Compress("a", fit="1MB")).train
    assert brief.seconds + rest.seconds == 8.0
    assert brief.epochs + rest.epochs == max(2, epochs)
    assert brief.epochs <= rest.epochs
