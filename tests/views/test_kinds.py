"""What varies in an image follows its kind, so that its label stays true."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pocketvit.config import ViewConfig
from pocketvit.errors import PocketError
from pocketvit.road.viewing import view_config
from pocketvit.sources import open_images
from pocketvit.views.kinds import KINDS, careful

STRONG = ViewConfig(
    view_size=64,
    crop="random_resized",
    flip=0.5,
    randaugment_ops=2,
    erase=0.25,
    mixup=0.8,
    cutmix=1.0,
    color_jitter=0.4,
)


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_medical_image_is_erased_recoloured_at_will_or_pasted(kind: str) -> None:
    view = careful(STRONG, kind, "strong", coloured=True)
    assert view.erase == view.cutmix == 0
    assert view.randaugment_set == "gentle"
    assert view.color_jitter <= 0.2
    assert view.crop_scale[0] >= 0.7


@pytest.mark.parametrize("kind", ["xray", "ct"])
def test_left_stays_left_where_it_matters(kind: str) -> None:
    view = careful(STRONG, kind, "strong", coloured=False)
    assert view.flip == view.vertical_flip == view.transpose == view.stain_jitter == 0


def test_sections_turn_every_way_and_only_coloured_ones_have_stain() -> None:
    for kind in ("histology", "microscopy"):
        view = careful(STRONG, kind, "strong", coloured=True)
        assert view.flip == view.vertical_flip == view.transpose == 0.5
        assert view.stain_jitter > careful(STRONG, kind, "medium", coloured=True).stain_jitter > 0
        assert careful(STRONG, kind, "strong", coloured=False).stain_jitter == 0


def test_photographs_are_left_alone_and_a_mistyped_kind_is_named() -> None:
    assert careful(STRONG, "photo", "strong", coloured=True) == STRONG
    with pytest.raises(PocketError, match=r"--modality x-ray: the kinds of images are photo, xray"):
        careful(STRONG, "x-ray", "none", coloured=True)


def test_what_the_user_says_of_mirroring_counts_more_than_the_kind() -> None:
    array = np.random.default_rng(0).integers(0, 256, (20, 70, 90), dtype=np.uint8)
    dataset = open_images((array, np.arange(20) % 2), progress=False)
    xray = dataclasses.replace(dataset, modality="xray")
    assert view_config(xray, size=64, augment="medium").flip == 0
    assert view_config(xray, size=64, augment="medium", flip=True).flip == 0.5
    assert view_config(dataset, size=64, augment="medium", flip=False).flip == 0
    whole = view_config(dataset, size=64, augment="medium", aspect="pad")
    assert (whole.fit, whole.crop) == ("pad", "padded")
    assert view_config(dataset, size=80, augment="medium", aspect="pad").crop == "padded"  # all of it is to be seen


def test_who_does_not_want_mirrors_gets_none_along_the_diagonal_either() -> None:
    array = np.random.default_rng(0).integers(0, 256, (20, 70, 90, 3), dtype=np.uint8)
    section = dataclasses.replace(open_images((array, np.arange(20) % 2), progress=False), modality="histology")
    assert view_config(section, flip=True).transpose == view_config(section).transpose == 0.5
    assert view_config(section, flip=False).transpose == view_config(section, vertical_flip=False).transpose == 0
