"""Features reach the terms, live or stored, and a run with learned projections resumes to the bit."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from test_resume import stop_after
from torch import nn
from training_fakes import CLASSES, INPUT, MIXED, SIDE, TASK, ArraySource, same_weights, tiny_vit

from pocketvit.config import LabelConfig, LossConfig, TermConfig, TrainConfig
from pocketvit.errors import PocketError
from pocketvit.labels import LabelStore, plan_labels, write_labels
from pocketvit.models.taps import list_layers
from pocketvit.objectives.terms import FeatureTerms
from pocketvit.road.features import teacher_features
from pocketvit.road.label import with_layers
from pocketvit.teachers import load_teacher
from pocketvit.teachers.layer import heard
from pocketvit.training import Feed, fit, read_metrics
from pocketvit.training.features import LiveFeatures
from pocketvit.training.metrics import stuck_terms
from pocketvit.views import Views

LOSS = LossConfig(objective="kl", temperature=1.0, weight=0.5, terms=(TermConfig("fitnets"), TermConfig("rkd", 0.5)))
EPOCHS = 2


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.linear = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.linear(self.body(x).mean((2, 3)))


@pytest.fixture
def teacher():
    return load_teacher(Conv(), input_size=SIDE, norm="half")


def run(folder, teacher, *, resume=False, stored=None, loss=LOSS):
    """Two epochs of MIXED views; labels from a store, features live or, given a size, stored too."""
    views = Views(ArraySource(), MIXED, seed=0)
    labels = write_labels(folder / "labels", views.source, views, [teacher], EPOCHS, progress=False)
    torch.manual_seed(1)
    model = tiny_vit()
    terms = FeatureTerms(loss, model, SIDE, [teacher])
    config = LabelConfig(views=EPOCHS, store_features=stored)
    features = teacher_features(views, folder / "labels", config, [teacher], terms)
    feed = Feed(views, 10, labels=labels, teachers=[labels.key(teacher)], view_count=EPOCHS, features=features)
    train = TrainConfig(epochs=EPOCHS, batch_size=10, warmup=0.25, learning_rate=2e-3, precision="fp32")
    fit(
        model, feed, TASK.loss(loss), train, folder / "run", task=TASK, evaluate=None, input=INPUT, terms=terms,
        resume=resume,
    )  # fmt: skip
    return model


def test_interrupted_and_resumed_equals_unbroken_with_learned_projections(tmp_path, teacher, monkeypatch):
    unbroken = run(tmp_path / "unbroken", teacher)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", teacher)
    assert same_weights(run(tmp_path / "broken", teacher, resume=True), unbroken)
    assert set(read_metrics(tmp_path / "broken/run/metrics.jsonl")[0]["terms"]) >= {"fitnets", "rkd"}


def test_stored_features_train_as_live_ones_do(tmp_path, teacher, monkeypatch):
    """The very views that were stored are replayed: losses are equal but for int8, and the teacher is not run."""
    run(tmp_path / "live", teacher)
    with monkeypatch.context() as patch:
        real = type(teacher).logits
        run_on = []
        patch.setattr(type(teacher), "logits", lambda self, pixels: (run_on.append(len(pixels)), real(self, pixels))[1])
        run(tmp_path / "stored", teacher, stored="1MB")
        run_on.clear()
        run(tmp_path / "stored", teacher, stored="1MB", resume=True)
    assert not run_on
    live, stored = (read_metrics(tmp_path / name / "run/metrics.jsonl") for name in ("live", "stored"))
    for one, other in zip(live, stored, strict=True):
        assert other["terms"] == pytest.approx(one["terms"], rel=1e-2, abs=2e-4)


def test_a_stored_layer_stands_beside_the_labels_with_its_kind(tmp_path, teacher):
    run(tmp_path, teacher, stored="1MB")
    kinds = {one["teacher"]["name"]: one["kind"] for one in LabelStore(tmp_path / "labels").manifest.values()}
    assert kinds == {"Conv": "softmax", "Conv@body": "layer"}


def test_features_beyond_the_stated_size_are_refused(tmp_path, teacher):
    with pytest.raises(PocketError, match=r"3\.24 kB.*Conv@body \[8, 2, 2\].*more than the 1kB of --store-features"):
        run(tmp_path, teacher, stored="1kB")


def test_a_live_feed_runs_the_teacher_once_a_batch(teacher, monkeypatch):
    calls = []
    real = type(teacher).logits
    monkeypatch.setattr(type(teacher), "logits", lambda self, pixels: (calls.append(1), real(self, pixels))[1])
    views = Views(ArraySource(), MIXED, seed=0)
    feed = Feed(views, 10, live=[teacher], features=LiveFeatures([teacher], [["body"]]))
    batches = list(feed.epoch(0))
    feed.close()
    assert len(calls) == len(batches)
    assert torch.equal(batches[0].soft[0].logits, real(teacher, batches[0].pixels))
    assert batches[0].features[0]["body"].shape[1:] == (8, 2, 2)


def lines(**terms):
    return [{"terms": {name: values[i] for name, values in terms.items()}} for i in range(3)]


def test_terms_that_are_zero_or_never_move_are_warned_about(tmp_path, teacher, caplog):
    found = stuck_terms(lines(idle=[0.0] * 3, stuck=[1.5, 1.50001, 1.5], fine=[3.0, 2.0, 1.9], late=[0.0, 0.0, 0.1]))
    assert [text.split()[3] for text in found] == ["idle", "stuck"]
    assert not stuck_terms(lines(idle=[0.0] * 3)[:2])


def test_the_warning_is_given_while_training(tmp_path, teacher, caplog, monkeypatch):
    monkeypatch.setattr("test_features.EPOCHS", 3)
    with caplog.at_level(logging.WARNING, "pocketvit"):
        run(tmp_path, teacher, loss=LossConfig(objective="hard", weight=0.5, terms=(TermConfig("rkd", 0.0),)))
        assert "never" not in caplog.text
        monkeypatch.setattr(
            "pocketvit.objectives.matching.MapTerm.compare", lambda *_: torch.zeros((), requires_grad=True)
        )
        run(tmp_path / "zero", teacher)
    assert "the loss term fitnets has been zero" in caplog.text


def test_answers_and_layers_are_stored_from_one_forward_pass(tmp_path, teacher, monkeypatch):
    views = Views(ArraySource(), MIXED, seed=0)
    layers = heard(teacher, list_layers(teacher.module, SIDE), ["body", "body.0"])
    apart = write_labels(tmp_path / "apart", views.source, views, [teacher], 1, progress=False)
    calls = []
    real = type(teacher).logits
    monkeypatch.setattr(type(teacher), "logits", lambda self, pixels: (calls.append(pixels), real(self, pixels))[1])
    write_labels(tmp_path / "plain", views.source, views, [teacher], 1, progress=False)
    plain = len(calls)
    calls.clear()
    store = write_labels(tmp_path / "both", views.source, views, with_layers([teacher], layers), 1, progress=False)
    assert len(calls) == plain
    assert "x 1 view x 1 teacher and 2 layers" in plan_labels(45, with_layers([teacher], layers), views, 1).text()
    assert torch.equal(store.read(store.key(teacher), 0).logits, apart.read(apart.key(teacher), 0).logits)
    pixels = views.render(np.arange(45), 0).pixels
    for layer in layers:
        kept, live = store.read(store.key(layer), 0), layer.logits(pixels)
        assert bool(((kept.features - live).abs() <= kept.scale[:, None] * 0.501).all())
