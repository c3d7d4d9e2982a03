"""A network learns the user's classes: the better of a probe and fine-tuning, kept, reused, its teacher untouched."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import timm
import torch
from torch import nn
from walk_fakes import SIDE

from pocketvit.config import LossConfig, TrainConfig
from pocketvit.errors import PocketError
from pocketvit.road import probe
from pocketvit.road.probe import adapt, with_head
from pocketvit.sources.subset import Subset, hide_labels
from pocketvit.tasks import task_named
from pocketvit.teachers import load_teacher
from pocketvit.teachers.teacher import hash_tensors
from pocketvit.training.predict import plain_pixels, predict_logits

BRIEF = TrainConfig(epochs=1, batch_size=16, learning_rate=1e-3, warmup=0.0, precision="fp32")
CLASSES = 3


def tiny_teacher(classes=10):
    torch.manual_seed(0)
    shape = {"img_size": SIDE, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    module = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **shape)
    return load_teacher(module, input_size=SIDE, norm="half")


class Bare(nn.Module):
    """A network without timm's methods: what it returns is its features."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x):
        return self.body(x)


def without(road, **splits):
    return dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, **splits))


def accuracy_of(module, teacher, road, source):
    side = (teacher.input_size, teacher.mean, teacher.std)
    logits = predict_logits(module, plain_pixels(source, road.view), road.view, side)[0]
    return float((logits.argmax(1).numpy() == source.targets).mean())


def test_a_probe_learns_on_features_that_stay_as_they_were(road, tmp_path):
    teacher = tiny_teacher()
    before = hash_tensors(teacher.module)
    adapted = adapt(teacher, road, tmp_path, fine_tune=False)
    assert (adapted.method, adapted.reused) == ("linear probe", False)
    assert adapted.scores["val_accuracy"] > 0.6  # brightness tells the class; guessing gives 0.33
    assert adapted.scores["val_accuracy"] == pytest.approx(accuracy_of(adapted.module, teacher, road, road.dataset.val))
    old, new = teacher.module.state_dict(), adapted.module.state_dict()
    assert all(torch.equal(old[key], new[key]) for key in old if not key.startswith("head."))
    assert new["head.weight"].shape == (CLASSES, 32)
    assert not adapted.module.training
    assert hash_tensors(teacher.module) == before


def test_the_better_of_probe_and_fine_tuning_is_kept(road, tmp_path, monkeypatch):
    teacher = tiny_teacher()
    for scores, method in (((0.99, 0.5), "linear probe"), ((0.5, 0.99), "fine-tuned"), ((0.7, 0.7), "fine-tuned")):
        probed, tuned = scores
        with monkeypatch.context() as patch:
            learn, tune = probe._probe, probe._fine_tune
            one, two = {"val_accuracy": probed}, {"val_accuracy": tuned}
            patch.setattr(probe, "_probe", lambda *args, learn=learn, one=one: (learn(*args)[0], one))
            patch.setattr(probe, "_fine_tune", lambda *args, tune=tune, two=two: (tune(*args)[0], two))
            folder = tmp_path / f"{probed}-{tuned}"
            adapted = adapt(teacher, road, folder, fine_tune=True, train=BRIEF)
        assert (adapted.method, adapted.scores["val_accuracy"]) == (method, max(scores))


def test_fine_tuning_moves_the_features_and_is_measured(road, tmp_path):
    teacher = tiny_teacher()
    before = hash_tensors(teacher.module)
    module = with_head(teacher, 32, CLASSES)
    tuned, scores = probe._fine_tune(module, teacher, road, tmp_path, BRIEF, probe.gentle_loss(road.task))
    assert scores["val_accuracy"] == pytest.approx(accuracy_of(tuned, teacher, road, road.dataset.val))
    assert not torch.equal(tuned.blocks[0].attn.qkv.weight, module.blocks[0].attn.qkv.weight)
    assert hash_tensors(teacher.module) == before


def test_a_second_call_reuses_the_result_to_the_bit(road, tmp_path, monkeypatch):
    teacher = tiny_teacher()
    first = adapt(teacher, road, tmp_path, fine_tune=True, train=BRIEF)
    monkeypatch.setattr(probe, "_features", None)
    again = adapt(teacher, road, tmp_path, fine_tune=True, train=BRIEF)
    assert again.reused
    assert (again.method, again.scores, again.seconds) == (first.method, first.scores, first.seconds)
    assert hash_tensors(again.module) == hash_tensors(first.module)


def test_a_wrong_byte_in_an_adapted_teacher_is_noticed(road, tmp_path):
    """It would teach something else without a word."""
    adapt(tiny_teacher(), road, tmp_path, fine_tune=False)
    path = tmp_path / "adapted.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(PocketError, match=r"adapted.safetensors is damaged.*Delete .*adapted anew"):
        adapt(tiny_teacher(), road, tmp_path, fine_tune=False)
    path.unlink()
    with pytest.raises(PocketError, match="could not read"):
        adapt(tiny_teacher(), road, tmp_path, fine_tune=False)


def test_interrupted_fine_tuning_is_taken_up_again(road, tmp_path, monkeypatch):
    teacher = tiny_teacher()
    unbroken = adapt(teacher, road, tmp_path / "unbroken", fine_tune=True, train=BRIEF)
    with monkeypatch.context() as patch:

        def press(*_, **__):
            raise KeyboardInterrupt

        patch.setattr(probe, "predict_logits", press)
        with pytest.raises(KeyboardInterrupt):
            adapt(teacher, road, tmp_path / "broken", fine_tune=True, train=BRIEF)
    resumed = adapt(teacher, road, tmp_path / "broken", fine_tune=True, train=BRIEF)
    assert hash_tensors(resumed.module) == hash_tensors(unbroken.module)


def test_fine_tuning_that_would_take_long_is_left_out_and_said(road, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "pocketvit")
    monkeypatch.setattr(probe, "PATIENCE", -1.0)
    assert adapt(tiny_teacher(), road, tmp_path).method == "linear probe"
    assert "--fine-tune asks for it" in caplog.text


def test_without_validation_images_the_probe_is_kept(road, tmp_path):
    adapted = adapt(tiny_teacher(), without(road, val=None), tmp_path)
    assert (adapted.method, adapted.scores) == ("linear probe", None)
    assert accuracy_of(adapted.module, tiny_teacher(), road, road.dataset.val) > 0.6


def test_images_without_labels_are_left_out(road, tmp_path):
    train, rows = road.dataset.train, np.arange(0, 48, 2)
    some = adapt(tiny_teacher(), without(road, train=hide_labels(train, rows)), tmp_path / "some", fine_tune=False)
    fewer = adapt(tiny_teacher(), without(road, train=Subset(train, rows)), tmp_path / "fewer", fine_tune=False)
    assert hash_tensors(some.module) == hash_tensors(fewer.module)


def test_any_module_gets_a_head_on_its_output(road, tmp_path):
    teacher = load_teacher(Bare(), input_size=SIDE, norm="half")
    adapted = adapt(teacher, road, tmp_path, fine_tune=False)
    assert adapted.scores["val_accuracy"] > 0.6
    again = adapt(teacher, road, tmp_path, fine_tune=False)
    assert hash_tensors(again.module) == hash_tensors(adapted.module)


def test_nothing_to_learn_from_is_one_message(road, tmp_path):
    with pytest.raises(PocketError, match=r"no labels to learn .*--table FILE\.csv"):
        adapt(tiny_teacher(), without(road, train=hide_labels(road.dataset.train, np.array([], np.int64))), tmp_path)
    assert not (tmp_path / "adapted.json").exists()


def test_a_loss_that_is_no_number_is_one_message_and_nothing_is_kept(road, tmp_path):
    with pytest.raises(PocketError, match="not a finite number"):
        adapt(
            tiny_teacher(), road, tmp_path, fine_tune=True,
            train=dataclasses.replace(BRIEF, epochs=2, learning_rate=1e38, clip=0.0),
        )  # fmt: skip
    assert not (tmp_path / "adapted.json").exists()


def test_a_network_with_a_distillation_token_keeps_its_form():
    args = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", **args)
    teacher = load_teacher(distilled, input_size=16)
    module = with_head(teacher, 32, CLASSES)
    assert type(module) is type(distilled)
    assert [head.out_features for head in probe._heads_of(module)] == [CLASSES, CLASSES]


def test_more_time_goes_on_with_fine_tuning(tmp_path):
    note = tmp_path / "adapted.json"
    clock = dataclasses.replace(BRIEF, seconds=10.0)
    assert not probe._made(note, True, clock)
    note.write_text('{"method": "fine-tuned", "allowed": 10.0}')
    assert probe._made(note, True, clock)
    assert not probe._made(note, True, dataclasses.replace(clock, seconds=20.0))
    assert probe._made(note, False, dataclasses.replace(clock, seconds=20.0))  # a linear probe takes what it takes
    assert probe._made(note, True, BRIEF)


def test_a_feature_that_hardly_moves_gets_no_giant_weight():
    """Blown up to as much as the others, it would be noise in training and the whole scale of an int8 row."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % CLASSES
    features = torch.randn(60, 20, generator=generator) + 3 * nn.functional.one_hot(labels, 20)
    features[:, -1] = 1e-4 * torch.randn(60, generator=generator)
    head, _ = probe._probe(features, labels, None, task_named("classification"), CLASSES, seed=0)
    weight = head.weight.detach()
    assert weight[:, -1].abs().max() < 3 * weight[:, :CLASSES].abs().max()  # thousands of times as much without care
    assert (head(features).argmax(1) == labels).float().mean() > 0.9


def test_a_probe_is_balanced_where_the_training_is():
    features = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.cat([torch.zeros(380, dtype=torch.int64), torch.ones(20, dtype=torch.int64)])
    features[targets == 1, 0] += 1.0  # hard to tell: what is rare is not named
    recall = {}
    for balance in (False, True):
        head, _ = probe._probe(features, targets, None, task_named("classification"), 2, 0, balance)
        with torch.no_grad():
            recall[balance] = float((head(features[targets == 1]).argmax(1) == 1).float().mean())
    assert recall[True] > recall[False] + 0.3


def test_the_loss_that_was_asked_for_is_that_of_fine_tuning(road, tmp_path, monkeypatch):
    used = []
    train = probe.train_network
    monkeypatch.setattr(
        probe, "train_network", lambda road, config, *a, **k: used.append(config.loss) or train(road, config, *a, **k)
    )
    loss = LossConfig(weight=0.0, label_smoothing=0.3, class_weights=(1.0, 2.0, 3.0))
    adapt(tiny_teacher(), road, tmp_path / "asked", fine_tune=True, train=BRIEF, loss=loss)
    adapt(tiny_teacher(), road, tmp_path / "usual", fine_tune=True, train=BRIEF)
    assert used == [loss, probe.gentle_loss(road.task)]
