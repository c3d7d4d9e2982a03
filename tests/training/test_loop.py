"""What `fit` promises besides resuming."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from torch import nn
from training_fakes import (
    INPUT,
    MIXED,
    PLAIN,
    TASK,
    ArraySource,
    FixedTeacher,
    batch_norm_net,
    config,
    same_weights,
    tiny_vit,
    train,
)

from pocketvit.config import LossConfig
from pocketvit.errors import PocketError
from pocketvit.labels import write_labels
from pocketvit.training import Feed, Stepper, fit, load_weights, plain_pixels, predict_logits, read_metrics
from pocketvit.training.optim import build_optimizer
from pocketvit.training.precision import choose_precision
from pocketvit.training.step import FromPixels
from pocketvit.views import Views


def supervised(heads, batch):
    return TASK.loss(LossConfig())(heads, batch)


def test_training_learns_and_says_so_in_metrics(tmp_path):
    lines = []
    train(tmp_path, epochs=8, on_epoch=lines.append)
    assert lines == read_metrics(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["val_accuracy"] > 0.7
    assert set(lines[0]) == {
        "epoch", "step", "loss", "terms", "lr", "train_accuracy", "images_per_second", "seconds", "elapsed",
        "val_accuracy",
    }  # fmt: skip


def test_two_runs_are_equal_to_the_bit_and_other_seeds_differ(tmp_path):
    a, b = train(tmp_path / "a", epochs=1), train(tmp_path / "b", epochs=1)
    assert same_weights(a, b)
    assert not same_weights(a, train(tmp_path / "c", epochs=1, seed=1))


def test_training_leaves_the_callers_random_numbers_alone(tmp_path):
    torch.manual_seed(5)
    model = tiny_vit()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(tmp_path, model, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_stored_labels_train_like_live_teachers(tmp_path):
    teachers = [FixedTeacher(0), FixedTeacher(1)]
    views = Views(ArraySource(), MIXED)
    store = write_labels(tmp_path / "store", views.source, views, teachers, 2, progress=False)
    losses = {}
    for kind, labels in {
        "stored": {"labels": store, "teachers": [teacher.name for teacher in teachers]},
        "live": {"live": teachers, "view_count": 2},
    }.items():
        steps = []

        def loss(heads, batch, steps=steps):
            value, terms = TASK.loss(LossConfig(objective="zscore"))(heads, batch)
            steps.append(value.item())
            return value, terms

        feed = Feed(views, 8, **labels)
        fit(tiny_vit(), feed, loss, config(), tmp_path / kind, task=TASK, evaluate=None, input=INPUT)
        losses[kind] = steps
    assert len(losses["stored"]) == 18
    assert losses["stored"] == pytest.approx(losses["live"], rel=2e-3)


def test_a_loss_that_is_not_finite_stops_with_one_message_and_keeps_the_last_checkpoint(tmp_path):
    calls = []

    def loss(heads, batch):
        calls.append(1)
        value, terms = supervised(heads, batch)
        return (value * float("nan") if len(calls) == 9 else value), terms

    feed = Feed(Views(ArraySource(), MIXED), 8)
    with pytest.raises(PocketError) as caught:
        fit(tiny_vit(), feed, loss, config(), tmp_path, task=TASK, evaluate=None, input=INPUT)
    message = str(caught.value)
    assert "epoch 2, step 3 of 6" in message
    assert "--lr 0.001" in message
    assert "last.safetensors" in message
    assert [line["epoch"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    resumed = fit(
        tiny_vit(), Feed(Views(ArraySource(), MIXED), 8), supervised, config(), tmp_path,
        task=TASK, evaluate=None, input=INPUT, resume=True,
    )  # fmt: skip
    assert all(torch.isfinite(value).all() for value in resumed.state_dict().values())


def test_precision_is_measured_once_and_then_read(tmp_path, monkeypatch):
    forward = FromPixels(tiny_vit(), INPUT)
    chosen = choose_precision(forward, 16, 8, tmp_path, torch.device("cpu"))
    choices = json.loads((tmp_path / "choices.json").read_text())
    assert choices["precision"] == chosen
    assert choices["precision_seconds"]["fp32"] > 0
    other = "fp32" if chosen == "bf16" else "bf16"
    (tmp_path / "choices.json").write_text(json.dumps({"precision": other}))
    assert choose_precision(forward, 16, 8, tmp_path, torch.device("cpu")) == other


def test_measuring_precision_does_not_touch_the_network(tmp_path):
    model = batch_norm_net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    choose_precision(FromPixels(model, INPUT), 16, 8, tmp_path, torch.device("cpu"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_biases_norms_positions_and_tokens_do_not_decay():
    model = tiny_vit(tokens=1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(model, config(weight_decay=0.1)).param_groups
    decayed = {names[id(p)] for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    spared = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {"pos_embed", "cls_token", "dist_token", "norm.weight", "head.bias"} <= spared
    assert decayed == {name for name in names.values() if name.endswith(".weight") and "norm" not in name}


def test_the_weight_average_follows_its_formula(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    stepper = Stepper(model, INPUT, supervised, config(ema=0.5), 18, task=TASK)
    expected = model[1].weight.detach().clone()
    feed = Feed(Views(ArraySource(), PLAIN), 8)
    for step, batch in enumerate(feed.epoch(0)):
        stepper.take([batch])
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[1].weight.detach()
    feed.close()
    assert torch.allclose(stepper.evaluated[1].weight, expected, atol=1e-6)


def test_accumulated_batches_step_like_one_large_batch():
    feeds = {size: Feed(Views(ArraySource(48), PLAIN), size) for size in (8, 16)}
    models = {}
    for size, feed in feeds.items():
        model = models[size] = tiny_vit(drop=0.0)
        stepper = Stepper(model, INPUT, supervised, config(optimizer="sgd", learning_rate=0.1), 9, task=TASK)
        batches = list(feed.epoch(0))
        for step in range(3):
            stepper.take(batches[step * 16 // size : (step + 1) * 16 // size])
        feed.close()
    for a, b in zip(models[8].parameters(), models[16].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_loss_knows_how_far_the_training_is():
    """A temperature that falls on the way has nothing else to go by."""
    seen = []

    def loss(heads, batch):
        seen.append(batch.progress)
        return supervised(heads, batch)

    feed = Feed(Views(ArraySource(48), PLAIN), 16)
    stepper = Stepper(tiny_vit(), INPUT, loss, config(), 3, task=TASK)
    for batch in feed.epoch(0):
        stepper.take([batch])
    feed.close()
    assert seen == pytest.approx([0, 1 / 3, 2 / 3])


def test_the_best_by_validation_is_kept_apart_from_the_last(tmp_path):
    scores = iter([0.2, 0.9, 0.5])
    kept = []

    def evaluate(model):
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"val_accuracy": next(scores)}

    feed = Feed(Views(ArraySource(), MIXED), 8)
    final = fit(tiny_vit(), feed, supervised, config(), tmp_path, task=TASK, evaluate=evaluate, input=INPUT)
    best = tiny_vit()
    assert load_weights(best, tmp_path)["epoch"] == 2
    assert all(torch.equal(kept[1][name], value) for name, value in best.state_dict().items())
    assert all(torch.equal(kept[2][name], value) for name, value in final.state_dict().items())


def test_compile_is_an_option(tmp_path, monkeypatch):
    # the backend that needs no C++ compiler and no minute of compiling
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    train(tmp_path, tiny_vit(drop=0.0), epochs=1, compile=True)
    eager = train(tmp_path / "eager", tiny_vit(drop=0.0), epochs=1)
    compiled = read_metrics(tmp_path / "metrics.jsonl")[0]["loss"]
    assert compiled == pytest.approx(read_metrics(tmp_path / "eager" / "metrics.jsonl")[0]["loss"], rel=1e-3)
    assert not eager.training


def test_a_batch_that_does_not_fit_into_memory_is_told_with_the_remedy(tmp_path):
    def loss(heads, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    with pytest.raises(PocketError, match="--batch-size 4 --accumulate 2"):
        fit(
            tiny_vit(),
            Feed(Views(ArraySource(), MIXED), 8),
            loss,
            config(),
            tmp_path,
            task=TASK,
            evaluate=None,
            input=INPUT,
        )


def test_a_compiler_that_fails_is_told_with_the_remedy(tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise OSError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    with pytest.raises(PocketError, match="Train without --compile"):
        train(tmp_path, epochs=1, compile=True)


def test_predicting_a_source_and_its_pixels_agree_for_every_head_and_restore_the_mode():
    model, source = tiny_vit(tokens=1).train(), ArraySource()
    rendered = predict_logits(model, source, MIXED, INPUT, batch_size=16)
    kept = predict_logits(model, plain_pixels(source, MIXED), MIXED, INPUT)
    assert [head.shape for head in rendered] == [(45, 3), (45, 3)]
    for a, b in zip(rendered, kept, strict=True):
        torch.testing.assert_close(a, b)
    assert model.training
