"""What a teacher says of views: its own preprocessing, its fingerprint, and its classes as ours."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from pocketvit.errors import PocketError
from pocketvit.models import create_model, save_model
from pocketvit.teachers import align, load_teacher, match_classes, new_head
from pocketvit.views.preprocessing import Preprocessing
from pocketvit.views.resize import to_input

PIXELS = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


class Pixels(nn.Module):
    """Logits that are the mean of each channel of what it is fed."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        return x.mean((2, 3))


def teacher_of(module=None, **options):
    return load_teacher(module or Pixels(), **{"input_size": 16, "norm": "none", **options})


def test_each_teacher_resizes_and_normalizes_its_own_way():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    teacher = teacher_of(input_size=24, norm=(mean, std))
    torch.testing.assert_close(teacher.logits(PIXELS), to_input(PIXELS, 24, mean, std).mean((2, 3)))
    expected = (PIXELS.float().mean((2, 3)) / 255 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(teacher_of(norm=(mean, std)).logits(PIXELS), expected)


def test_precision_changes_the_sums_but_not_the_type():
    module = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    exact, rough = teacher_of(module).logits(PIXELS), teacher_of(module, precision="bf16").logits(PIXELS)
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, atol=0.02, rtol=0.02)


def test_fingerprint_tells_weights_buffers_preprocessing_precision_and_class_map():
    def made(edit=None, **options):
        torch.manual_seed(0)
        model = create_model("cifar_resnet20", num_classes=4)
        if edit:
            edit(model)
        return teacher_of(model, **options)

    def weight(model):
        model.conv1.weight.data[0, 0, 0, 0] += 1e-3

    def buffer(model):
        model.bn1.running_mean[0] += 1e-3

    others = [
        made(weight),
        made(buffer),
        made(norm="half"),
        made(input_size=32),
        made(precision="bf16"),
        made().with_columns(np.array([1, 0, 2, 3])),
    ]
    prints = [str(teacher.fingerprint) for teacher in (made(), *others)]
    assert len(set(prints)) == len(prints)
    assert prints[0] == str(made().fingerprint)


def test_a_buffer_that_changes_is_noticed():
    class Counts(Pixels):
        def forward(self, x):
            self.seen += 1
            return super().forward(x)

    teacher = teacher_of(Counts())
    teacher.check_unchanged()
    teacher.logits(PIXELS)
    with pytest.raises(PocketError, match="its buffers are not what they were"):
        teacher.check_unchanged()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_stop(value):
    teacher = teacher_of(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)))
    teacher.module[1].bias[2] = value
    with pytest.raises(PocketError, match="not finite"):
        teacher.logits(PIXELS)


def test_logits_are_usable_in_a_loss():
    student = torch.zeros(2, 3, requires_grad=True)
    (student * teacher_of().logits(PIXELS)).sum().backward()
    assert student.grad.abs().sum() > 0


def test_features_are_what_the_head_sees():
    teacher = teacher_of(create_model("cifar_resnet20", num_classes=4))
    features = teacher.features(PIXELS)
    assert features.shape == (2, 64)
    torch.testing.assert_close(teacher.module.linear(features), teacher.logits(PIXELS))
    with pytest.raises(PocketError, match="forward_features"):
        teacher_of().features(PIXELS)


def test_a_network_without_classes_has_features_only():
    """Scenario 4: a DINO-like teacher says that it has to be fine-tuned."""
    teacher = teacher_of(timm.create_model("resnet10t", num_classes=0), input_size=32)
    assert (teacher.num_outputs, teacher.classes) == (0, None)
    assert teacher.features(PIXELS).shape == (2, 512)
    assert align(teacher, ["a", "b"]) is None
    with pytest.raises(PocketError, match=r"no classes.*Fine-tune"):
        teacher.logits(PIXELS)


@pytest.mark.parametrize(
    ("teacher", "ours", "columns"),
    [
        (["cat", "dog", "eel"], ["eel", "cat"], [2, 0]),
        (["Sea Lion", "T-Shirt"], ["t_shirt", "sea-lion"], [1, 0]),
        (["tench, Tinca tinca", "great grey owl, Strix nebulosa"], ["strix nebulosa", "tench"], [1, 0]),
        (["n01440764-tench", "Crème"], ["creme", "Tench"], [1, 0]),
        (["cat", "dog"], ["cat", "cow"], None),
        (["crane, bird", "crane, machine"], ["crane"], None),
        (["cat, feline", "dog"], ["cat", "feline"], None),
        (["+", "-"], ["-"], None),
        (["crane", "+", "crane"], ["crane", "+", "crane"], [0, 1, 2]),
        (["crane", "+", "crane"], ["+", "crane", "crane"], None),
    ],
)
def test_classes_match_by_normalized_name_when_unambiguous(teacher, ours, columns):
    found = match_classes(teacher, ours)
    assert (None if found is None else found.tolist()) == columns


def test_class_map_picks_columns():
    teacher = teacher_of(classes=("red", "green", "blue"))
    mapped = align(teacher, ["Blue", "Red"])
    assert mapped.num_outputs == 2
    assert torch.equal(mapped.logits(PIXELS), teacher.logits(PIXELS)[:, [2, 0]])
    assert "2 of its 3 classes" in mapped.notes[-1]
    assert align(teacher, ["red", "green", "blue"]).columns is None
    assert align(teacher, ["red", "pink"]) is None


def test_nameless_classes_are_taken_in_order_and_said_so():
    aligned = align(teacher_of(), ["a", "b", "c"])
    assert aligned.columns is None
    assert "assumed to be the images' classes in order" in aligned.notes[-1]
    assert align(teacher_of(), ["a", "b"]) is None
    assert align(teacher_of(), []) is None


@pytest.mark.parametrize(
    "module",
    [
        lambda: create_model("cifar_rednet11", num_classes=4),
        lambda: timm.create_model("resnet10t", num_classes=0),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 4)),
    ],
)
def test_a_new_head_is_all_that_changes(module):
    teacher = teacher_of(module())
    before = teacher.fingerprint
    network = new_head(teacher, 6).train()
    old = teacher.module.state_dict()
    names = [name for name, weight in network.named_parameters() if not torch.equal(weight, old.get(name, weight + 1))]
    assert {len(network.get_parameter(name)) for name in names} == {6}
    assert len(names) == 2
    loss = F.cross_entropy(network(torch.rand(2, 3, 16, 16)), torch.tensor([0, 5]))
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert teacher.fingerprint == before
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())


def test_a_fine_tuned_teacher_is_saved_and_loaded_as_any_model(tmp_path):
    unscaled = Preprocessing.plain((16, (0, 0, 0), (1, 1, 1)))
    for model in (create_model("cifar_rednet11", num_classes=4), timm.create_model("resnet10t", num_classes=0)):
        network = new_head(teacher_of(model), 6).eval()
        save_model(network, tmp_path, classes=tuple("abcdef"), preprocessing=unscaled)
        again = load_teacher(tmp_path)
        assert again.classes == tuple("abcdef")
        with torch.no_grad():
            torch.testing.assert_close(again.logits(PIXELS), network(PIXELS / 255))


def test_a_module_without_a_linear_head_gets_none():
    with pytest.raises(PocketError, match="reset_classifier"):
        new_head(teacher_of(), 6)
