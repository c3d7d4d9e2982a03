"""A network learns the user's classes: the better of a probe and fine-tuning, kept, reused, its teacher untouched."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import timm
import torch
from pocketvit.training.finetune import adapt, with_head
from torch import nn
from training_fakes import CLASSES, PLAIN, SIDE, ArraySource

from pocketvit.config import TrainConfig
from pocketvit.errors import PocketError
from pocketvit.sources.subset import Subset, hide_labels
from pocketvit.teachers import load_teacher
from pocketvit.teachers.teacher import hash_tensors
from pocketvit.training import finetune
from pocketvit.training.predict import plain_pixels, predict_logits

BRIEF = TrainConfig(epochs=1, batch_size=16, learning_rate=1e-3, warmup=0.0, precision="fp32")
SOURCE = ArraySource(60)
TRAIN, VAL = Subset(SOURCE, np.arange(45)), Subset(SOURCE, np.arange(45, 60))


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


def accuracy_of(module, teacher, source):
    side = (teacher.input_size, teacher.mean, teacher.std)
    logits = predict_logits(module, plain_pixels(source, PLAIN), PLAIN, side)[0]
    return float((logits.argmax(1).numpy() == source.targets).mean())


def test_a_probe_learns_on_features_that_stay_as_they_were(tmp_path):
    teacher = tiny_teacher()
    before = hash_tensors(teacher.module)
    adapted = adapt(teacher, TRAIN, VAL, PLAIN, tmp_path, fine_tune=False)
    assert (adapted.method, adapted.reused) == ("linear probe", False)
    assert adapted.accuracy > 0.6  # brightness tells the class; guessing gives 0.33
    assert adapted.accuracy == pytest.approx(accuracy_of(adapted.module, teacher, VAL))
    old, new = teacher.module.state_dict(), adapted.module.state_dict()
    assert all(torch.equal(old[key], new[key]) for key in old if not key.startswith("head."))
    assert new["head.weight"].shape == (CLASSES, 32)
    assert not adapted.module.training
    assert hash_tensors(teacher.module) == before


def test_the_better_of_probe_and_fine_tuning_is_kept(tmp_path, monkeypatch):
    teacher = tiny_teacher()
    for scores, method in (((0.99, 0.5), "linear probe"), ((0.5, 0.99), "fine-tuned"), ((0.7, 0.7), "fine-tuned")):
        probe, tuned = scores
        with monkeypatch.context() as patch:
            learn, tune = finetune._probe, finetune._fine_tune
            patch.setattr(finetune, "_probe", lambda *args, learn=learn, probe=probe: (learn(*args)[0], probe))
            patch.setattr(finetune, "_fine_tune", lambda *args, tune=tune, tuned=tuned: (tune(*args)[0], tuned))
            folder = tmp_path / f"{probe}-{tuned}"
            adapted = adapt(teacher, TRAIN, VAL, PLAIN, folder, fine_tune=True, train_config=BRIEF)
        assert (adapted.method, adapted.accuracy) == (method, max(scores))


def test_fine_tuning_moves_the_features_and_is_measured(tmp_path):
    teacher = tiny_teacher()
    before = hash_tensors(teacher.module)
    module = with_head(teacher, 32, CLASSES)
    tuned, accuracy = finetune._fine_tune(module, teacher, TRAIN, VAL, PLAIN, tmp_path, BRIEF)
    assert accuracy == pytest.approx(accuracy_of(tuned, teacher, VAL))
    assert not torch.equal(tuned.blocks[0].attn.qkv.weight, module.blocks[0].attn.qkv.weight)
    assert hash_tensors(teacher.module) == before


def test_a_second_call_reuses_the_result_to_the_bit(tmp_path, monkeypatch):
    teacher = tiny_teacher()
    first = adapt(teacher, TRAIN, VAL, PLAIN, tmp_path, fine_tune=True, train_config=BRIEF)
    monkeypatch.setattr(finetune, "_features", None)
    again = adapt(teacher, TRAIN, VAL, PLAIN, tmp_path, fine_tune=True, train_config=BRIEF)
    assert again.reused
    assert (again.method, again.accuracy, again.seconds) == (first.method, first.accuracy, first.seconds)
    assert hash_tensors(again.module) == hash_tensors(first.module)


def test_interrupted_fine_tuning_is_taken_up_again(tmp_path, monkeypatch):
    teacher = tiny_teacher()
    unbroken = adapt(teacher, TRAIN, VAL, PLAIN, tmp_path / "unbroken", fine_tune=True, train_config=BRIEF)
    with monkeypatch.context() as patch:

        def press(*_, **__):
            raise KeyboardInterrupt

        patch.setattr(finetune, "predict_logits", press)
        with pytest.raises(KeyboardInterrupt):
            adapt(teacher, TRAIN, VAL, PLAIN, tmp_path / "broken", fine_tune=True, train_config=BRIEF)
    resumed = adapt(teacher, TRAIN, VAL, PLAIN, tmp_path / "broken", fine_tune=True, train_config=BRIEF)
    assert hash_tensors(resumed.module) == hash_tensors(unbroken.module)


def test_fine_tuning_that_would_take_long_is_left_out_and_said(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "pocketvit")
    monkeypatch.setattr(finetune, "PATIENCE", -1.0)
    assert adapt(tiny_teacher(), TRAIN, VAL, PLAIN, tmp_path).method == "linear probe"
    assert "--fine-tune asks for it" in caplog.text


def test_without_validation_images_the_probe_is_kept(tmp_path):
    adapted = adapt(tiny_teacher(), TRAIN, None, PLAIN, tmp_path)
    assert (adapted.method, adapted.accuracy) == ("linear probe", None)
    assert accuracy_of(adapted.module, tiny_teacher(), VAL) > 0.6


def test_images_without_labels_are_left_out(tmp_path):
    wrong = hide_labels(TRAIN, np.arange(30))
    part = Subset(SOURCE, np.arange(30))
    some = adapt(tiny_teacher(), wrong, VAL, PLAIN, tmp_path / "some", fine_tune=False)
    fewer = adapt(tiny_teacher(), part, VAL, PLAIN, tmp_path / "fewer", fine_tune=False)
    assert hash_tensors(some.module) == hash_tensors(fewer.module)


def test_any_module_gets_a_head_on_its_output(tmp_path):
    teacher = load_teacher(Bare(), input_size=SIDE, norm="half")
    adapted = adapt(teacher, TRAIN, VAL, PLAIN, tmp_path, fine_tune=False)
    assert adapted.accuracy > 0.6
    again = adapt(teacher, TRAIN, VAL, PLAIN, tmp_path, fine_tune=False)
    assert hash_tensors(again.module) == hash_tensors(adapted.module)


def test_nothing_to_learn_from_is_one_message(tmp_path):
    with pytest.raises(PocketError, match=r"no labels to learn .*--labels FILE\.csv"):
        adapt(tiny_teacher(), hide_labels(TRAIN, np.array([], np.int64)), VAL, PLAIN, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_is_one_message_and_nothing_is_kept(tmp_path):
    with pytest.raises(PocketError, match="not a finite number"):
        adapt(
            tiny_teacher(), TRAIN, VAL, PLAIN, tmp_path, fine_tune=True,
            train_config=dataclasses.replace(BRIEF, epochs=2, learning_rate=1e38, clip=0.0),
        )  # fmt: skip
    assert not (tmp_path / "adapted.json").exists()
