"""RedNet against its published sizes, and the names of its published checkpoints."""

import re

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from pocketvit.models import create_model
from pocketvit.models.checkpoint import read_weights
from pocketvit.models.flops import count_flops
from pocketvit.models.involution import Involution
from pocketvit.teachers import load_teacher

PUBLISHED = [
    ("rednet26", 9.23, 1.73),
    ("rednet38", 12.39, 2.22),
    ("rednet50", 15.54, 2.71),
    ("rednet101", 25.65, 4.74),
]
# Prefixes of ours and of the published checkpoints (MMClassification's names), longer ones first.
NAMES = {
    r"stem\.0\.": "backbone.stem.0.conv.",
    r"stem\.1\.": "backbone.stem.0.bn.",
    r"stem\.3\.reduce\.": "backbone.stem.1.conv1.conv.",
    r"stem\.3\.norm\.": "backbone.stem.1.conv1.bn.",
    r"stem\.3\.span\.": "backbone.stem.1.conv2.",
    r"stem\.4\.": "backbone.stem.2.",
    r"stem\.6\.": "backbone.stem.4.conv.",
    r"stem\.7\.": "backbone.stem.4.bn.",
    r"stages\.0\.": "backbone.layer1.",
    r"stages\.1\.": "backbone.layer2.",
    r"stages\.2\.": "backbone.layer3.",
    r"stages\.3\.": "backbone.layer4.",
    r"fc\.": "head.fc.",
}
WITHIN = {
    ".involution.reduce.": ".conv2.conv1.conv.",
    ".involution.norm.": ".conv2.conv1.bn.",
    ".involution.span.": ".conv2.conv2.",
    ".norm": ".bn",
    ".shortcut.": ".downsample.",
}


def published_layout(model):
    state = {}
    for key, value in model.state_dict().items():
        mine = next(prefix for prefix in NAMES if re.match(prefix, key))
        name = NAMES[mine] + re.sub(mine, "", key, count=1)
        if key.startswith("stages"):
            for ours, theirs in WITHIN.items():
                name = name.replace(ours, theirs)
        state[name] = value
    return state


def shuffled(name, **options):
    """A network with every weight and buffer at random: a swapped pair would show."""
    torch.manual_seed(3)
    model = timm.create_model(name, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
        for name, buffer in model.named_buffers():
            if not name.endswith("num_batches_tracked"):
                buffer.add_(torch.rand_like(buffer), alpha=0.2)
    return model.eval()


def elementwise(model, size):
    """What the authors' counter (mmcv's) adds for one image: 2 a normalized value, 1 a ReLU, bias or pooled input.

    Besides, the 3x3 involution of the stem goes in as 49 C H W like the others. No source says so; it is the reading
    that gives all four published figures.
    """
    total = 0

    def add(module, inputs, output):
        nonlocal total
        if isinstance(module, nn.BatchNorm2d):
            total += (2 if module in projections else 3) * output.numel()  # a ReLU follows all but the shortcuts'
        elif isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
            total += inputs[0].numel()
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            total += output.numel()
        elif isinstance(module, Involution):
            total += (49 - module.kernel_size**2) * output.numel()

    projections = {m for name, m in model.named_modules() if name.endswith("shortcut.1")}
    for module in model.modules():
        module.register_forward_hook(add)
    model.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return total


@pytest.mark.parametrize(("name", "millions", "giga"), PUBLISHED)
def test_has_the_published_parameters_and_multiply_adds(name, millions, giga):
    """At 224 px. Without elementwise operations it is 1.69, 2.17, 2.65 and 4.66 G."""
    with torch.device("meta"):
        model = timm.create_model(name)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    products = count_flops(model, 224) // 2
    assert round((products + elementwise(model, 224)) / 1e9, 2) == giga
    assert 0.97 < products / 1e9 / giga < 0.99


@pytest.fixture
def checkpoint(tmp_path):
    """A network, and a file of its weights as the authors saved theirs."""
    model = shuffled("rednet26", num_classes=7)
    state = published_layout(model)
    assert {
        "backbone.stem.1.conv1.bn.running_var",
        "backbone.layer1.0.bn1.weight",
        "backbone.layer1.0.conv2.conv1.conv.weight",
        "backbone.layer4.0.conv2.conv2.bias",
        "backbone.layer2.0.downsample.0.weight",
        "head.fc.weight",
    } < state.keys()
    path = tmp_path / "RedNet26.pth"
    torch.save({"meta": {"epoch": 130}, "state_dict": state}, path)
    return model, path


def test_published_layout_loads_through_timm(checkpoint):
    model, path = checkpoint
    overlay = {"file": str(path), "num_classes": 7}
    loaded = timm.create_model("rednet26", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=7).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded(x), model(x))


def test_published_layout_loads_as_a_teacher_with_its_number_of_classes(checkpoint):
    model, path = checkpoint
    teacher = load_teacher(str(path), arch="rednet26", input_size=64)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(teacher.module(x), model(x))


def test_weights_of_another_network_keep_their_names(tmp_path):
    """Even where keys begin alike."""
    state = {"backbone.stem.0.conv.weight": torch.zeros(1), "head.fc.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "other.pth")
    assert read_weights(tmp_path / "other.pth").keys() == state.keys()


@pytest.mark.parametrize(("name", "size"), [("cifar_rednet11", 8), ("cifar_rednet20", 32), ("rednet26", 33)])
def test_learns_on_images_of_its_size(name, size):
    """Four steps lower the loss on the very batch they are made from."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=3)
    x, y = torch.randn(6, 3, size, size), torch.tensor([0, 1, 2] * 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
