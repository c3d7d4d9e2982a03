"""Configs survive YAML and JSON, keep defaults out of fingerprints, and say in what they differ."""

from __future__ import annotations

import json

import pytest
import yaml

from pocketvit.config import (
    LossConfig,
    RunConfig,
    TeacherConfig,
    TrainConfig,
    ViewConfig,
    changed,
    differences,
    from_dict,
    to_dict,
)
from pocketvit.errors import PocketError

FULL = RunConfig(
    images="photos",
    window=(0.0, 4095.0),
    teachers=(TeacherConfig("resnet50", norm="half"), TeacherConfig("mine.pth", arch="vit", input_size=96)),
    fine_tune=False,
    top_k=100,
    view=ViewConfig(view_size=64, crop="random_resized", crop_scale=(0.2, 0.9), mixup=0.8),
    loss=LossConfig(objective="dkd", weight=0.5),
    train=TrainConfig(epochs=3, learning_rate=1e-7, seed=4),
)


@pytest.mark.parametrize("config", [RunConfig(), FULL])
@pytest.mark.parametrize(
    "journey", [lambda values: yaml.safe_load(yaml.safe_dump(values)), lambda values: json.loads(json.dumps(values))]
)
def test_a_config_comes_back_from_text_as_it_was(config, journey):
    assert from_dict(RunConfig, journey(to_dict(config))) == config


def test_a_field_of_another_version_is_named():
    values = to_dict(RunConfig())
    values["train"]["epocs"] = 3
    with pytest.raises(PocketError, match=r"unknown fields \['epocs'\] in a TrainConfig"):
        from_dict(RunConfig, values)


def test_a_missing_field_takes_its_default():
    assert from_dict(RunConfig, {"images": "x"}) == RunConfig(images="x")


def test_defaults_stay_out_of_fingerprints():
    assert changed(ViewConfig()) == {}
    assert changed(ViewConfig(flip=0.5, crop_scale=(0.1, 1.0))) == {"flip": 0.5, "crop_scale": [0.1, 1.0]}


def test_plain_views_keep_the_geometry_and_nothing_random():
    view = ViewConfig(view_size=48, resample="bicubic", lobes=3, fit="pad", crop="padded", flip=0.5, erase=0.2, mixup=1)
    assert view.mixes
    assert view.plain() == ViewConfig(view_size=48, resample="bicubic", lobes=3, fit="pad")
    assert not view.plain().mixes


def test_differences_name_the_field_and_both_values():
    assert differences(to_dict(FULL), to_dict(FULL)) == []
    other = {**to_dict(FULL), "top_k": None, "train": {**to_dict(FULL)["train"], "epochs": 5}}
    assert differences(to_dict(FULL), other) == ["top_k: 100 -> None", "train.epochs: 3 -> 5"]
