"""Terms on features: layers are chosen or named, projections learn, impossible pairs are told."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from pocketvit.config import LossConfig, TermConfig, TrainConfig
from pocketvit.errors import PocketError
from pocketvit.labels import FullLabels, encode_topk
from pocketvit.models import create_model, create_student
from pocketvit.models.taps import list_layers
from pocketvit.objectives import Batch
from pocketvit.objectives.matching import answer_places
from pocketvit.objectives.terms import TERMS, FeatureTerms, term_needs
from pocketvit.tasks import task_named
from pocketvit.teachers import load_teacher
from pocketvit.training import Stepper
from pocketvit.training.features import LiveFeatures

SIDE, CLASSES = 16, 3
INPUT = (SIDE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def network(name: str, **options):
    torch.manual_seed(0)
    if name.startswith("pocket"):
        return create_student(name, num_classes=CLASSES, image_size=SIDE, patch_size=4, **options)
    return create_model(name, num_classes=CLASSES, **options)


def teacher(name: str):
    return load_teacher(network(name), input_size=SIDE, norm="half")


@pytest.fixture(scope="module")
def conv():
    return teacher("cifar_resnet20")


@pytest.fixture(scope="module")
def vit():
    return teacher("pocket_s")


def batch(count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(count) % CLASSES
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    pixels[:, :, : SIDE // 2] //= (1 + targets)[:, None, None, None].to(torch.uint8)
    return Batch(pixels, targets, targets, torch.ones(count), (), torch.arange(count), count)


def learn(teachers, *terms: TermConfig, steps: int = 1, student=None, **train):
    """Take steps on one batch; return the stepper and each step's terms (means)."""
    loss = LossConfig(objective="kl", temperature=1.0, weight=0.5, terms=terms)
    model = student or network("pocket_xs")
    parts = FeatureTerms(loss, model, SIDE, teachers) if terms else None
    config = TrainConfig(precision="fp32", epochs=1, warmup=0.0, learning_rate=5e-4, **train)
    stepper = Stepper(
        model,
        INPUT,
        task_named("classification").loss(loss),
        config,
        100,
        task=task_named("classification"),
        terms=parts,
    )
    look = LiveFeatures(teachers, [parts.teacher_layers(index) if parts else () for index in range(len(teachers))])
    found = []
    for _ in range(steps):
        one = batch()
        one.soft, one.features = look(one)
        sums = stepper.take([one])
        found.append({name: float(value) / len(one) for name, value in sums.items()})
    return stepper, found


@pytest.mark.parametrize("name", [name for name in TERMS if name != "mean_teacher"])
def test_every_term_learns_from_a_vision_transformer(vit, name):
    _, found = learn([vit], TermConfig(name, 3.0), steps=8)
    assert min(one[name] for one in found[1:]) < found[0][name]


@pytest.mark.parametrize("name", [name for name in TERMS if name not in ("mean_teacher", "minilm")])
def test_every_term_but_minilm_learns_from_a_convolution_network(conv, name):
    _, found = learn([conv], TermConfig(name, 3.0), steps=8)
    assert min(one[name] for one in found[1:]) < found[0][name]


@pytest.mark.parametrize("name", [name for name in TERMS if name != "mean_teacher"])
def test_every_term_but_minilm_learns_from_smaller_pictures(vit, name):
    """Maps of fewer places are compared with the teacher's of the whole picture, which are shrunk to these."""
    stepper, found = learn([vit], TermConfig(name, 3.0), steps=4, progressive=0.02)
    assert min(one[name] for one in found[1:]) < found[0][name]
    assert stepper.smaller is False  # two steps of a hundred were
    _, (one,) = learn([vit], TermConfig(name, 3.0), progressive=0.02)
    _, (other,) = learn([vit], TermConfig(name, 3.0))
    assert (one["loss"] == other["loss"]) == (name == "minilm")


def test_the_loss_is_the_rest_plus_each_term_times_its_weight(conv):
    _, (plain,) = learn([conv])
    _, (found,) = learn([conv], TermConfig("rkd", 0.3), TermConfig("fitnets", 2.0))
    assert found["loss"] == pytest.approx(plain["loss"] + 0.3 * found["rkd"] + 2.0 * found["fitnets"], rel=1e-5)


def test_terms_are_averaged_over_teachers(conv, vit):
    one, other, both = (learn(teachers, TermConfig("rkd"))[1][0]["rkd"] for teachers in ([conv], [vit], [conv, vit]))
    assert both == pytest.approx((one + other) / 2, rel=1e-5)


def test_the_same_objective_twice_is_logged_twice(conv):
    _, (found,) = learn([conv], TermConfig("rkd"), TermConfig("rkd", student="blocks.0"))
    assert {"rkd", "rkd_2"} <= set(found)


def test_projections_learn_and_the_network_keeps_no_trace(conv):
    model = network("pocket_xs")
    names = set(model.state_dict())
    stepper, _ = learn([conv], TermConfig("fitnets"), student=model)
    first = {name: value.clone() for name, value in stepper.terms.state_dict().items()}
    one = batch()
    look = LiveFeatures([conv], [stepper.terms.teacher_layers(0)])
    one.soft, one.features = look(one)
    stepper.take([one])
    assert any(not torch.equal(first[name], value) for name, value in stepper.terms.state_dict().items())
    stepper.close()
    assert set(model.state_dict()) == names
    assert not any(module._forward_hooks for module in model.modules())


def test_what_a_stepper_saves_of_terms_is_what_it_restores(conv):
    stepper, _ = learn([conv], TermConfig("vitkd"), steps=2)
    saved = {name: value.clone() for name, value in stepper.tensors().items()}
    other, _ = learn([conv], TermConfig("vitkd"), steps=1)
    other.restore(saved, stepper.state())
    assert all(torch.equal(value, other.tensors()[name]) for name, value in saved.items())


def test_named_layers_are_paired_in_order(conv):
    term = TermConfig("fitnets", student="blocks.1, blocks.3", teacher="layer2,layer3")
    stepper, _ = learn([conv], term)
    assert stepper.terms.terms[0].pairs == [("blocks.1", "layer2"), ("blocks.3", "layer3")]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("convnext_atto", {}),  # a norm between pooling and the head
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)}),
        ("vit_tiny_patch16_224", {"img_size": 64, "embed_dim": 24, "depth": 1, "num_heads": 2}),
        ("vit_tiny_patch16_224", {"img_size": 64, "embed_dim": 24, "depth": 1, "num_heads": 2, "global_pool": "avg"}),
        ("deit_tiny_distilled_patch16_224", {"img_size": 64, "embed_dim": 24, "depth": 1, "num_heads": 2}),
    ],
)
def test_cskd_asks_a_networks_own_head_about_each_place(name, options):
    """A map that is the same everywhere says of each place what the network says of the whole."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES, **options).eval()
    layers = list_layers(model, 64)
    features = torch.randn(2, layers.channels(layers.last()), 1, 1)
    same = features.expand(-1, -1, 2, 2)
    tokens = len(layers.shapes[layers.last()]) == 2
    native = same.flatten(2).transpose(1, 2) if tokens else same
    if tokens:
        native = torch.cat([native[:, :1].expand(-1, layers.prefix, -1), native], 1)
    elif getattr(model, "output_fmt", "NCHW") == "NHWC":
        native = same.permute(0, 2, 3, 1)
    whole = model.head(native[:, 0]) if "distilled" in name else model.forward_head(native)
    places = answer_places(layers, layers.last(), same)
    assert places.shape == (2, CLASSES, 4)
    assert torch.allclose(places, whole[:, :, None].expand(-1, -1, 4), atol=1e-5)


def test_cskd_ends_at_the_teachers_own_logits(conv):
    """Not at its classifier on a mean: the labels of the batch are the target when the training is over."""
    student = network("pocket_xs")
    loss = LossConfig(objective="kl", temperature=1.0, terms=(TermConfig("cskd"),))
    parts = FeatureTerms(loss, student, SIDE, [conv])
    one = batch()
    _, one.features = LiveFeatures([conv], [parts.teacher_layers(0)])(one)
    one.progress = 1.0
    answers = torch.randn(len(one), CLASSES)
    one.soft = (FullLabels(answers),)
    said = answers[:, :, None].expand(-1, -1, 16)  # of each place what the labels say of the whole
    assert parts.compare([[said]], (), one)[0].item() == pytest.approx(0, abs=1e-6)
    one.soft = (encode_topk(torch.randn(len(one), 9), 4),)
    with pytest.raises(PocketError, match="cskd needs the logits of all"):
        parts.compare([[said]], (), one)


def test_terms_say_what_they_look_at_before_any_network_is_there():
    def of(*names):
        return term_needs(LossConfig(terms=tuple(map(TermConfig, names))))

    assert of() == set()
    assert of("fitnets", "crd", "pkt") == {"features"}
    assert of("cskd") == {"features", "full"}
    assert of("mean_teacher", "rkd") == {"average", "features"}
    with pytest.raises(PocketError, match="rkd"):
        of("rdk")


def test_cskd_follows_the_class_map_of_a_teacher(conv):
    """A teacher whose outputs stand in another order teaches the same once they are mapped."""
    import copy

    import numpy as np

    order = np.array([2, 0, 1])
    shuffled = copy.deepcopy(conv.module)
    with torch.no_grad():
        for parameter in (shuffled.linear.weight, shuffled.linear.bias):
            parameter.copy_(parameter[torch.from_numpy(order)])
    mapped = load_teacher(shuffled, input_size=SIDE, norm="half").with_columns(np.argsort(order))
    found = [learn([one], TermConfig("cskd"))[1][0]["cskd"] for one in (conv, mapped)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (TermConfig("fitnet"), r"no objective 'fitnet'.*fitnets"),
        (TermConfig("minilm"), r"minilm.*CifarResNet.*no attention layer"),
        (TermConfig("fitnets", student="blocks.9"), r"no layer 'blocks.9'"),
        (TermConfig("fitnets", student="blocks.0,blocks.1"), r"2 layers of the student and 1 of the teacher"),
        (TermConfig("cskd", student="blocks.0,norm", teacher="layer1,layer3"), r"cskd compares one pair.*2 are named"),
        (TermConfig("cskd", teacher="layer1"), r"cskd.*CifarResNet has none for 'layer1'"),
    ],
)
def test_what_cannot_be_matched_is_told(conv, term, message):
    with pytest.raises(PocketError, match=message):
        learn([conv], term)


def test_patches_that_differ_in_number_are_told():
    small = load_teacher(network("pocket_s"), input_size=SIDE, norm="half")
    student = create_student("pocket_xs", num_classes=CLASSES, image_size=SIDE, patch_size=8)
    with pytest.raises(PocketError, match=r"student has 4, the teacher 16"):
        learn([small], TermConfig("minilm"), student=student)


def test_features_need_a_teacher():
    with pytest.raises(PocketError, match="there is no teacher"):
        learn([], TermConfig("rkd"))


def test_the_mean_teacher_needs_an_average(conv):
    with pytest.raises(PocketError, match="--ema"):
        learn([conv], TermConfig("mean_teacher"))
    _, found = learn([conv], TermConfig("mean_teacher"), steps=3, ema=0.9)
    assert found[0]["mean_teacher"] == pytest.approx(0, abs=1e-6)
    assert found[-1]["mean_teacher"] > 0


def test_any_module_can_be_a_teacher_of_features():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1))
            self.head = nn.Linear(6, CLASSES)

        def forward(self, x):
            return self.head(self.body(x).mean((2, 3)))

    own = load_teacher(Own(), input_size=SIDE, norm="half")
    stepper, _ = learn([own], TermConfig("fitnets"))
    assert stepper.terms.terms[0].pairs == [("blocks.3", "body")]
