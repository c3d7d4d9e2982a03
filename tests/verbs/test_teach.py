"""Teachers made to answer in the user's classes: by name, in order, by a probe, by fine-tuning, or from scratch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import timm
import torch
from verbs_fakes import Own, draw_photos, run_config, tiny

from pocketvit.errors import PocketError
from pocketvit.sources.subset import hide_labels
from pocketvit.teachers import load_teacher
from pocketvit.teachers.teacher import hash_tensors
from pocketvit.verbs import teach
from pocketvit.verbs.stages import open_road


@pytest.fixture(autouse=True)
def _hear(caplog):
    caplog.set_level("INFO", "pocketvit")


def ready(road, *specs, **changes):
    """Get teachers ready as `distill` does."""
    configs, specs = teach.teacher_config(list(specs), None, None, changes.pop("input", 16), "half")
    return teach.ready_teachers(road, run_config(teachers=configs, **changes), specs)


def unlabelled(road):
    """The same road with no class known."""
    train = hide_labels(road.dataset.train, np.array([], np.int64))
    train.classes = ()
    return dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, classes=(), train=train))


def test_a_teacher_of_a_thousand_classes_is_fine_tuned_unasked(road, caplog):
    """Scenario 3; a second call finds the result."""
    module = tiny()
    before = hash_tensors(module)
    (teacher,) = ready(road, module, input=32)
    assert "it has 1000 classes of its own, the images have 3: it is fine-tuned on your images" in caplog.text
    assert teacher.num_outputs == 3
    assert teacher.classes == road.dataset.classes
    assert teacher.input_size == 32
    assert hash_tensors(module) == before
    caplog.clear()
    (again,) = ready(road, module, input=32)
    assert "reused from an earlier run" in caplog.text
    assert again.fingerprint == teacher.fingerprint


def test_a_teacher_of_features_gets_a_probe_and_its_body_stays(road, caplog):
    """Scenario 4."""
    module = timm.create_model("test_vit", img_size=32, num_classes=0)
    (teacher,) = ready(road, module, input=32)
    assert "features and no classes, the images have 3: a linear probe" in caplog.text
    assert teacher.num_outputs == 3
    own, adapted = module.state_dict(), teacher.module.state_dict()
    adapted = {key.removeprefix("body."): value for key, value in adapted.items()}
    assert all(torch.equal(value, adapted[key]) for key, value in own.items())


def test_the_user_may_insist_on_a_probe(road, caplog):
    module = tiny()
    (teacher,) = ready(road, module, input=32, fine_tune=False)
    assert "a linear probe learns them" in caplog.text
    adapted = teacher.module.state_dict()
    assert all(torch.equal(value, adapted[key]) for key, value in module.state_dict().items() if "fc" not in key)


def test_classes_are_matched_by_name(road, caplog):
    teacher = load_teacher(Own(), input_size=16, norm="half", classes=["Blue", "Red", "green"])
    (matched,) = teach.ready_teachers(
        road, run_config(teachers=teach.teacher_config(teacher, *[None] * 4)[0]), [teacher]
    )
    assert matched.columns.tolist() == [0, 2, 1]
    assert "3 of its 3 classes matched by name" in caplog.text


def test_nameless_classes_are_taken_in_order_and_that_is_said(road, caplog):
    (teacher,) = ready(road, Own())
    assert teacher.columns is None
    assert "assumed to be the images' classes in order (blue, green, red)" in caplog.text


def test_without_labels_a_teacher_needs_classes_of_its_own(road):
    bare = unlabelled(road)
    (kept,) = ready(bare, tiny(), input=32)
    assert kept.num_outputs == 1000
    with pytest.raises(PocketError, match=r"no classes for these images.*--labels FILE\.csv"):
        ready(bare, tiny(0), input=32)


def test_classes_without_names_are_numbered_where_images_have_none(road, caplog):
    bare = unlabelled(road)
    teachers = ready(bare, Own())
    named = teach.with_classes(bare, teachers)
    assert named.dataset.classes == ("class 0", "class 1", "class 2")
    assert "they are called class 0 to class 2" in caplog.text


def test_images_without_labels_take_their_teachers_classes(road):
    bare = unlabelled(road)
    one, other = (
        load_teacher(Own(), input_size=16, norm="half", classes=names)
        for names in (("blue", "green", "red"), ("red", "green", "blue"))
    )
    teachers = [one, other]
    named = teach.with_classes(bare, teachers)
    assert named.dataset.classes == ("blue", "green", "red")
    assert (teachers[0].columns, teachers[1].columns.tolist()) == (None, [2, 1, 0])
    assert teach.with_classes(road, [other]) is road
    with pytest.raises(PocketError, match="have different classes"):
        teach.with_classes(bare, [one, load_teacher(tiny(), input_size=32)])


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


def test_light_teachers_are_trained_on_the_labels_and_found_again(tmp_path, caplog):
    photos = draw_photos(tmp_path / "photos", count=10)
    config = run_config()
    road = open_road(config, tmp_path / "shared", images=str(photos), device="cpu")
    teachers = teach.ready_teachers(road, config, [])
    assert [teacher.name for teacher in teachers] == list(teach.LIGHT)
    assert "two light ones are trained on your labels" in caplog.text
    assert all(teacher.classes == road.dataset.classes for teacher in teachers)
    caplog.clear()
    again = teach.ready_teachers(road, config, [])
    assert caplog.text.count("from an earlier run") == 2
    assert [teacher.fingerprint for teacher in again] == [teacher.fingerprint for teacher in teachers]


def test_nothing_to_learn_from_is_said(road):
    with pytest.raises(PocketError, match="no labels and no teacher is named"):
        teach.ready_teachers(unlabelled(road), run_config(), [])


def test_one_teacher_or_several_are_configured_alike():
    module = Own()
    assert teach.teacher_config(None, None, None, None, None) == ((), [])
    configs, specs = teach.teacher_config(module, None, None, 16, "half")
    assert (configs[0].name, configs[0].input_size, configs[0].norm) == ("(Own)", 16, "half")
    assert specs == [module]
    configs, specs = teach.teacher_config(["a", "b"], "vit", None, None, None)
    assert [config.name for config in configs] == specs == ["a", "b"]
