"""--fit picks the largest student whose int8 file fits, and says what was not measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pocketvit.config import NetworkConfig
from pocketvit.deployment import budget, export_onnx, quantize_int8
from pocketvit.deployment.budget import Budget, Candidate, choose, parse_budget
from pocketvit.errors import PocketError
from pocketvit.tasks import base, task_named
from pocketvit.views.preprocessing import Preprocessing


def asked(side: int, classes: int) -> dict:
    about = Preprocessing.plain((side, (0.5,) * 3, (0.5,) * 3))
    return {"network": NetworkConfig(), "classes": [f"c{i}" for i in range(classes)], "preprocessing": about}


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
        budget,
        "candidate",
        lambda network, *_, **__: Candidate(
            network.name, sizes[network.name][0], 4 * sizes[network.name][0], 1, sizes[network.name][1]
        ),
    )
    return tuple(sizes)


@pytest.mark.parametrize(
    ("text", "name"),
    [("3MB", "middle"), ("6.1MB", "large"), ("6MB", "middle"), ("20ms", "middle"), ("1MB,9ms", "small")],
)
def test_the_largest_that_fits_is_chosen(ladder, text, name):
    assert choose(parse_budget(text), **asked(32, 2), names=ladder).candidate.name == name


def test_a_time_is_said_not_to_be_measured_on_the_device(ladder):
    choice = choose(parse_budget("3MB,20ms"), **asked(32, 2), names=ladder)
    said = " ".join(choice.notes)
    assert "20 ms not measured on your device" in said
    assert "python bench.py" in said
    assert "large, needs 6,000,256 bytes, 3 MB too much and takes 25 ms" in said


def test_when_none_fits_it_says_by_how_much(ladder):
    with pytest.raises(
        PocketError, match=r"into 400,000 bytes \(--fit\): the smallest, small, needs 500,256 bytes, 100 kB too much"
    ):
        choose(parse_budget("400kB"), **asked(32, 2), names=ladder)


def test_a_student_is_exported_once_and_then_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def create(name, *, num_classes, image_size, **_):
        width = {"narrow": 128, "wide": 512}[name]
        layers = nn.Linear(3 * image_size**2, width), nn.Linear(width, width), nn.Linear(width, num_classes)
        return nn.Sequential(nn.Flatten(), *layers)

    monkeypatch.setattr(base, "create_student", create)
    state = torch.get_rng_state()
    choice = choose(parse_budget("100kB"), **asked(8, 10), names=("narrow", "wide"))
    assert torch.equal(torch.get_rng_state(), state)  # a search changes nothing that is trained after it
    narrow = choice.candidate
    assert narrow.name == "narrow"
    assert narrow.parameters == 192 * 128 + 128 * 128 + 128 * 10 + 128 + 128 + 10
    assert narrow.parameters < narrow.bytes < 1.2 * narrow.parameters
    assert [found.exact for found in choice.tried] == [False, True]  # too many parameters: never exported
    monkeypatch.setattr(budget, "export_onnx", None)
    assert choose(parse_budget("100kB"), **asked(8, 10), names=("narrow", "wide")) == choice
    with pytest.raises(TypeError):  # anything else is not taken from memory
        choose(parse_budget("100kB"), **asked(8, 11), names=("narrow", "wide"))


def test_for_boxes_the_student_that_is_sized_is_a_detector(monkeypatch):
    about, boxes = asked(32, 3), task_named("detection")
    network = NetworkConfig("pocket_xxs", stem="hybrid")
    found = budget._student(network, budget.Signature(tuple(about["classes"]), about["preprocessing"], boxes))
    assert boxes.classes_in(found.eval()(torch.zeros(1, 3, 32, 32))) == 3


class Twins(nn.Module):
    """Two layers of one shape, whose fresh biases and norms are equal and whose trained ones are not."""

    def __init__(self, *_, num_classes: int, image_size: int, **__) -> None:
        super().__init__()
        layers = [nn.Linear(3 * image_size**2, 96)]
        for _ in range(2):
            layers += [nn.Linear(96, 96), nn.LayerNorm(96), nn.ReLU()]
            nn.init.zeros_(layers[-3].bias)
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(96, num_classes))

    def forward(self, x):
        return self.layers(x)


def test_the_size_that_is_announced_is_that_of_the_file_that_ships(tmp_path, monkeypatch):
    """Fresh biases are all zero and are stored once; a trained student's file was 4 % larger than announced."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(base, "create_student", Twins)
    about = asked(8, 3)
    announced = budget.candidate(about["network"], budget.Signature(tuple(about["classes"]), about["preprocessing"]))
    student = Twins(num_classes=3, image_size=8)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    for target in (0, 1):
        nn.functional.cross_entropy(student(torch.rand(1, 3, 8, 8)), torch.tensor([target])).backward()
        optimizer.step()
    fp32 = export_onnx(student, tmp_path / "a.onnx", classes=about["classes"], preprocessing=about["preprocessing"])
    size = quantize_int8(fp32, tmp_path / "b.onnx").stat().st_size
    assert abs(size - announced.bytes) <= budget.SLACK
    assert Budget(announced.bytes + budget.SLACK).excess(size) is None
    assert "too much" in Budget(size - 1).excess(size)


def test_times_of_another_machine_are_not_taken_from_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(budget, "_processor", lambda: "the old laptop")
    monkeypatch.setattr(
        base, "create_student", lambda *_, **__: nn.Sequential(nn.Flatten(), nn.Linear(192, 128), nn.Linear(128, 10))
    )
    choose(parse_budget("100kB"), **asked(8, 10), names=("narrow",))
    monkeypatch.setattr(budget, "export_onnx", None)
    choose(parse_budget("100kB"), **asked(8, 10), names=("narrow",))
    monkeypatch.setattr(budget, "_processor", lambda: "the new one")
    with pytest.raises(TypeError):
        choose(parse_budget("100kB"), **asked(8, 10), names=("narrow",))
