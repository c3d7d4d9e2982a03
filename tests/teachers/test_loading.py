"""Teachers from everything a user has; each mistake gets one sentence that says what to do."""

import re
import sys
import textwrap

import pytest
import timm
import torch
import torchvision
from torch import nn

from pocketvit.errors import PocketError
from pocketvit.models import create_model, create_student, save_model
from pocketvit.models import hub as hub_module
from pocketvit.models.innermost import channels_innermost
from pocketvit.synthesis import Priors
from pocketvit.teachers import Teacher, load_teacher, loading
from pocketvit.teachers.teacher import hash_tensors
from pocketvit.views.preprocessing import Preprocessing

PIXELS = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)


class Own(nn.Module):
    """A user's network: with BatchNorm and dropout, half of it frozen, in training mode."""

    def __init__(self, classes=4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Dropout(0.5)).requires_grad_(False)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = create_model("cifar_resnet20", num_classes=7).eval()
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    return model, path


def test_users_module_is_left_as_it_was():
    """Scenario 5: bits, modes, requires_grad and device of the user's module are the same afterwards."""
    module = Own().train()
    module.stem[1].eval()
    before = hash_tensors(module)
    modes = [part.training for part in module.modules()]
    flags = [parameter.requires_grad for parameter in module.parameters()]
    teacher = load_teacher(module, input_size=16)
    first = teacher.logits(PIXELS)
    teacher.check_unchanged()
    assert hash_tensors(module) == before
    assert [part.training for part in module.modules()] == modes
    assert [parameter.requires_grad for parameter in module.parameters()] == flags
    assert torch.equal(teacher.logits(PIXELS), first)
    with torch.no_grad():
        module.head.bias += 1  # the user trains on; the teacher does not change
    assert torch.equal(teacher.logits(PIXELS), first)


def test_assumptions_about_a_bare_module_are_said():
    notes = " ".join(load_teacher(Own()).notes)
    assert "assumed 224 px" in notes
    assert "assumed ImageNet's mean and std" in notes
    assert load_teacher(Own(), input_size=16, norm="half").notes == ()


def test_a_module_that_cannot_be_copied_is_explained():
    module = Own()
    module.graph = module.head.weight * 2  # not a leaf, which copy.deepcopy refuses
    with pytest.raises(PocketError, match="MODULE:FUNCTION"):
        load_teacher(module)


def test_weights_file_with_its_architecture(checkpoint):
    model, path = checkpoint
    teacher = load_teacher(str(path), arch="cifar_resnet20", input_size=16, norm="none")
    torch.testing.assert_close(teacher.logits(PIXELS), model(PIXELS / 255))
    assert (teacher.name, teacher.num_outputs, teacher.classes) == ("mine", 7, None)
    notes = load_teacher(path, arch="cifar_resnet20").notes
    assert any("input size assumed 32 px" in note for note in notes)
    assert any("normalization assumed" in note for note in notes)


def test_class_names_can_be_given_and_must_be_as_many(checkpoint):
    names = tuple("abcdefg")
    assert load_teacher(checkpoint[1], arch="cifar_resnet20", classes=names).classes == names
    with pytest.raises(PocketError, match="7 outputs, but 2 class names"):
        load_teacher(checkpoint[1], arch="cifar_resnet20", classes=("a", "b"))


def test_run_folder_model_folder_and_local_dir(tmp_path):
    torch.manual_seed(0)
    model = create_student("pocket_xs", num_classes=2, image_size=16, tokens=2).eval()
    unscaled = Preprocessing.plain((16, (0, 0, 0), (1, 1, 1)))
    save_model(model, tmp_path / "run-1" / "student", classes=("cat", "dog"), preprocessing=unscaled)
    for spec in (tmp_path / "run-1", tmp_path / "run-1" / "student", f"local-dir:{tmp_path}/run-1/student"):
        teacher = load_teacher(spec)
        assert (teacher.classes, teacher.input_size) == (("cat", "dog"), 16)
        torch.testing.assert_close(teacher.logits(PIXELS), model(PIXELS / 255))
    assert load_teacher(tmp_path / "run-1" / "student").name == "run-1"


def test_function_of_a_module_file(tmp_path, monkeypatch):
    code = """
        from torch import nn
        def make():
            return nn.Sequential(nn.Flatten(), nn.LazyLinear(3) if False else nn.Linear(768, 3))
        def wrong():
            return 3
        def fails():
            raise KeyError("oops")
        def whole():
            from pocketvit.teachers import load_teacher
            return load_teacher(make(), input_size=16, norm="none")
        """
    (tmp_path / "my_teachers.py").write_text(textwrap.dedent(code))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    weights = {"1.weight": torch.ones(3, 768), "1.bias": torch.arange(3.0)}
    torch.save(weights, tmp_path / "w.pth")
    teacher = load_teacher("my_teachers:make", weights="w.pth", input_size=16, norm="none")
    torch.testing.assert_close(teacher.logits(PIXELS * 0), torch.arange(3.0).expand(2, 3))
    assert load_teacher("my_teachers:whole").notes == ()
    told = load_teacher("my_teachers:whole", weights="w.pth", input_size=8)
    assert "a whole teacher, so that --weights, --teacher-size is not used" in told.notes[-1]
    assert told.input_size == 16
    for spec, says in [
        ("my_teachers:none", "no function none"),
        ("my_teachers:wrong", "returned int"),
        ("my_teachers:fails", "KeyError: 'oops'"),
        ("no_such_module:make", "could not import no_such_module"),
    ]:
        with pytest.raises(PocketError, match=says):
            load_teacher(spec)


def test_timm_name_with_weights_of_ones_own(tmp_path):
    model = timm.create_model("resnet10t", num_classes=5)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    teacher = load_teacher("resnet10t", weights=tmp_path / "w.pth", input_size=32)
    assert teacher.num_outputs == 5
    assert hash_tensors(teacher.module) == hash_tensors(model)


def test_a_teacher_is_its_own_teacher():
    teacher = load_teacher(Own(), input_size=16)
    assert load_teacher(teacher) is teacher


def test_imagenet_class_names_come_with_the_weights():
    teacher = load_teacher(timm.create_model("test_resnet.r160_in1k"), input_size=32)
    assert len(teacher.classes) == 1000
    assert teacher.classes[0].startswith("tench")


def test_without_network_one_sentence_at_once(monkeypatch):
    monkeypatch.setattr(hub_module, "_answers", lambda: False)
    for spec in ("resnet50.a1_in1k", "hf-hub:timm/no-such-model-here"):
        with pytest.raises(PocketError, match=r"cannot be reached.*local-dir:FOLDER"):
            load_teacher(spec)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("resnett50", "Did you mean resnet50"),
        ("resnet50.a1_in1kk", r"Did you mean resnet50\.a1_in1k"),
        ("rednet50", "no published weights"),
        ("timm/resnet50", "hf-hub:timm/resnet50"),
        ("./no/such/folder", "no model at"),
    ],
)
def test_wrong_names_are_explained(spec, says):
    with pytest.raises(PocketError, match=says):
        load_teacher(spec)


def test_a_common_network_is_known_by_its_layers(checkpoint):
    """So that weights files of several architectures can be named together."""
    path = checkpoint[1]
    teacher = load_teacher(path, input_size=32)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = load_teacher(path, arch="cifar_resnet20", input_size=32)
    assert torch.equal(teacher.logits(pixels), expected.logits(pixels))
    assert "its layers are those of cifar_resnet20, which it is taken for (--arch)" in teacher.notes[0]
    assert any("normalization assumed" in note for note in teacher.notes)


def test_wrong_files_are_explained(checkpoint, tmp_path):
    path, other = checkpoint[1], tmp_path / "other.pth"
    torch.save({"weight": torch.ones(2, 2)}, other)
    for call, says in [
        (lambda: load_teacher(other), "not those of a common network.*--arch NAME"),
        (lambda: load_teacher(path, arch="cifar_resnet21"), r"Did you mean .*cifar_resnet20"),
        (lambda: load_teacher(path, arch="cifar_resnet32"), r"are not those of cifar_resnet32.*--arch cifar_resnet20"),
        (lambda: load_teacher(tmp_path / "mime.pth", arch="cifar_resnet20"), r"Did you mean \S*mine\.pth"),
        (lambda: load_teacher(tmp_path), "is no model"),
        (lambda: load_teacher(path, arch="cifar_resnet20", norm="imagent"), "unknown normalization"),
        (lambda: load_teacher(path, arch="cifar_resnet20", norm=((0, 0, 0), (1, 1, 0))), "std above 0"),
        (lambda: load_teacher(path, arch="cifar_resnet20", precision="int8"), "unknown precision"),
    ]:
        with pytest.raises(PocketError, match=says):
            call()


def test_a_network_that_cannot_take_the_picture_is_explained():
    with pytest.raises(PocketError, match=r"3 x 20 x 20.*--teacher-size"):
        load_teacher(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), input_size=20)
    with pytest.raises(PocketError, match=r"returns a tensor of shape \[2, 3, 8, 8\]"):
        load_teacher(nn.Identity(), input_size=8)
    with pytest.raises(PocketError, match="Linear is on the meta device"):
        load_teacher(nn.Linear(8, 8, device="meta"), input_size=8)


def test_teacher_is_frozen_and_in_evaluation_mode():
    teacher = load_teacher(Own().train(), input_size=16)
    assert isinstance(teacher, Teacher)
    assert not any(part.training for part in teacher.module.modules())
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())


class Shares(Own):
    def forward(self, x):
        return super().forward(x).softmax(1)


def test_probabilities_are_refused_when_a_teacher_is_loaded():
    with pytest.raises(PocketError, match=r"gives probabilities.*Remove the softmax"):
        load_teacher(Shares(), input_size=16, norm="half")


def test_class_names_of_transformers_are_the_teachers():
    class Config:
        id2label, num_labels = {3: "d", 0: "a", 2: "c", 1: "b"}, 4

    module = Own()
    module.config = Config()
    assert load_teacher(module, input_size=16, norm="half").classes == ("a", "b", "c", "d")
    Config.id2label = {number: f"LABEL_{number}" for number in range(4)}
    assert load_teacher(module, input_size=16, norm="half").classes is None


def test_a_network_of_half_precision_says_how_to_widen_it():
    with pytest.raises(PocketError, match=r"Call .float\(\) on it"):
        load_teacher(Own().double(), input_size=16, norm="half")


def test_a_module_that_breaks_while_it_is_imported_is_the_users(tmp_path, monkeypatch):
    (tmp_path / "broken_teacher.py").write_text("open('/nowhere/weights.pt')\n")
    (tmp_path / "whole_teacher.py").write_text(
        "from torch import nn\nfrom pocketvit.teachers import load_teacher\n"
        "def make():\n    return load_teacher(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), input_size=16)\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PocketError, match=r"could not import broken_teacher .FileNotFoundError"):
        load_teacher("broken_teacher:make")
    assert load_teacher("whole_teacher:make").num_outputs == 3


@pytest.mark.parametrize(
    ("answer", "detector"),
    [
        ({"logits": torch.zeros(2, 5, 3), "pred_boxes": torch.zeros(2, 5, 4)}, True),
        ([{"boxes": torch.zeros(1, 4), "scores": torch.ones(1)}] * 2, True),
        (torch.zeros(2, 5, 3), False),
    ],
)
def test_a_detector_of_ones_own_says_how_it_becomes_a_teacher(answer, detector):
    class Fixed(Own):
        def forward(self, x):
            return answer

    with pytest.raises(PocketError, match=r"must return logits \[images, classes\]") as told:
        load_teacher(Fixed(), input_size=16)
    assert ("detector_teacher(module, activation=...)" in str(told.value)) is detector


class Named(nn.Module):
    def __init__(self, *names):
        super().__init__()
        self.names = names

    def forward(self, x):
        return {name: x.mean((2, 3))[:, : len(name)] for name in self.names}


def test_logits_are_told_from_what_else_a_network_returns_by_name():
    assert load_teacher(Named("ab", "out"), input_size=16, norm="none").num_outputs == 3
    assert load_teacher(Named("ab"), input_size=16, norm="none").num_outputs == 2
    with pytest.raises(PocketError, match="Named: a teacher must return logits, but this one returns ab, abc by name"):
        load_teacher(Named("ab", "abc"), input_size=16, norm="none")


def test_a_network_that_answers_everything_alike_is_noted():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    assert not any("the same answer" in note for note in load_teacher(plain, input_size=16, norm="none").notes)
    nn.init.zeros_(plain[1].weight)
    assert "the same answer. Are its weights loaded?" in load_teacher(plain, input_size=16, norm="none").notes[-1]


class Tutorial(torch.nn.Module):
    """As the first tutorials write it: maps are flattened with view."""

    def __init__(self, classes=3, end=None):
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4 * 6 * 6, classes)
        self.end = end or torch.nn.Identity()

    def forward(self, x):
        out = self.head(self.conv(x).relu().view(x.shape[0], -1))
        return self.end(out)


def test_a_network_that_flattens_its_maps_with_view_is_a_teacher_and_can_be_trained():
    teacher = load_teacher(Tutorial(), input_size=8, norm="none")
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.isfinite(teacher.logits(pixels)).all()
    assert not teacher.module.conv.weight.is_contiguous(memory_format=torch.channels_last)
    network = Tutorial().train()
    assert channels_innermost(network, 8).training
    scripted = load_teacher(torch.jit.script(Tutorial()), input_size=8, norm="none")
    assert torch.isfinite(scripted.logits(pixels)).all()
    assert network.head.training
    plain = channels_innermost(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), 8)
    assert plain[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_several_labels_through_a_sigmoid_are_probabilities():
    torch.manual_seed(0)
    for end in (torch.sigmoid, lambda out: out.softmax(1)[:, None].squeeze(1)):
        with pytest.raises(PocketError, match="gives probabilities"):
            load_teacher(Tutorial(end=end), input_size=8, norm="none")
    load_teacher(Tutorial(end=lambda out: out.sigmoid() * 0.5 + 0.1), input_size=8, norm="none")  # whoever knows why


def test_scripted_networks_are_copied_without_a_graph(tmp_path):
    torch.manual_seed(0)
    traced = torch.jit.trace(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)), torch.zeros(1, 3, 8, 8))
    teacher = load_teacher(traced, input_size=8, norm="none")
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(teacher.logits(pixels), traced(pixels.float() / 255))
    with pytest.raises(PocketError, match=r"TorchScript, whose layers nobody can listen to.*--method drawn"):
        Priors(teacher)


def test_weights_of_torchvision_are_told_and_load(tmp_path):
    """Fine-tuned with torchvision, whose names of weights are not timm's."""
    path = tmp_path / "mine.pth"
    network = torchvision.models.mobilenet_v3_small(num_classes=3).eval()
    torch.save(network.state_dict(), path)
    with pytest.raises(PocketError, match=r"--teacher torchvision:mobilenet_v3_small --weights .*mine\.pth"):
        load_teacher(path, arch="mobilenetv3_small_100", input_size=32)
    found = load_teacher(path, input_size=32)
    assert "torchvision's mobilenet_v3_small, which it is taken for" in str(found.notes)
    assert found.num_outputs == 3
    teacher = load_teacher("torchvision:mobilenet_v3_small", weights=path, input_size=32)
    assert (teacher.name, teacher.num_outputs) == ("mobilenet_v3_small", 3)
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(teacher.module(x), network(x), atol=1e-5)
    with pytest.raises(PocketError, match="needs weights"):
        load_teacher("torchvision:mobilenet_v3_small")
    with pytest.raises(PocketError, match="Did you mean torchvision:mobilenet_v3_small"):
        load_teacher("torchvision:mobilenetv3_small", weights=path)


def test_a_network_of_the_hub_is_made_for_the_size_that_is_asked_for(tmp_path, monkeypatch):
    save_model(create_model("vit_tiny_patch16_224", num_classes=3, image_size=32), tmp_path)
    monkeypatch.setattr(loading, "_HUB", re.compile("hf-hub:.*"))
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, **given: create(name.replace("hf-hub:", "local-dir:"), **given)
    )
    teacher = load_teacher(f"hf-hub:{tmp_path}", input_size=64)
    assert teacher.input_size == 64
    assert teacher.module.pos_embed.shape[1] == 1 + 4 * 4


def test_a_function_may_be_named_by_its_file(tmp_path):
    file = tmp_path / "own_network.py"
    file.write_text("from torch import nn\nmake = lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 5))\n")
    assert load_teacher(f"{file}:make", input_size=4).num_outputs == 5
    with pytest.raises(PocketError, match=r"holds code: name the function or class.*own_network\.py:NAME"):
        load_teacher(file)
