"""What a number depends on: defaults stay out of fingerprints, plain views keep the geometry."""

from __future__ import annotations

from pocketvit.config import ViewConfig, changed


def test_defaults_stay_out_of_fingerprints():
    assert changed(ViewConfig()) == {}
    assert changed(ViewConfig(flip=0.5, crop_scale=(0.1, 1.0))) == {"flip": 0.5, "crop_scale": [0.1, 1.0]}


def test_plain_views_keep_the_geometry_and_nothing_random():
    view = ViewConfig(view_size=48, resample="bicubic", lobes=3, fit="pad", crop="padded", flip=0.5, erase=0.2, mixup=1)
    assert view.mixes
    assert view.plain() == ViewConfig(view_size=48, resample="bicubic", lobes=3, fit="pad")
    assert not view.plain().mixes
