"""A second round: pictures that the teacher answers as wanted, and a student otherwise."""

import numpy as np
import pytest
import synthesis_fakes
import torch
from scipy.spatial.distance import jensenshannon
from test_layouts import layouts
from test_other_kinds import SIDE, Patches

import pocketvit
from pocketvit.errors import PocketError
from pocketvit.synthesis import DrawnConfig, InversionConfig, Rival, draw_bank, invert_bank
from pocketvit.synthesis.layouts import Sizes
from pocketvit.synthesis.moving import Move
from pocketvit.synthesis.rival import divergence
from pocketvit.teachers import detector_teacher

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def pupil():
    """A student that has learned a part of what its teacher knows."""
    return synthesis_fakes.colour_network(steps=12)


def student_of(module):
    rival = synthesis_fakes.teacher_of(module)
    rival.name = "pupil"
    return rival


def test_the_divergence_is_jensens_and_shannons():
    one, other = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 4)
    expected = jensenshannon(one.softmax(1).numpy(), other.softmax(1).numpy(), axis=1) ** 2
    assert np.allclose(divergence("softmax", one, other), expected, atol=1e-5)
    assert torch.allclose(divergence("sigmoid", one[:, :1], other[:, :1]), divergence(
        "softmax", torch.cat([one[:, :1], other[:, :1]], 1), other[:, :2]
    ), atol=1e-5)  # fmt: skip
    assert torch.allclose(divergence("softmax", one, one), torch.zeros(5), atol=1e-6)


def test_pictures_are_answered_otherwise_by_the_rival_and_still_as_wanted_by_the_teacher(teacher, pupil, tmp_path):
    student = student_of(pupil)
    start = draw_bank(tmp_path / "start", teacher, DrawnConfig(48), **QUIET)
    config = InversionConfig(48, steps=30, batch=24)
    plain = invert_bank(tmp_path / "plain", teacher, config, start=start, **QUIET)
    bank = invert_bank(tmp_path / "bank", teacher, config, start=start, rival=Rival(student, teacher), **QUIET)

    def apart(images):
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        return float(divergence("softmax", teacher.logits(pixels), student.logits(pixels)).mean())

    assert apart(bank.images) > 1.2 * apart(plain.images)
    assert (bank.probabilities.max(1) >= config.confidence).all()
    assert len(bank) > 30
    assert bank.provenance["provenance"]["rival"]["name"] == "pupil"
    with pytest.raises(PocketError, match="holds"):  # another bank
        invert_bank(tmp_path / "bank", teacher, config, start=start, **QUIET)


def test_how_well_a_detector_sees_a_layout_is_a_share_with_a_gradient():
    rival = detector_teacher(
        Patches(), name="patches", activation="sigmoid", input_size=SIDE, norm=((0,) * 3, (1,) * 3),
        classes=("red", "green"),
    )  # fmt: skip
    still = Move(0, 0, torch.zeros(4, dtype=torch.bool))
    pictures = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    seen = Rival(rival, rival).sees(pictures, layouts(4, Sizes([np.zeros((0, 2))] * 2)), still, SIDE)
    assert 0 < float(seen.detach()) < 1
    (gradient,) = torch.autograd.grad(seen, pictures)
    assert gradient.abs().max() > 0


def test_a_rival_answers_what_its_teacher_answers(teacher, pupil):
    other = synthesis_fakes.teacher_of(synthesis_fakes.ColourNet(classes=5), classes=None)
    with pytest.raises(PocketError, match=r"softmax, 5 outputs\) than .*softmax, 3 outputs"):
        Rival(other, teacher)


def test_the_command_names_its_rival_and_refuses_other_methods(teacher, pupil, tmp_path):
    asked = {"teacher": teacher, "rival": student_of(pupil), "count": 12, "out": tmp_path}
    plan, without = (
        pocketvit.synthesize(**asked | more, method="inverted", plan=True) for more in ({}, {"rival": None})
    )
    assert plan.data["seconds"] > without.data["seconds"]
    made = pocketvit.synthesize(**asked, method="inverted")
    assert made.data["provenance"]["provenance"]["rival"]["name"] == "pupil"
    with pytest.raises(PocketError, match=r"--rival .*other methods optimize nothing\. Add --method inverted"):
        pocketvit.synthesize(**asked, method="drawn")
    with pytest.raises(PocketError, match=r"--method drawn optimizes nothing.*leave --rival away"):
        pocketvit.synthesize(**asked)  # what auto is of a classifier
