"""What is chosen where the user chose nothing, and the numbers that no option takes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from walk_fakes import SIDE, Own

import pocketvit
from pocketvit.config import NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.errors import PocketError
from pocketvit.models import create_model, create_student
from pocketvit.road import begin, decide, viewing
from pocketvit.road.matched import check_match
from pocketvit.road.rates import step_rate
from pocketvit.road.stems import with_stem, words_on_stem
from pocketvit.road.train import describe, hard_epochs
from pocketvit.settings import Compare, Distill
from pocketvit.sources import open_images
from pocketvit.tasks import task_named
from pocketvit.teachers import load_teacher
from pocketvit.views import Views
from pocketvit.views.synthetic import hard_views


def pictures(height, width, count=20):
    array = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return open_images((array, np.arange(count) % 2), progress=False)


@pytest.mark.parametrize(
    ("shape", "side"), [((8, 8), 16), ((16, 16), 16), ((28, 28), 28), ((64, 48), 64), ((100, 70), 64), ((90, 90), 80)]
)
def test_views_are_about_as_large_as_the_images(shape, side):
    assert viewing.view_size(pictures(*shape).train) == side


def test_views_are_at_most_224_px():
    assert viewing.view_size(pictures(300, 400, count=6).train) == 224


def test_each_strength_of_augmentation_adds_to_the_one_before():
    dataset = pictures(SIDE, SIDE)

    def view(augment, **changes):
        return viewing.view_config(
            dataset, size=None, augment=augment, **({"flip": True, "vertical_flip": False} | changes)
        )

    assert view("none", flip=None) == view("none", flip=False) == ViewConfig(view_size=SIDE)
    assert view("none", vertical_flip=True) == ViewConfig(view_size=SIDE, flip=0.5, vertical_flip=0.5)
    assert view("light") == ViewConfig(view_size=SIDE, flip=0.5, crop="padded", crop_padding=2)
    assert view("medium").randaugment_ops == 2
    assert not view("medium").mixes
    assert view("strong").mixes
    assert view("light", flip=False).flip == 0
    assert view("light", vertical_flip=True).vertical_flip == 0.5
    large = viewing.view_config(dataset, size=128, augment="light", flip=True, vertical_flip=False)
    assert large.crop == "random_resized"


def test_synthetic_images_are_seen_hard_unless_said_otherwise():
    made = dataclasses.replace(pictures(SIDE, SIDE), synthetic="data-free")
    for settings, expected in (
        (Distill("x"), hard_views(SIDE)),
        (Distill("x", flip=False), dataclasses.replace(hard_views(SIDE), flip=0.0)),
        (Distill("x", augment="none"), ViewConfig(view_size=SIDE)),
    ):
        decided, view = decide.decide_view(settings, made, 50)
        assert view == expected
        assert decide.decide_view(decided, made, 50) == (decided, view)


def test_long_images_are_stretched_unless_said_otherwise():
    """Of a spectrogram of 60 x 200 the middle would be less than a third."""
    long = pictures(60, 200)
    for settings, fit, words in (
        (Distill("x"), "stretch", "images 3.3 times as long as wide are stretched to squares (--aspect crop cuts"),
        (Distill("x", aspect="crop"), "crop", "are seen in the middle 30% of their length (--aspect stretch shows"),
        (Distill("x", aspect="pad"), "pad", None),
    ):
        decided, view = decide.decide_view(settings, long, 5)
        assert (decided.aspect, view.fit) == (fit, fit)
        assert view.view_size == 60
        told = viewing.words_on_aspect(long.train, view)
        assert words in told[0] if words else not told
    decided, view = decide.decide_view(Distill("x"), pictures(60, 90), 5)
    assert view.fit == "crop"
    assert not viewing.words_on_aspect(pictures(60, 90).train, view)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "convnext_atto"])
def test_any_network_of_patches_may_be_the_teacher_of_made_pictures(name):
    made = dataclasses.replace(pictures(SIDE, SIDE), synthetic="data-free")
    teacher = load_teacher(create_model(name, num_classes=2))
    assert decide.decide(Distill("x", teacher="t", size=SIDE), made, [teacher])[1].network.name == "pocket_s"


def test_small_images_get_a_convolutional_stem_and_larger_ones_stock_timm():
    def stem(side=32, **changes):
        return decide.network_of(Distill("x", **changes), "pocket_s", side).stem

    assert stem() == stem(64) == stem(7) == "conv"
    assert stem(65) == stem(6) == stem(patch=4) == "hybrid"
    assert stem(160, tokens=2) == "conv"
    assert stem(patch=2) == stem(attention="local") == "patch"
    assert stem(stem="shifted") == "shifted"


def test_students_begin_with_their_teachers_first_layers_where_these_are_not_heavy():
    real = dataclasses.replace(pictures(32, 32), classes=("a", "b"))
    large = dataclasses.replace(pictures(96, 96), classes=("a", "b"))
    made = dataclasses.replace(large, synthetic="data-free")
    convolutional = load_teacher(create_model("cifar_resnet20", num_classes=2))
    vit = load_teacher(create_student("pocket_xs", num_classes=2, image_size=32, stem="conv"))

    def network(dataset, teacher, settings=Distill, **changes):
        return decide.decide(settings(images="x", teacher="t", **changes), dataset, [teacher])[1].network

    for dataset in (real, made):
        chosen = network(dataset, convolutional)
        assert (chosen.stem, chosen.cut["layer"]) == ("teacher", "layer2")
    deep = load_teacher(create_model("cifar_resnet56", num_classes=2))  # three times the student's multiply-adds
    assert [network(dataset, deep).stem for dataset in (real, made)] == ["conv", "teacher"]
    assert network(large, convolutional).stem == "hybrid"  # six times its multiply-adds
    light = load_teacher(create_model("mobilenetv2_100", num_classes=2), input_size=128)
    assert (network(large, light).stem, network(large, light, stem="hybrid").stem) == ("teacher", "hybrid")
    others = [{"stem": "conv"}, {"tokens": 1}, {"assistant": "pocket_m"}, {"settings": Compare, "methods": "kl"}]
    assert all(network(real, convolutional, **changes).stem == "conv" for changes in others)
    assert network(real, vit).stem == "conv"
    cut = network(made, convolutional).cut
    kin = load_teacher(create_student("pocket_m", num_classes=2, image_size=96, stem="teacher", cut=cut))
    again = network(made, kin)  # what began with such layers hands them on
    assert (again.stem, again.cut, again.init_from) == ("teacher", cut, "teacher")
    convolutional.input_size = 224
    assert network(real, convolutional).stem == "conv"  # it has seen other pictures


def test_layers_that_were_left_away_for_their_cost_are_named():
    real = dataclasses.replace(pictures(32, 32), classes=("a", "b"))

    def told(name, **changes):
        teacher = load_teacher(create_model(name, num_classes=2), input_size=32)
        settings, config = decide.decide(Distill(images="x", teacher="t", **changes), real, [teacher])
        return words_on_stem(config.network, settings, [teacher], real)

    assert (
        "begin with the layers of CifarResNet up to layer2: more is learned of few images, for 2.9 times"
        in told("cifar_resnet56")[0]
    )
    assert told("cifar_resnet20") == told("cifar_resnet56", stem="conv") == told("cifar_resnet56", tokens=1) == []


def test_students_from_scratch_see_smaller_pictures_first():
    """And a third more images, in the time of whole ones; not where somebody has said how long or what is compared."""
    images = pictures(32, 32)

    def share(settings=Distill, **changes):
        return decide.decide(settings(images="x", **changes), images)[1].train.progressive

    assert share() == share(hours="1") == share(hours="1", epochs=10) == 0.6
    assert share(progressive=0) == 0
    assert share(epochs=10) == share(student="resnet18") == share(stem="concatenated") == 0
    assert share(epochs=10, progressive=0.3) == 0.3
    assert share(size=96) == 0  # no difference was seen there
    assert share(Compare, teacher="t", methods="kl") == 0
    assert share(match="rkd") == 0.6
    assert share(match="minilm") == 0  # patches one to one
    with pytest.raises(PocketError, match="--progressive"):
        share(match="minilm", progressive=0.5)
    settings, config = decide.decide(Distill(images="x"), images)
    assert decide.decide(settings, images)[1] == config
    taught = Distill(images="x", teacher="t"), dataclasses.replace(images, classes=("a", "b"))
    teacher = [load_teacher(create_model("cifar_resnet20", num_classes=2))]  # its layers are the stem, and do not learn
    settings, whole = decide.decide(*taught, teacher)
    assert (whole.train.progressive, whole.train.epochs) == (0, 200)
    assert decide.decide(settings, taught[1], teacher)[1] == whole
    assert config.train.epochs == pytest.approx(
        decide.decide(Distill(images="x", progressive=0), images)[1].train.epochs * 4 / 3, abs=1
    )


def test_a_student_of_made_pictures_starts_from_a_vit_that_made_them():
    made = dataclasses.replace(pictures(32, 32), classes=("a", "b"), synthetic="data-free")
    large = create_student("pocket_m", num_classes=2, image_size=32, stem="conv")

    def start(teacher=large, dataset=made, settings=Distill, **changes):
        asked = settings(images="x", teacher="t", **changes)
        return decide.decide(asked, dataset, [load_teacher(teacher)])[1].network.init_from

    assert start() == start(init_from="teacher") == start(tokens=1) == "teacher"
    assert start(student="pocket_xs", stem="patch") == "teacher"
    assert start(init_from="weights.pth") == "weights.pth"
    assert start(init_from="none") is None
    real = dataclasses.replace(made, synthetic="")
    assert start(dataset=real) == "teacher"
    assert start(dataset=real, stem="patch") is start(dataset=real, init_from="none") is None  # of another stem
    assert start(student="pocket_l") is start(stem="patch") is None  # wider, and with more blocks
    assert start(create_model("cifar_resnet20", num_classes=2)) is None
    for changes in ({"assistant": "pocket_s"}, {"settings": Compare, "methods": "kl"}, {"student": "resnet18"}):
        assert start(**changes) is None


def test_a_student_that_starts_from_a_vit_on_patches_has_patches():
    made = dataclasses.replace(pictures(32, 32), classes=("a", "b"), synthetic="data-free")
    plain = create_model("vit_tiny_patch16_224", num_classes=2, image_size=32, patch_size=8)

    def network(dataset=made, **changes):
        asked = Distill(images="x", teacher="t", **changes)
        chosen = decide.decide(asked, dataset, [load_teacher(plain)])[1].network
        return chosen.stem, chosen.patch, chosen.init_from

    assert network() == ("patch", 8, "teacher")
    assert network(stem="conv") == ("conv", None, "teacher")
    assert network(patch=4) == ("hybrid", 4, "teacher")
    assert network(init_from="none") == network(dataclasses.replace(made, synthetic="")) == ("conv", None, None)


def test_the_maps_of_convolutional_teachers_are_matched_unasked():
    real = dataclasses.replace(pictures(32, 32), classes=("a", "b"))
    made = dataclasses.replace(real, synthetic="data-free")
    resnet = load_teacher(create_model("cifar_resnet20", num_classes=2))
    rednet = load_teacher(create_model("cifar_rednet11", num_classes=2))
    vit = load_teacher(create_student("pocket_m", num_classes=2, image_size=32, stem="conv"))

    def matched(*teachers, dataset=real, settings=Distill, **changes):
        asked = settings(images="x", teacher=["t"] * len(teachers), **changes)
        decided, config = decide.decide(asked, dataset, teachers)
        assert decide.decide(decided, dataset, teachers) == (decided, config)
        return [term.objective for term in config.loss.terms], config.labels.store_features

    stored = (["fitnets"], "4GB")
    assert matched(resnet) == matched(resnet, rednet) == matched(resnet, dataset=made) == stored
    weights = [
        decide.decide(Distill("x", teacher="t"), dataset, [resnet])[1].loss.terms[0].weight for dataset in (real, made)
    ]
    assert weights == [1, 3]  # made pictures say little else
    assert matched(resnet, few_labels=4) == matched(resnet, student="pocket_m", stem="conv") == stored
    assert matched(vit) == matched(resnet, vit) == matched() == ([], None)
    assert matched(vit, dataset=made) == stored  # its patches make a map, too
    for changes in (
        {"match": "none"},
        {"hard_share": 0.3, "epochs": 9},
        {"stem": "hybrid"},
        {"init_from": "weights.pth"},
        {"assistant": "pocket_m"},
        {"settings": Compare, "methods": "kl"},
    ):
        assert matched(resnet, **changes) == ([], None)
    assert matched(resnet, dataset=made, stem="hybrid") == matched(resnet, student="resnet18", size=64) == stored
    assert matched(resnet, match="rkd") == (["rkd"], None)
    assert matched(resnet, dataset=made, init_from="none") == stored
    light = load_teacher(create_model("mobilenetv2_100", num_classes=2), input_size=128)
    assert matched(light, size=128) == stored  # behind its first layers
    assert matched(light, size=128, stem="hybrid") == matched(resnet, size=128) == ([], None)
    assert matched(resnet, match="vkd", store_features="1MB") == (["vkd"], "1MB")
    assert matched(resnet, store_features="1MB") == (["fitnets"], "1MB")  # a limit of one's own is no other choice


def test_features_are_not_stored_where_none_are_matched():
    real = dataclasses.replace(pictures(32, 32), classes=("a", "b"))
    vit = load_teacher(create_student("pocket_m", num_classes=2, image_size=32, stem="conv"))
    heavy = load_teacher(create_model("cifar_resnet110", num_classes=2), input_size=32)
    for teacher, changes in ((vit, {}), (heavy, {"match": "none"}), (heavy, {"store_features": "1kB"})):
        asked = Distill("x", teacher="t", **{"store_features": "1GB"} | changes)
        config = decide.decide(asked, real, [teacher])[1]
        with pytest.raises(PocketError, match=r"--store-features 1.B: no features of a teacher are matched here"):
            check_match(config, real, [teacher])


def test_maps_that_cannot_be_stored_are_matched_where_the_teacher_is_light(monkeypatch):
    real = dataclasses.replace(pictures(32, 32), classes=("a", "b"))
    monkeypatch.setattr("pocketvit.road.matched.STORED", "1kB")

    def chosen(name):
        teacher = load_teacher(create_model(name, num_classes=2), input_size=32)
        return decide.decide(Distill("x", teacher="t"), real, [teacher])[1]

    light = chosen("cifar_resnet20")
    assert ([term.objective for term in light.loss.terms], light.labels.store_features) == (["fitnets"], None)
    assert not chosen("cifar_resnet110").loss.terms


def test_epochs_show_about_the_budget():
    assert decide.epochs_for(100, 32) == decide.MOST_EPOCHS
    assert decide.epochs_for(5000, 32) == 50
    assert decide.epochs_for(5000, 128) == 13
    assert decide.epochs_for(10**6, 32) == 5


def test_boxes_are_learned_in_small_batches_and_some_hundred_steps():
    boxes = task_named("detection")
    assert decide.epochs_for(700, 640, boxes.shown, boxes.steps * boxes.batch) == 7  # of 43 steps
    dataset = open_images("scenes", progress=False)
    settings, _ = decide.decide(Distill(images="scenes", student="pocket_xs"), dataset)
    assert settings.batch_size == 16


def test_the_size_of_views_is_known_without_decoding():
    source = open_images("scenes", progress=False).train

    class Unread:
        size, targets = None, source.targets

        def __len__(self):
            return len(source)

    assert viewing.view_size(Unread()) == viewing.view_size(source) == 64


def test_batches_leave_eight_steps_where_they_can():
    assert [decide.batch_size_for(count) for count in (5, 16, 64, 500, 10**6)] == [8, 16, 16, 32, 128]


def test_the_rate_follows_the_square_root_of_the_batch():
    for optimizer in ("muon", "adamw"):
        rates = [decide.learning_rate_for(optimizer, batch, pretrained=False) for batch in (32, 128)]
        assert rates[1] == pytest.approx(2 * rates[0])


def test_deciding_again_changes_nothing(photos):
    """A run's config.yaml holds every choice; a resumed run comes to the same."""
    dataset = open_images(str(photos), progress=False)
    settings, config = decide.decide(Distill(images=str(photos), student="pocket_xs"), dataset)
    assert None not in (settings.epochs, settings.batch_size, settings.lr, settings.size, settings.views)
    assert "auto" not in (settings.optimizer, settings.augment, settings.objective)
    assert decide.decide(settings, dataset) == (settings, config)


def test_a_student_from_scratch_learns_with_muon_and_a_pretrained_one_gently(photos):
    dataset = open_images(str(photos), progress=False)
    scratch = decide.decide(Distill(images=str(photos)), dataset)[1].train
    named = decide.decide(Distill(images=str(photos), student="vit_tiny_patch16_224.augreg_in21k"), dataset)[1].train
    assert (scratch.optimizer, named.optimizer) == ("muon", "adamw")
    assert named.learning_rate < scratch.learning_rate


def test_a_device_that_is_not_there_is_refused():
    begin.check_device(None)
    begin.check_device("cpu")
    with pytest.raises(PocketError, match="--device xpu cannot be used here"):
        begin.check_device("xpu")


def test_a_network_that_nobody_knows_is_refused_with_the_near_one():
    begin.check_network("mobilenetv3_small_100.lamb_in1k")
    begin.check_network("pocket_s")
    with pytest.raises(PocketError, match=r"--against: .*Did you mean mobilenetv3_small_100"):
        begin.check_network("mobilenetv3_smal_100", "--against")
    with pytest.raises(PocketError, match="timm has no weights 'lamp_in1k'"):
        begin.check_network("mobilenetv3_small_100.lamp_in1k")


@pytest.mark.parametrize(
    ("classes", "top_k", "objective", "temperature"),
    [
        (300, None, "kl", 1.0),
        (300, 0, "kl", 2.0),
        (300, 300, "kl", 2.0),
        (300, 1000, "zscore", 2.0),
        (30, None, "kl", 2.0),
    ],
)
def test_the_temperature_is_1_only_where_logits_are_left_out(classes, top_k, objective, temperature):
    """As the help says, whether or not an objective is named; a top k that leaves nothing out leaves nothing out."""
    dataset = dataclasses.replace(pictures(SIDE, SIDE), classes=tuple(map(str, range(classes))))
    settings = Distill("x", objective="kl" if objective == "kl" else "auto", top_k=top_k)
    _, loss = decide.decide_loss(settings, dataset, ())
    assert (loss.objective, loss.temperature) == (objective, temperature)
    decide.check_served(loss, settings, classes, task="classification")


@pytest.mark.parametrize(("task", "classes"), [("multilabel", 3), ("detection", 2), ("classification", 300)])
def test_a_student_without_a_teacher_needs_no_objective_that_labels_serve(task, classes):
    """Nothing is stored: the objective that nobody asked for is not refused, whatever the images are."""
    dataset = dataclasses.replace(pictures(SIDE, SIDE), classes=tuple(map(str, range(classes))), task=task)
    _, config = decide.decide(Distill("x", teacher="none", epochs=1), dataset)
    assert config.loss.weight == 0


def test_a_plan_times_the_device_that_will_do_the_work(photos, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(begin.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(begin, "plan_teachers", lambda *given: asked.append(given[-1]) or [])
    dataset = open_images(str(photos), progress=False)
    for device in (None, "cpu"):
        settings = Distill(images=str(photos), out=str(tmp_path), device=device)
        walk = begin._trial(settings, dataset, [], decide.decide)
        asked.append(walk.road.device.type)
    assert asked == ["cuda", "cuda", "cpu", "cpu"]


def test_what_is_trained_is_said_with_its_detector():
    network = dataclasses.replace(NetworkConfig("pocket_s", stem="hybrid"), detector="detr")
    said = describe(RunConfig(network=network))
    assert said.startswith("pocket_s with a convolution first and the decoder of LW-DETR, ")


def test_images_that_nothing_can_be_learned_from_are_told_before_anything_is_planned(tmp_path):
    one = [(np.full((8, 8, 3), index, np.uint8), "cat") for index in range(20)]
    with pytest.raises(PocketError, match="are of one class, 'cat': two or more"):
        pocketvit.train(one, out=tmp_path)
    bare = [np.full((8, 8, 3), index, np.uint8) for index in range(20)]
    with pytest.raises(PocketError, match="no labels and no teacher is named"):
        pocketvit.distill(bare, plan=True, out=tmp_path)


def test_what_would_change_the_shape_of_objects_is_refused_for_boxes():
    boxes = task_named("detection")
    for aspect in ("crop", "pad"):
        boxes.refuse(Distill(images="scenes", aspect=aspect), 2)
    with pytest.raises(PocketError, match="--aspect stretch changes the shape of objects"):
        boxes.refuse(Distill(images="scenes", aspect="stretch"), 2)


def test_several_teachers_are_weighed_by_a_gate_where_validation_images_fit_it():
    many, few = pictures(SIDE, SIDE, count=1200), pictures(SIDE, SIDE, count=200)
    for settings, dataset, expected in (
        (Distill("x"), many, "learned"),  # two light teachers
        (Distill("x"), few, "fixed"),
        (Distill("x", teacher="a"), many, "fixed"),
        (Distill("x", teacher=("a", "b")), many, "learned"),
        (Distill("x", teacher_weights="agreement"), many, "agreement"),
        (Compare("x", teacher=("a", "b")), many, "fixed"),
        (Distill("x"), dataclasses.replace(many, val=None), "fixed"),
    ):
        decided, loss = decide.decide_loss(settings, dataset, ())
        assert (decided.teacher_weights, loss.teacher_weights) == (expected, expected)


def test_teachers_that_count_for_nothing_are_refused():
    real = dataclasses.replace(pictures(32, 32), classes=("a", "b"))
    made = dataclasses.replace(real, synthetic="data-free")
    vit = load_teacher(create_student("pocket_m", num_classes=2, image_size=32, stem="conv"))
    resnet = load_teacher(create_model("cifar_resnet20", num_classes=2))

    def weight(teacher=vit, dataset=real, **changes):
        asked = Distill("x", **{"teacher": "t", "teacher_share": 0} | changes)
        return decide.decide(asked, dataset, [teacher])[1].loss.weight

    with pytest.raises(PocketError, match=r"--teacher-share 0\.0: .* learn nothing of its teachers.* --teacher none\."):
        weight()
    with pytest.raises(PocketError, match="learn nothing of its teachers"):
        weight(resnet, match="none")
    assert weight(resnet) == weight(match="rkd") == weight(few_labels=4) == weight(dataset=made) == 0


@pytest.mark.parametrize(
    ("asked", "share"),
    [
        ({"epochs": 4, "views": 1}, 1 / 3),
        ({"epochs": 3, "views": 1}, 0.0),  # not worn yet
        ({"epochs": 8, "views": 2}, 1 / 3),
        ({"epochs": 20, "views": 3}, 0.0),  # not measured; of ten it does no good
        ({"epochs": 4, "views": 1, "hard_share": 0.0}, 0.0),
        ({"epochs": 2, "views": 2, "hard_share": 0.5}, 0.5),
        ({"epochs": 4, "views": 1, "match": "fitnets"}, 0.0),
        ({"epochs": 4, "views": 1, "few_labels": 6}, 0.0),  # the others have none
        ({"epochs": 4, "views": 1, "hours": 1}, 0.0),
    ],
)
def test_worn_views_make_room_for_labels(photos, asked, share):
    dataset = open_images(str(photos))
    settings, config = decide.decide(Distill(str(photos), teacher=Own(), **asked), dataset)
    assert config.loss.hard_share == settings.hard_share == share
    assert decide.decide(settings, dataset)[1] == config  # deciding again changes nothing


def test_hard_epochs_stand_in_the_middle():
    assert hard_epochs(12, 1 / 3) == range(4, 8)
    assert hard_epochs(8, 1 / 3) == range(3, 6)
    assert not hard_epochs(5, 0.0)


def test_few_images_seen_often_in_a_short_time_vary_lightly():
    few = dataclasses.replace(pictures(32, 32), classes=("a", "b"))  # 200 epochs unasked

    def augment(epochs, **changes):
        return decide.decide_view(Distill("x", **changes), few, epochs)[0].augment

    assert [augment(39), augment(40)] == ["light", "medium"]
    assert [augment(99, hours=0.02), augment(100, hours=0.02)] == ["light", "medium"]


def test_classes_that_few_labels_leave_without_one_are_named():
    dataset = open_images("digits")
    told = begin.few_words(Distill("digits", few_labels=7), dataset)
    assert len(told) == 1
    assert "(3 of 10 classes) is among the 7" in told[0]
    assert begin.few_words(Distill("digits", few_labels=10), dataset) == []
    assert begin.few_words(Distill("digits"), dataset) == []


def test_a_step_is_timed_with_the_layers_that_are_trained():
    """A student of its teacher's first layers was given twice the time that it took."""
    teacher = create_model("cifar_resnet20", num_classes=2).requires_grad_(False)
    network = with_stem(NetworkConfig("pocket_xs", stem="teacher"), load_teacher(teacher, input_size=32), 32)
    student = task_named("classification").network(network, classes=2, side=32)
    views, train = Views(pictures(32, 32).train, ViewConfig(view_size=32)), TrainConfig(batch_size=4)
    assert step_rate(student, views, train, 32) > 0
    assert not any(weight.requires_grad for weight in student.patch_embed.layers.parameters())
    assert student.head.weight.requires_grad
    assert step_rate(teacher, views, train, 32) > 0
