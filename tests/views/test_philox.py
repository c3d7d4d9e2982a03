"""Random numbers: the published generator, keyed so that nothing shifts anything else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pocketvit.config import ViewConfig
from pocketvit.views.philox import _operation_code, below, draw, happens, philox4x32
from pocketvit.views.render import draw_counts

IDS = np.arange(1000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: str, key: str, expected: str) -> None:
    """The vectors are those of kat_vectors in the authors' Random123."""
    words = np.array([int(word, 16) for word in counter.split()], np.uint64)[:, None]
    low, high = (int(word, 16) for word in key.split())
    assert [f"{int(word):08x}" for word in philox4x32(words, (low, high))[:, 0]] == expected.split()


GOLDEN_FLIP = [[1593805227, 1578387918], [4156280302, 2667441091], [2699545812, 3789723263]]
GOLDEN_ERASE = [1288656290, 4007699856, 3557750648, 3869213351, 1747946099]


def test_draws_are_pinned() -> None:
    """A change here orphans every stored label: raise render.VERSION and say so."""
    ids = np.array([0, 1, 2**63 + 12345], np.uint64)
    numbers = draw(7, ids, 3, {"flip": 2, "erase": 5})
    assert numbers["flip"].tolist() == GOLDEN_FLIP
    assert numbers["erase"][2].tolist() == GOLDEN_ERASE


def test_an_operation_draws_the_same_whatever_is_drawn_with_it() -> None:
    alone = draw(1, IDS, 5, {"erase": 7})["erase"]
    among = draw(1, IDS, 5, {"crop": 22, "erase": 9, "flip": 1})["erase"]
    assert np.array_equal(alone, among[:, :7])


def test_seed_sample_view_and_operation_each_matter() -> None:
    base = draw(1, IDS, 5, {"flip": 1})["flip"]
    others = [
        draw(2, IDS, 5, {"flip": 1})["flip"],
        draw(1 + 2**40, IDS, 5, {"flip": 1})["flip"],
        draw(1, IDS ^ np.uint64(2**50), 5, {"flip": 1})["flip"],
        draw(1, IDS, -1, {"flip": 1})["flip"],
        draw(1, IDS, 5, {"mix": 1})["mix"],
    ]
    assert all(np.mean(base == other) < 0.01 for other in others)


def test_no_two_operations_share_a_code() -> None:
    numbers = {field.name: 1 for field in dataclasses.fields(ViewConfig) if type(field.default) in (int, float)}
    everything = ViewConfig(crop="padded", **numbers)  # whatever operation is added to it
    names = {*draw_counts(everything), "mix", "order", "noise"}
    assert len({_operation_code(name) for name in names}) == len(names) == 11


def test_numbers_below_a_bound_are_uniform() -> None:
    numbers = below(draw(0, np.arange(30_000, dtype=np.uint64), 0, {"x": 1})["x"][:, 0], 6)
    counts = np.bincount(numbers, minlength=6)
    assert len(counts) == 6
    assert np.abs(counts - 5000).max() < 5 * np.sqrt(5000)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_events_happen_with_their_probability(probability: float) -> None:
    share = happens(draw(0, np.arange(10_000, dtype=np.uint64), 0, {"x": 4})["x"], probability).mean()
    assert share == pytest.approx(probability, abs=0.01 if 0 < probability < 1 else 0)
