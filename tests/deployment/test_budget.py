"""--fit picks the largest student whose int8 file fits, and says what was not measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pocketvit.deployment import budget
from pocketvit.deployment.budget import Budget, Candidate, choose, parse_budget
from pocketvit.errors import PocketError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3MB,20ms", Budget(3_000_000, 20)),
        ("20ms", Budget(None, 20)),
        (" 500 kB ", Budget(500_000, None)),
        ("1.5MiB", Budget(1_572_864, None)),
        ("0.1s,1e", None),
        ("0.1s", Budget(None, 100)),
        ("3", None),
        ("3MB,2MB", None),
        ("-3MB", None),
        ("0MB", None),
        ("", None),
        ("small", None),
    ],
)
def test_budgets_as_people_write_them(text, expected):
    if expected is None:
        with pytest.raises(PocketError, match="--fit"):
            parse_budget(text)
    else:
        assert parse_budget(text) == expected


@pytest.fixture
def ladder(monkeypatch):
    sizes = {"small": (500_000, 1.0), "middle": (2_000_000, 5.0), "large": (6_000_000, 25.0)}
    monkeypatch.setattr(
        budget, "candidate", lambda name, **_: Candidate(name, sizes[name][0], 4 * sizes[name][0], 1, sizes[name][1])
    )
    return tuple(sizes)


@pytest.mark.parametrize(
    ("text", "name"),
    [("3MB", "middle"), ("6.1MB", "large"), ("6MB", "middle"), ("20ms", "middle"), ("1MB,9ms", "small")],
)
def test_the_largest_that_fits_is_chosen(ladder, text, name):
    assert choose(parse_budget(text), num_classes=2, image_size=32, names=ladder).candidate.name == name


def test_a_time_is_said_not_to_be_measured_on_the_device(ladder):
    choice = choose(parse_budget("3MB,20ms"), num_classes=2, image_size=32, names=ladder)
    said = " ".join(choice.notes)
    assert "20 ms not measured on your device" in said
    assert "python bench.py" in said
    assert "large, needs 6 MB, 3 MB too much and takes 25 ms" in said


def test_when_none_fits_it_says_by_how_much(ladder):
    with pytest.raises(PocketError, match=r"--fit 400kB: the smallest, small, needs 502 kB, 102 kB too much"):
        choose(parse_budget("400kB"), num_classes=2, image_size=32, names=ladder)


def test_a_student_is_exported_once_and_then_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def create(name, *, num_classes, image_size, **_):
        width = {"narrow": 128, "wide": 512}[name]
        layers = nn.Linear(3 * image_size**2, width), nn.Linear(width, width), nn.Linear(width, num_classes)
        return nn.Sequential(nn.Flatten(), *layers)

    monkeypatch.setattr(budget, "create_student", create)
    state = torch.get_rng_state()
    choice = choose(parse_budget("100kB"), num_classes=10, image_size=8, names=("narrow", "wide"))
    assert torch.equal(torch.get_rng_state(), state)  # a search changes nothing that is trained after it
    narrow = choice.candidate
    assert narrow.name == "narrow"
    assert narrow.parameters == 192 * 128 + 128 * 128 + 128 * 10 + 128 + 128 + 10
    assert narrow.parameters < narrow.bytes < 1.2 * narrow.parameters
    assert [found.exact for found in choice.tried] == [False, True]  # too many parameters: never exported
    monkeypatch.setattr(budget, "export_onnx", None)
    assert choose(parse_budget("100kB"), num_classes=10, image_size=8, names=("narrow", "wide")) == choice
    with pytest.raises(TypeError):  # anything else is not taken from memory
        choose(parse_budget("100kB"), num_classes=11, image_size=8, names=("narrow", "wide"))
