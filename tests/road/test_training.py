"""The stretches that verbs and recipes share: splits, stores, fewer images or labels, validation, calibration."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from walk_fakes import SIDE, Own, run_config

from pocketvit.config import LabelConfig, LossConfig, TrainConfig, ViewConfig
from pocketvit.errors import PocketError
from pocketvit.files import read_json
from pocketvit.models import create_student, forward_heads
from pocketvit.objectives import Gate
from pocketvit.road import light, probe
from pocketvit.road.answering import probabilities_of
from pocketvit.road.decide import class_weights, labels_of
from pocketvit.road.images import open_road
from pocketvit.road.label import label_road
from pocketvit.road.train import GATE, calibrate, follow_teachers, teacher_gate, train_network, validation
from pocketvit.settings import Distill
from pocketvit.sources import open_images
from pocketvit.sources.subset import Subset, hide_labels
from pocketvit.teachers import load_teacher
from pocketvit.training import read_metrics

NONE = np.array([], np.int64)


def own():
    return load_teacher(Own(), input_size=SIDE, norm="half", classes=("blue", "green", "red"))


def without(road, **splits):
    return dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, **splits), _rendered={})


def test_figures_are_taken_on_test_else_on_validation(road):
    dataset = road.dataset
    assert road.scored is dataset.test
    assert without(road, test=None).scored is dataset.val
    assert without(road, test=None, val=None).scored is None
    assert without(road, test=hide_labels(dataset.test, NONE)).scored is dataset.val
    blind = without(road, test=hide_labels(dataset.test, NONE), val=hide_labels(dataset.val, NONE))
    assert blind.scored is blind.dataset.test


def test_too_few_images_are_refused(tmp_path):
    one = (np.zeros((1, 8, 8, 3), np.uint8), None)
    with pytest.raises(PocketError, match="fewer than two training images"):
        open_road(one, run_config().view, tmp_path / "shared", device="cpu")


def test_packs_are_made_once_and_hold_the_images(road, photos):
    dataset = open_images(str(photos), progress=False)
    assert road.dataset.train.fingerprint == dataset.train.fingerprint
    some = np.arange(len(dataset.train))
    assert np.array_equal(road.dataset.train.rgb(some), dataset.train.rgb(some))


def test_a_reduced_road_has_fewer_images_and_their_views(road):
    few = road.reduced(9)
    assert len(few.dataset.train) == 9
    assert np.bincount(few.dataset.train.targets).tolist() == [3, 3, 3]
    chosen = road.reduced(np.array([5, 2]))
    assert np.array_equal(chosen.dataset.train.ids, road.dataset.train.ids[[5, 2]])
    assert (chosen.views.render(np.array([0]), 1).pixels == road.views.render(np.array([5]), 1).pixels).all()
    assert len(road.dataset.train) == 48


def test_few_labels_keep_all_images_and_the_stored_labels(road):
    few = road.with_few_labels(6)
    targets = few.dataset.train.targets
    assert len(few.dataset.train) == 48
    assert np.bincount(targets[targets >= 0]).tolist() == [2, 2, 2]
    assert few.store_folder(run_config().labels) == road.store_folder(run_config().labels)


def test_a_store_belongs_to_images_views_and_logits_kept(road):
    labels = LabelConfig()
    folders = {
        road.store_folder(labels),
        road.viewed(ViewConfig(view_size=SIDE, flip=0.5)).store_folder(labels),
        road.reduced(9).store_folder(labels),
        road.store_folder(LabelConfig(top_k=2)),
    }
    assert len(folders) == 4
    assert road.store_folder(LabelConfig(views=7)) == road.store_folder(labels)


def test_labels_are_written_added_to_and_reused(road, caplog):
    caplog.set_level("INFO", "pocketvit")
    teacher = own()
    said = []
    for views in (2, 2, 3):
        caplog.clear()
        store = label_road(road, [teacher], LabelConfig(views=views))
        said.append(
            "reused" if "labels   reused from" in caplog.text else "stored" * ("labels   stored" in caplog.text)
        )
    assert said == ["stored", "reused", "stored"]
    assert store.views(store.key(teacher)) == [0, 1, 2]


def test_probabilities_of_a_teacher(road):
    given = probabilities_of(own(), road, road.dataset.val)
    assert given.shape == (6, 3)
    assert given.sum(1) == pytest.approx(1, abs=1e-5)
    assert (given.argmax(1) == road.dataset.val.targets).all()


def test_a_gate_is_made_of_the_validation_split_where_weights_need_one(road):
    unsure = Own()
    with torch.no_grad():
        unsure.head.weight.mul_(0.3)
        unsure.head.bias.copy_(torch.tensor([0.0, 0.2, 0.4]))
    pair = [own(), load_teacher(unsure, input_size=SIDE, norm="half", classes=("blue", "green", "red"))]

    def gate(kind, road=road, **changes):
        config = run_config(loss=LossConfig(teacher_weights=kind), **changes)
        return teacher_gate(pair, road, config, stored=True)

    assert torch.equal(gate("per_class").by_class[0], torch.ones(3))
    assert gate("per_class").coefficients is None
    learned = gate("learned").coefficients
    assert learned.shape == (2, 6)
    assert learned.abs().max() > 0.01
    assert not torch.allclose(learned, gate("learned", top_k=2).coefficients)  # fitted on what the student will see
    assert gate("agreement") is None
    assert gate("learned", without(road, val=None)) is None


def test_what_weighs_teachers_stays_with_the_student_for_who_trains_on_without_them(road, tmp_path):
    unsure = Own()
    with torch.no_grad():
        unsure.head.weight.mul_(0.3)
    pair = [own(), load_teacher(unsure, input_size=SIDE, norm="half", classes=("blue", "green", "red"))]
    config = run_config(loss=LossConfig(teacher_weights="learned"))
    store = label_road(road, pair, config.labels)
    first = train_network(road, config, tmp_path / "first", teachers=pair, store=store)
    gate = Gate.of(read_json(tmp_path / "first" / GATE))
    assert torch.equal(gate.coefficients, teacher_gate(pair, road, config, stored=True).coefficients)
    keys = [store.key(teacher) for teacher in pair]
    second = train_network(road, config, tmp_path / "second", store=store, keys=keys, gate=gate)
    assert torch.equal(first.state_dict()["head.weight"], second.state_dict()["head.weight"])


class Constant(nn.Module):
    """Says always the same."""

    def __init__(self, logits):
        super().__init__()
        self.head = nn.Linear(1, len(logits))
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.copy_(torch.tensor(logits))

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.head(torch.zeros(len(x), 1))


def test_validation_scores_labelled_images_alone(road):
    val = road.dataset.val
    assert validation(road, road.input)(Constant([0.0, 9.0, 0.0])) == {"val_accuracy": pytest.approx(1 / 3)}
    some = without(road, val=hide_labels(val, np.flatnonzero(val.targets == 1)))
    assert validation(some, road.input)(Constant([0.0, 9.0, 0.0])) == {"val_accuracy": 1.0}
    assert validation(without(road, val=hide_labels(val, NONE)), road.input) is None
    assert validation(without(road, val=None), road.input) is None


def test_calibration_makes_an_overconfident_network_modest(road):
    model = Constant([0.0, 4.0, 0.0])  # right in one of three
    assert calibrate(model, road, road.input)
    with torch.no_grad():
        assert float(model(torch.zeros(1, 3, SIDE, SIDE)).softmax(1).max()) < 0.4
    assert not calibrate(model, without(road, val=None), road.input)
    assert not calibrate(model, without(road, test=None), road.input)  # these images are scored


def test_a_student_is_trained_alone_from_a_store_and_live(road, tmp_path):
    config = run_config()
    teacher = own()
    store = label_road(road, [teacher], config.labels)
    alone = train_network(road, config, tmp_path / "alone")
    stored = train_network(road, config, tmp_path / "stored", teachers=[teacher], store=store)
    live = train_network(road, config, tmp_path / "live", teachers=[teacher], live=True)
    losses = [read_metrics(tmp_path / name / "metrics.jsonl")[0]["loss"] for name in ("alone", "stored", "live")]
    assert losses[1] == pytest.approx(losses[2], rel=0.02)  # plain views: stored and live see the same pixels
    assert losses[0] != pytest.approx(losses[1], rel=0.02)
    weights = [model.state_dict()["head.weight"] for model in (alone, stored, live)]
    assert torch.allclose(weights[1], weights[2], atol=1e-3)
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("weights", ["fixed", "confidence", "agreement", "per_class", "learned"])
def test_teachers_are_weighed_and_their_absence_is_no_matter(road, tmp_path, weights):
    config = run_config(loss=LossConfig(teacher_weights=weights), tokens=2)
    store = label_road(road, [own()], config.labels)
    first = train_network(road, config, tmp_path / "alone")
    one = dataclasses.replace(config, network=dataclasses.replace(config.network, tokens=1))
    second = train_network(road, one, tmp_path / "taught", teachers=[own()], store=store)
    assert not (tmp_path / "taught" / GATE).exists()
    assert not torch.equal(first.state_dict()["head.weight"], second.state_dict()["head.weight"])


def test_the_same_seed_gives_the_same_student(road, tmp_path):
    def train(name, seed):
        config = run_config(train=TrainConfig(epochs=1, batch_size=16, precision="fp32", seed=seed))
        return train_network(road, config, tmp_path / name).state_dict()["head.weight"]

    assert torch.equal(train("a", 1), train("b", 1))
    assert not torch.equal(train("c", 1), train("d", 2))


def test_students_of_one_road_share_their_arithmetic(road, tmp_path, monkeypatch):
    measured = iter([{"fp32": 3.0, "bf16": 1.0}, {"fp32": 1.0, "bf16": 3.0}])  # as on a machine that is busy by turns
    monkeypatch.setattr("pocketvit.training.precision.pass_seconds", lambda *_: next(measured))
    config = run_config(train=TrainConfig(epochs=1, batch_size=16, warmup=0.0, precision="auto"))
    for name in ("one", "two"):
        train_network(road, config, tmp_path / name)
        assert read_json(tmp_path / name / "choices.json")["precision"] == "bf16"


@pytest.mark.parametrize(("stem", "alone"), [("patch", 1), ("coadvise", 2)])
def test_without_a_teacher_the_student_keeps_its_stems_and_the_tokens_they_start(
    road, tmp_path, monkeypatch, stem, alone
):
    monkeypatch.setattr("pocketvit.road.train.fit", lambda model, *_, **__: model)
    config = run_config(tokens=2, stem=stem)
    for teachers, tokens in (((), alone), ((own(), own()), 2)):
        model = train_network(road, config, tmp_path, teachers=teachers, live=bool(teachers))
        assert len(forward_heads(model.eval(), torch.zeros(1, 3, SIDE, SIDE))) == 1 + tokens
        assert hasattr(model.patch_embed, "involution") == (stem == "coadvise")


def test_few_labels_are_drawn_among_those_that_there_are(road):
    train = road.dataset.train
    some = road.with_train(hide_labels(train, np.flatnonzero(train.targets < 2)))
    few = some.with_few_labels(6).dataset.train.targets
    assert np.bincount(few[few >= 0], minlength=3).tolist() == [3, 3, 0]
    many = some.with_few_labels(len(train)).dataset.train.targets
    assert np.array_equal(many, some.dataset.train.targets)


def test_stored_labels_are_replayed_before_they_are_used_again(road, monkeypatch):
    """Code is no part of a teacher's fingerprint: its answers tell."""
    config = run_config()
    label_road(road, [own()], config.labels)
    label_road(road, [own()], config.labels)
    monkeypatch.setattr(Own, "forward", lambda self, x, before=Own.forward: 2 * before(self, x.flip(1)))
    with pytest.raises(PocketError, match=r"8 records replayed.*other code.*: delete .* or name another folder"):
        label_road(road, [own()], config.labels)


def test_images_without_labels_have_no_term_for_them(road, tmp_path):
    blind = without(road, train=hide_labels(road.dataset.train, NONE))
    config = run_config()
    store = label_road(road, [own()], config.labels)
    train_network(blind, config, tmp_path / "blind", teachers=[own()], store=store)
    assert set(read_metrics(tmp_path / "blind" / "metrics.jsonl")[0]["terms"]) == {"distillation", "teacher_0"}


def test_whoever_learns_from_labels_alone_sees_no_other_images(road, tmp_path, monkeypatch):
    few = road.with_few_labels(6)
    alone = few.labelled_alone().dataset.train
    assert len(alone) == len(road.dataset.train)
    assert (alone.targets >= 0).all()
    assert road.labelled_alone() is road
    seen = {}

    def train(given, config, folder, **options):
        views = options.get("views")
        seen[folder.name] = given.dataset.train if views is None else views.source
        return options.get("model")

    for module in (light, probe):
        monkeypatch.setattr(module, "train_network", train)
    monkeypatch.setattr(probe, "predict_logits", lambda *_: pytest.fail("nobody asks"))
    monkeypatch.setattr(light, "as_teacher", lambda *_: None)
    light.train_teacher(few, "cifar_resnet20", TrainConfig(epochs=1), input_size=16)
    network, unseen = Own(), without(few, val=None)
    probe._fine_tune(network, own(), unseen, tmp_path, TrainConfig(), LossConfig())
    assert len(seen) == 2
    for source in seen.values():
        assert (source.targets >= 0).all()
    assert len(seen["fine-tuning"]) == 6


def test_classes_are_weighed_by_the_labels_that_are_seen(photos):
    dataset = open_images(str(photos))
    targets = dataset.train.targets
    rows = np.append(np.flatnonzero(targets != 0), np.flatnonzero(targets == 0)[:2])
    skewed = dataclasses.replace(dataset, train=Subset(dataset.train, rows))
    asked = Distill(images="x", teacher=Own(), balance="weights")
    weights = class_weights(labels_of(asked, skewed), "weights")
    assert weights[0] > 2 * weights[1]
    few = class_weights(labels_of(dataclasses.replace(asked, few_labels=6), skewed), "weights")
    assert few == pytest.approx((1, 1, 1))


def test_made_pictures_say_nothing_of_how_often_a_class_is_seen(road):
    """On photographs a student's classes are shifted to its teachers' frequencies; on made ones it stays unshifted."""
    bank = dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, synthetic="drawn"))
    for images, shifted in ((road, True), (bank, False)):
        student = create_student("pocket_xxs", num_classes=3, image_size=SIDE)
        assert follow_teachers(student, images, road.input, [own()])
        assert bool(student.head.bias.detach().abs().sum() > 0) == shifted
