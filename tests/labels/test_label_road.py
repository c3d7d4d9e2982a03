"""The real source, views and teacher together: digits, mixed views, a small residual network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from walk_fakes import Own

import pocketvit
from pocketvit.config import ViewConfig
from pocketvit.errors import PocketError
from pocketvit.labels import LabelStore, verify, write_labels
from pocketvit.models import create_model
from pocketvit.sources import open_images
from pocketvit.teachers import load_teacher
from pocketvit.views import Views

MIXED = ViewConfig(view_size=16, crop="padded", randaugment_ops=1, mixup=0.8, cutmix=1.0)


@pytest.fixture(name="source", scope="module")
def _source():
    return open_images("digits", progress=False).train


@pytest.fixture(name="teacher", scope="module")
def _teacher():
    torch.manual_seed(0)
    return load_teacher(create_model("cifar_resnet20", num_classes=10, norm="group"), input_size=16, norm="half")


@pytest.fixture(name="store", scope="module")
def _store(source, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels") / "store"
    return write_labels(folder, source, Views(source, MIXED), [teacher], 2, rows_per_shard=512, progress=False)


def test_stored_labels_are_the_live_teachers_on_the_same_views(source, teacher, store):
    """Rendered in another order and batch than when they were stored."""
    positions = np.arange(99, 0, -3)
    for view in (0, 1):
        live = teacher.logits(Views(source, MIXED).render(positions, view).pixels)
        stored = store.read(teacher.name, view).index(positions).logits
        assert torch.allclose(stored, live, rtol=2e-3, atol=2e-3)
    assert not torch.equal(store.read(teacher.name, 0).logits, store.read(teacher.name, 1).logits)


def test_verify_passes_and_a_reopened_store_knows_its_source_views_and_teacher(source, teacher, store):
    reopened = LabelStore(store.folder)
    assert reopened.check(source, Views(source, MIXED), [teacher]) == []
    (result,) = verify(reopened, source, Views(source, MIXED), [teacher], records=40)
    assert result.records == 40
    assert result.worst < result.tolerance


def test_a_changed_view_size_seed_or_split_is_named(source, teacher, store):
    import dataclasses

    larger = dataclasses.replace(MIXED, view_size=20)
    with pytest.raises(PocketError, match="view_size: 16 there, 20 here"):
        store.check(views=Views(source, larger))
    with pytest.raises(PocketError, match="seed: 0 there, 1 here"):
        store.check(views=Views(source, MIXED, seed=1))
    with pytest.raises(PocketError, match="split: 'train' there, 'val' here"):
        store.check(open_images("digits", progress=False).val)
    with pytest.raises(PocketError, match=r"preprocessing\.mean"):
        store.check(teachers=[load_teacher(teacher.module, input_size=16, norm="imagenet")])


def test_a_store_renders_its_own_views_again(source, store):
    """Tuples, too, which the manifest holds as lists."""
    positions = np.arange(0, 99, 7)
    again = LabelStore(store.folder).replay(source)
    assert again.config == MIXED
    assert torch.equal(again.render(positions, 1).pixels, Views(source, MIXED).render(positions, 1).pixels)
    with pytest.raises(PocketError, match="source"):
        store.replay(open_images("digits", progress=False).val)


def test_the_loop_of_ones_own_in_the_documentation_learns_what_was_labelled(photos, tmp_path, monkeypatch):
    """As it stands there, after the command that stands there; with few epochs."""
    text = (Path(__file__).parents[2] / "docs" / "store.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "`pocketvit label photos/ --teacher NAME --views 4 --size 32 --store labels`" in text
    (tmp_path / "photos").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    pocketvit.label("photos/", teacher=Own(), teacher_size=16, teacher_norm="half", views=4, size=32, store="labels")
    names: dict[str, Any] = {}
    exec(compile(program, "store.md", "exec", dont_inherit=True), names)
    assert names["loss"].item() < 0.5  # 1.2 before the first step
