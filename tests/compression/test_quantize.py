"""Quantized files keep their promise, or say which layers they took back, or are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compression_fakes import CLASSES, INPUT, OTHERS, PIXELS, SIDE, exported, kinds, product, run, student
from torch import nn

from pocketvit.compression import (
    answers,
    before_norms,
    calibration_views,
    check_calibration,
    fake_quantize,
    mixed_bits,
    noise_views,
    quantize,
    sensitivity,
    weight_bytes,
)
from pocketvit.compression.calibration import Ranges
from pocketvit.compression.quantize import Quantized, points_lost
from pocketvit.errors import NotSmaller, PocketError
from pocketvit.models import create_student


def agreement(model):
    expected = answers(model, OTHERS, INPUT).argmax(1).numpy()
    return lambda graph: float((run(graph, OTHERS).argmax(1) == expected).mean())


def test_a_good_file_is_let_pass_whole(plain):
    model, graph = plain
    found = quantize(fake_quantize(model, PIXELS, INPUT), graph, agreement(model), PIXELS, INPUT, max_drop=10.0)
    assert found.kept == ()
    assert found.drop <= 10.0
    assert "layers stay" not in found.text()


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """A network with one layer in which a single row dwarfs what the answer hangs on: its 2 bits are worth nothing."""
    model = student()
    return model, exported(model, tmp_path_factory.mktemp("fragile"))


def test_layers_go_back_until_the_file_is_good_enough(fragile):
    model, graph = fragile
    rounded = fake_quantize(model, PIXELS, INPUT, bits=2, learned=False)
    expected = answers(model, OTHERS, INPUT).numpy()

    def score(given):
        return 1 - float(np.square(run(given, OTHERS) - expected).mean() / np.square(expected).mean())

    worst = quantize(rounded, graph, score, PIXELS, INPUT, max_drop=1000.0)
    found = quantize(rounded, graph, score, PIXELS, INPUT, max_drop=worst.drop / 4)
    assert 0 < len(found.kept) <= len(list(sensitivity(rounded, PIXELS, INPUT)))
    assert found.drop <= worst.drop / 4
    assert all(name in found.text() for name in found.kept)
    assert found.kept == tuple(sensitivity(rounded, PIXELS, INPUT))[: len(found.kept)]


def test_a_file_that_cannot_be_good_enough_is_refused(plain):
    model, graph = plain
    calls = iter([1.0, *[0.5] * 20])
    rounded = fake_quantize(model, PIXELS, INPUT)
    with pytest.raises(PocketError, match=r"50\.00 points below fp32, and still 50.00 with every layer in fp32"):
        quantize(rounded, graph, lambda _: next(calls), PIXELS, INPUT)


class Twice(nn.Module):
    """Two products, and a layer that nothing is fed into."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(64, 48, bias=False), nn.Linear(48, 32, bias=False)
        self.idle = nn.Linear(64, 64)

    def forward(self, x):
        return self.second(self.first(x.flatten(1)[:, :64]))


def test_only_layers_that_stand_in_the_graph_are_taken_back():
    model = Twice()
    graph = product(*(layer.weight.detach().numpy().T for layer in (model.first, model.second)))
    rounded = fake_quantize(model, PIXELS, INPUT, activations="dynamic", learned=False)

    def score(given):
        return 0.5 if "MatMulInteger" in kinds(given) else 1.0

    found = quantize(rounded, graph, score, PIXELS, INPUT)
    assert sorted(found.kept) == ["first", "second"]
    assert found.drop == 0
    assert "no product runs in integers" in found.text()
    assert "no product" not in quantize(rounded, graph, score, PIXELS, INPUT, max_drop=100.0).text()
    with pytest.raises(NotSmaller, match="none of the network's layers was found"):
        quantize(rounded, product(np.ones((64, 64), np.float32)), score, PIXELS, INPUT)


def test_the_layer_that_harms_most_comes_first(plain):
    model, _ = plain
    rounded = fake_quantize(model, PIXELS, INPUT, bits={"blocks.1.mlp.fc1": 2})
    changes = sensitivity(rounded, PIXELS, INPUT)
    assert next(iter(changes)) == "blocks.1.mlp.fc1"
    assert list(changes.values()) == sorted(changes.values(), reverse=True)


def test_mixed_bits_meet_a_limit_and_spare_what_is_fragile(plain):
    model, _ = plain
    changes = {
        bits: sensitivity(fake_quantize(model, PIXELS, INPUT, bits=bits, learned=False), PIXELS, INPUT)
        for bits in (8, 4, 2)
    }
    weights = dict(model.named_parameters())
    limit = 0.6 * weight_bytes(weights)
    bits = mixed_bits(model, changes, limit)
    assert weight_bytes(weights, {f"{name}.weight": count for name, count in bits.items()}) <= limit
    assert len(set(bits.values())) > 1
    with pytest.raises(PocketError, match="the weights still take"):
        mixed_bits(model, changes, 100)


def test_calibration_of_one_class_or_one_colour_is_refused():
    views = noise_views(32, 16).pixels
    classes = ("cat", "dog")
    check_calibration(views, np.array([0, 1] * 16), classes)
    with pytest.raises(PocketError, match="all 32 calibration images are of the class 'dog', of 2"):
        check_calibration(views, np.ones(32, np.int64), classes)
    with pytest.raises(PocketError, match="32 of 32 calibration images are of one colour"):
        check_calibration(torch.full((32, 3, 16, 16), 9, dtype=torch.uint8))
    with pytest.raises(PocketError, match="all calibration images are the same one"):
        check_calibration(views[:1].expand(32, -1, -1, -1))
    with pytest.raises(PocketError, match="at least 8 views"):
        check_calibration(views[:4])


def test_views_are_taken_evenly_from_the_source(tmp_path):
    from walk_fakes import draw_photos

    from pocketvit.config import ViewConfig
    from pocketvit.sources import open_images
    from pocketvit.views import Views

    train = open_images(draw_photos(tmp_path / "photos")).train
    found = calibration_views(Views(train, ViewConfig(view_size=16), seed=0), 24)
    assert found.pixels.shape == (24, 3, 16, 16)
    assert found.text() == "24 real images"


def test_an_outlier_does_not_decide_a_range():
    ranges = Ranges()
    values = torch.randn(1 << 15, generator=torch.Generator().manual_seed(0))
    values[0] = 1000.0
    ranges.add(values)
    assert float(ranges.scale()[0]) < 0.1


def test_pictures_with_boxes_calibrate_too():
    from pocketvit.config import ViewConfig
    from pocketvit.sources import open_images
    from pocketvit.views import Views

    train = open_images("scenes").train
    found = calibration_views(Views(train, ViewConfig(view_size=32), seed=0), 12)
    assert len(found.pixels) == 12
    assert found.origin == "real"


def test_half_a_point_is_half_a_point():
    """In floats 1 - 0.995 is a little more than 0.005."""
    for right in range(6, 1001):
        assert points_lost(right / 1000, (right - 5) / 1000) == 0.5
    assert Quantized(None, 0.5, ("a",)).text(" on test") == "0.50 points below fp32 on test; 1 layer stays fp32: a"


def test_folded_convolutions_go_back_too(tmp_path):
    torch.manual_seed(0)
    model = create_student("pocket_xxs", num_classes=len(CLASSES), image_size=SIDE, stem="conv").eval()
    kept = before_norms(model, SIDE)
    assert kept
    rounded = fake_quantize(model, PIXELS, INPUT, keep=kept)
    graph = exported(model, tmp_path)

    def whole(given):
        return sum(
            len(one.dims) == 4 and one.data_type == 1 and np.prod(one.dims) >= 1024 for one in given.graph.initializer
        )

    def score(given):  # good where no convolution is rounded but the one that makes tokens
        return 1.0 if whole(given) >= whole(graph) - 1 >= 2 else 0.5

    found = quantize(rounded, graph, score, PIXELS, INPUT)
    assert found.drop == 0
    assert found.kept
    assert not set(found.kept) & set(sensitivity(rounded, PIXELS[:8], INPUT))  # no other layer
