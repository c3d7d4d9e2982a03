"""Teachers made to answer in the user's classes: by name, in order, by a probe, by fine-tuning, or from scratch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import timm
import torch
from walk_fakes import Own, draw_photos, run_config, tiny

from pocketvit.errors import PocketError
from pocketvit.road import Walk, adapt, class_order, light
from pocketvit.road.images import open_road
from pocketvit.road.measuring import Entry
from pocketvit.settings import Distill
from pocketvit.sources.subset import hide_labels
from pocketvit.teachers import load_teacher
from pocketvit.teachers.teacher import hash_tensors


@pytest.fixture(autouse=True)
def _hear(caplog):
    caplog.set_level("INFO", "pocketvit")


def ready(road, *specs, size=16, **changes):
    """Get teachers ready as `distill` does."""
    settings = Distill(teacher=specs, **({"teacher_size": size, "teacher_norm": "half"} if specs else {}), **changes)
    return adapt.ready_teachers(Walk(settings, run_config(), road.shared, specs=specs, road=road))


def unlabelled(road):
    """The same road with no class known."""
    train = hide_labels(road.dataset.train, np.array([], np.int64))
    train.classes = ()
    return dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, classes=(), train=train))


def test_a_teacher_of_a_thousand_classes_is_fine_tuned_unasked(road, caplog):
    """Scenario 3; a second call finds the result."""
    module = tiny()
    before = hash_tensors(module)
    (teacher,) = ready(road, module, size=32)
    assert "it has 1000 classes of its own, the images have 3: it is fine-tuned on your images" in caplog.text
    assert teacher.num_outputs == 3
    assert teacher.classes == road.dataset.classes
    assert teacher.input_size == 32
    assert hash_tensors(module) == before
    caplog.clear()
    (again,) = ready(road, module, size=32)
    assert "reused from an earlier run" in caplog.text
    assert again.fingerprint == teacher.fingerprint


def test_a_teacher_of_features_gets_a_probe_and_its_body_stays(road, caplog):
    """Scenario 4."""
    module = timm.create_model("test_vit", img_size=32, num_classes=0)
    (teacher,) = ready(road, module, size=32)
    assert "features and no classes, the images have 3: a linear probe" in caplog.text
    assert teacher.num_outputs == 3
    own, adapted = module.state_dict(), teacher.module.state_dict()
    adapted = {key.removeprefix("body."): value for key, value in adapted.items()}
    assert all(torch.equal(value, adapted[key]) for key, value in own.items())


def test_the_user_may_insist_on_a_probe(road, caplog):
    module = tiny()
    (teacher,) = ready(road, module, size=32, freeze=True)
    assert "a linear probe learns them" in caplog.text
    adapted = teacher.module.state_dict()
    assert all(torch.equal(value, adapted[key]) for key, value in module.state_dict().items() if "fc" not in key)


def test_classes_are_matched_by_name(road, caplog):
    teacher = load_teacher(Own(), input_size=16, norm="half", classes=["Blue", "Red", "green"])
    (matched,) = ready(road, teacher)
    assert matched.columns.tolist() == [0, 2, 1]
    assert "3 of its 3 classes matched by name" in caplog.text


def test_nameless_classes_are_taken_in_order_and_that_is_said(road, caplog):
    (teacher,) = ready(road, Own())
    assert teacher.columns is None
    assert "assumed to be the images' classes in order (blue, green, red)" in caplog.text


def test_nameless_classes_that_are_others_are_learned_where_that_is_asked_for(road, caplog):
    """As many outputs as classes by chance: --freeze and --fine-tune are no longer passed over without a word."""
    (teacher,) = ready(road, Own(), freeze=True)
    assert "it has 3 outputs, the images have 3: a linear probe learns them" in caplog.text
    assert teacher.classes == road.dataset.classes


@pytest.mark.parametrize("order", [[2, 0, 1], [0, 2, 1]])
def test_nameless_classes_in_another_order_are_told_from_labels(road, caplog, order):
    """A file of weights names no class, and whoever trained it had folders of other names."""
    other = Own()
    with torch.no_grad():
        other.head.weight.copy_(other.head.weight[order])
    (teacher,) = ready(road, other)
    assert [order[column] for column in teacher.columns] == [0, 1, 2]
    assert "in another one right: blue = its output" in caplog.text
    assert class_order.in_labelled_order(teacher, road) is teacher


def test_a_plan_says_that_labels_have_a_say_in_the_order(road):
    told = adapt._told(load_teacher(Own(), input_size=16), road.dataset, None, 16)
    assert told[-1].endswith("the run tries that on labelled images, and takes the order they plainly say")
    assert "no names" in told[-2]
    assert "plainly" not in str(adapt._told(load_teacher(Own(), input_size=16), unlabelled(road).dataset, None, 16))


def test_chance_changes_no_order():
    rng = np.random.default_rng(0)
    for classes in (2, 5, 20):
        targets = np.repeat(np.arange(classes), 12)
        for _ in range(200):
            weak = np.where(rng.random(len(targets)) < 0.2, targets, rng.integers(0, classes, len(targets)))
            assert class_order.best_order(weak, targets, classes) is None
        assert class_order.best_order(np.full(len(targets), 1), targets, classes) is None
        confused = np.where(targets == 0, 1, rng.integers(0, classes, len(targets)))  # knows one class, called another
        assert classes == 2 or class_order.best_order(confused, targets, classes) is None
        swapped = np.where(targets < 2, 1 - targets, targets)
        assert class_order.best_order(swapped, targets, classes).tolist() == [1, 0, *range(2, classes)]


@pytest.mark.parametrize("classes", [20, 60, 100, 200])
def test_the_order_of_folders_that_are_numbers_is_found_for_many_classes(classes):
    """Folders stand as text does (0, 1, 10, 11, ...), a teacher of numbered classes knows them as numbers."""
    rng = np.random.default_rng(0)
    order = np.array(sorted(range(classes), key=str))
    everything = np.repeat(np.arange(classes), 50)
    targets = everything[class_order.some_of_each(everything, classes)]
    known = rng.random(len(targets)) < 0.75
    answers = np.where(known, order[targets], rng.integers(0, classes, len(targets)))
    found = class_order.best_order(answers, targets, classes)
    assert found is not None
    assert (found == order).mean() > 0.99
    right = np.where(known, targets, rng.integers(0, classes, len(targets)))
    assert class_order.best_order(right, targets, classes) is None


def test_without_labels_a_teacher_needs_classes_of_its_own(road):
    bare = unlabelled(road)
    (kept,) = ready(bare, tiny(), size=32)
    assert kept.num_outputs == 1000
    with pytest.raises(PocketError, match=r"no classes for these images.*--table FILE\.csv"):
        ready(bare, tiny(0), size=32)


def test_a_rare_class_that_is_confused_does_not_hide_the_order():
    targets = np.repeat([0, 1, 2], [40, 40, 5])
    answers = np.repeat([1, 2, 2], [40, 40, 5])  # those of the rare class are taken for the second one
    assert class_order.best_order(answers, targets, 3).tolist() == [1, 2, 0]


def test_a_single_output_is_no_class_where_no_label_says_more(road):
    """A softmax of one is 1: a student would have learned that for hours."""
    other = Own()
    other.head = torch.nn.Linear(3, 1)
    with pytest.raises(PocketError, match=r"a single output.*torch\.cat"):
        ready(unlabelled(road), other)


def test_classes_without_names_are_numbered_where_images_have_none(road, caplog):
    bare = unlabelled(road)
    teachers = ready(bare, Own())
    named = adapt.with_classes(bare, teachers)
    assert named.dataset.classes == ("class 0", "class 1", "class 2")
    assert "they are called class 0 to class 2" in caplog.text


def test_images_without_labels_take_their_teachers_classes(road):
    bare = unlabelled(road)
    one, other = (
        load_teacher(Own(), input_size=16, norm="half", classes=names)
        for names in (("blue", "green", "red"), ("red", "green", "blue"))
    )
    teachers = [one, other]
    named = adapt.with_classes(bare, teachers)
    assert named.dataset.classes == ("blue", "green", "red")
    assert (teachers[0].columns, teachers[1].columns.tolist()) == (None, [2, 1, 0])
    assert adapt.with_classes(road, [other]) is road
    with pytest.raises(PocketError, match="have different classes"):
        adapt.with_classes(bare, [one, load_teacher(tiny(), input_size=32)])


def test_the_same_teacher_twice_is_refused(road):
    with pytest.raises(PocketError, match="the teacher Own is named twice"):
        ready(road, Own(), Own())


def test_two_networks_of_one_class_are_told_apart(road):
    """In Python a teacher is called by its class, and timm's networks have few of these."""
    other = Own()
    with torch.no_grad():
        other.head.bias += 1
    first = load_teacher(other, input_size=16, norm="half")
    teachers = ready(road, Own(), first)
    assert [teacher.name for teacher in teachers] == ["Own", "Own-2"]
    assert first.name == "Own"
    assert torch.equal(teachers[1].module.head.bias, other.head.bias)


def test_where_labels_are_many_a_student_alone_is_named_as_the_shorter_way(road, monkeypatch):
    count = len(road.dataset.train)
    monkeypatch.setattr(light, "MANY_LABELS", count)
    assert f"(from {count} labels a student alone has learned as much" in light.told_of_light(road)
    assert light.told_of_light(road.with_few_labels(count - 1)).endswith("trained on your labels")


def test_light_teachers_are_trained_on_the_labels_and_found_again(tmp_path, caplog):
    photos = draw_photos(tmp_path / "photos", count=10)
    config = run_config()
    road = open_road(str(photos), config.view, tmp_path / "shared", device="cpu")
    teachers = ready(road)
    assert [teacher.name for teacher in teachers] == list(light.LIGHT)
    assert "none named: cifar_resnet20 and cifar_rednet20 trained on your labels\n" in caplog.text
    assert all(teacher.classes == road.dataset.classes for teacher in teachers)
    caplog.clear()
    again = ready(road)
    assert caplog.text.count("from an earlier run") == 2
    assert [teacher.fingerprint for teacher in again] == [teacher.fingerprint for teacher in teachers]


@pytest.mark.parametrize(
    ("right", "words"),
    [(3, ""), (2, "no better than always answering"), (0, "no better than always answering"), (6, "")],
)
def test_a_teacher_is_warned_of_where_it_is_no_better_than_guessing(road, right, words, monkeypatch, caplog):
    """Six test images of three classes, two of each: a third is chance, and a half on so few is no reason to warn."""
    targets = road.scored.targets
    answers = np.eye(3, dtype=np.float32)[np.where(np.arange(6) < right, targets, (targets + 1) % 3)]
    entry = Entry("teacher-1", "teacher", "teacher", 16, probabilities=answers)
    monkeypatch.setattr(adapt, "teacher_entry", lambda *_: entry)
    adapt.judge_teachers([load_teacher(Own(), input_size=16, norm="half")], road)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [words in warning for warning in warnings] == [True] * bool(words)


def test_corrected_labels_make_another_teacher(road):
    """The key of an adapted teacher holds the labels and the validation split, not the pixels alone."""
    before = light.learned_from(road.dataset)
    train = hide_labels(road.dataset.train, np.arange(1, len(road.dataset.train)))
    assert light.learned_from(dataclasses.replace(road.dataset, train=train)) != before
    assert light.learned_from(dataclasses.replace(road.dataset, val=road.dataset.test)) != before
    assert light.learned_from(dataclasses.replace(road.dataset, test=None)) == before


def test_whether_to_fine_tune_is_decided_once(road, tmp_path, monkeypatch):
    """A stopwatch decides; a resumed run on a busier machine must not choose otherwise."""
    from pocketvit.road import probe

    def decided(folder, epochs, each, asked=None):
        return probe._wanted(folder, asked, epochs, each, can_choose=True, name="t", who=road.processes)

    assert decided(tmp_path, 7, 1.0) == (True, 7)
    assert decided(tmp_path, 5, 2000.0) == decided(tmp_path, 5, 1.0) == (True, 7)
    assert decided(tmp_path, 5, 1.0, asked=False) == (False, 7)
    assert decided(tmp_path / "other", 5, 2000.0) == (False, 5)


def test_few_images_are_seen_more_often_in_fine_tuning_as_long_as_that_is_short():
    from pocketvit.road.probe import EPOCHS, tuning_epochs

    assert tuning_epochs(546, each=1.0) == 23  # 200 steps of 64
    assert tuning_epochs(546, each=15.0) == 8
    assert tuning_epochs(546, each=500.0) == tuning_epochs(50_000, each=0.1) == EPOCHS
