"""Progressive resizing: smaller pictures first, on the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training_fakes import CLASSES, TASK, ArraySource, tiny_vit

from pocketvit.config import TrainConfig, ViewConfig
from pocketvit.models import create_student
from pocketvit.models.positions import fit_positions
from pocketvit.training import Feed, Stepper
from pocketvit.training.progressive import Progressive, relative_cost, smaller_side
from pocketvit.training.step import FromPixels
from pocketvit.views import Views

INPUT = (16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
STUDENTS = {
    "conv": {"patch_size": 4},
    "patch": {"patch_size": 4},
    "hybrid": {"patch_size": 4},
    "summed": {"patch_size": 4},
    "conv-token": {"patch_size": 4, "tokens": 2},
}


def student(key: str, side: int = 16) -> nn.Module:
    torch.manual_seed(0)
    stem = key.split("-")[0]
    return create_student("pocket_xxs", num_classes=CLASSES, image_size=side, stem=stem, **STUDENTS[key])


@pytest.mark.parametrize("key", STUDENTS)
def test_the_student_answers_as_one_made_for_smaller_pictures(key):
    """Of the same weights, with positions resampled as when a student is loaded at another size."""
    model = student(key).eval()
    with torch.no_grad():
        model.pos_embed.normal_()
    smaller = smaller_side(model, 16)
    small = student(key, smaller).eval()
    small.load_state_dict(fit_positions(model.state_dict(), small, (16, 16)))
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    forward = Progressive(FromPixels(model, INPUT), smaller)
    whole = forward(pixels)
    forward.small = True
    answers, expected = forward(pixels), FromPixels(small, (smaller, *INPUT[1:]))(pixels)
    for answer, wanted in zip(answers, expected, strict=True):
        torch.testing.assert_close(answer, wanted, rtol=1e-4, atol=1e-5)
    sum(answer.sum() for answer in answers).backward()
    assert model.pos_embed.grad.abs().sum() > 0  # positions learn from smaller pictures, too
    forward.small = False
    assert all(torch.equal(one, other) for one, other in zip(whole, forward(pixels), strict=True))


@pytest.mark.parametrize(("side", "smaller"), [(32, 24), (28, 21), (16, 12)])
def test_three_quarters_of_the_tokens_along_a_side(side, smaller):
    model = create_student("pocket_xxs", num_classes=CLASSES, image_size=side, stem="conv")
    assert smaller_side(model, side) == smaller


def test_networks_that_take_one_size_alone_are_left_alone():
    two_sets = create_student("pocket_xxs", num_classes=3, image_size=32, stem="concatenated")
    assert smaller_side(two_sets, 32) is None
    assert smaller_side(tiny_vit(), 8) is None  # two tokens along a side
    assert smaller_side(nn.Conv2d(3, 3, 1), 32) is None
    assert relative_cost(two_sets, 32, 0.6) == 1


def test_the_first_steps_see_smaller_pictures():
    model, seen = student("conv"), []
    model.patch_embed.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[-1]))
    config = TrainConfig(epochs=1, batch_size=8, progressive=0.5, optimizer="muon", precision="fp32")
    stepper = Stepper(model, INPUT, lambda heads, batch: (heads[0].square().mean(), {}), config, 6, task=TASK)
    feed = Feed(Views(ArraySource(48), ViewConfig(view_size=16)), 8)
    for batch in feed.epoch(0):
        stepper.take([batch])
        assert stepper.smaller == (stepper.step <= 3)
    feed.close()
    assert seen == [12, 12, 12, 16, 16, 16]
    assert model.patch_embed.img_size == (16, 16)


def test_the_cost_is_that_of_the_pixels():
    assert relative_cost(student("conv", 32), 32, 0.6) == pytest.approx(0.4 + 0.6 * 0.75**2)
    assert relative_cost(student("conv", 32), 32, 0.0) == 1
