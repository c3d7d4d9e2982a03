"""Model folders: the same logits again, in timm without pocketvit too, and never any code from a file."""

import argparse
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from torch import nn

from pocketvit.errors import PocketError
from pocketvit.models import create_model, create_student, load_model, save_model
from pocketvit.models.checkpoint import load_weights, read_weights
from pocketvit.models.saving import activation_of
from pocketvit.tasks import task_named
from pocketvit.teachers import load_teacher
from pocketvit.views.preprocessing import Preprocessing

CLASSES = ("cat", "dog", "eel")
ABOUT = Preprocessing(20, 16, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "bicubic", 3, "pad", (0.0, 4095.0), 32)


def saved(folder, tokens=0):
    torch.manual_seed(0)
    model = create_student("pocket_xs", num_classes=3, image_size=16, tokens=tokens, drop_path=0.1).eval()
    save_model(model, folder, classes=CLASSES, preprocessing=ABOUT)
    return model


@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_loaded_model_is_the_saved_one(tmp_path, tokens):
    model, loaded = saved(tmp_path, tokens), load_model(tmp_path)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded.module(x), model(x))
    assert (loaded.classes, loaded.preprocessing, loaded.task) == (CLASSES, ABOUT, "classification")
    assert not loaded.module.training
    assert loaded.config["pocketvit"]["needs_pocketvit"] is (tokens > 1)


def test_the_task_is_kept_and_what_makes_probabilities_of_its_outputs(tmp_path):
    model = create_student("pocket_xs", num_classes=3, image_size=16)
    save_model(model, tmp_path, classes=CLASSES, task=task_named("multilabel"))
    loaded = load_model(tmp_path)
    assert (loaded.task, activation_of(loaded.module)) == ("multilabel", "sigmoid")
    assert loaded.preprocessing == Preprocessing.plain((16, (0.5,) * 3, (0.5,) * 3))


def test_another_input_size_has_views_of_that_size(tmp_path):
    saved(tmp_path)
    found = load_model(tmp_path, input_size=24).preprocessing
    assert (found.view_size, found.input_size, found.aspect) == (24, 24, "pad")


def test_a_run_folder_and_a_weights_file_lead_to_the_model(tmp_path):
    saved(tmp_path / "student")
    assert load_model(tmp_path).classes == CLASSES
    assert load_model(tmp_path / "student" / "model.safetensors").classes == CLASSES


def test_timm_loads_students_where_pocketvit_cannot_be_imported(tmp_path):
    """Scenario 14: the same logits to 1e-5, with the class names and the preprocessing."""
    x = torch.randn(2, 3, 16, 16)
    for tokens in (0, 1):
        model = saved(tmp_path / str(tokens), tokens)
        np.savez(tmp_path / f"{tokens}.npz", x=x.numpy(), y=model(x).detach().numpy())
    code = f"""
import sys
sys.modules["pocketvit"] = None  # importing it fails
import numpy as np, timm, torch
for tokens in "01":
    folder = {str(tmp_path)!r} + "/" + tokens
    model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
    known = np.load(folder + ".npz")
    assert np.abs(model(torch.from_numpy(known["x"])).detach().numpy() - known["y"]).max() < 1e-5
    data = timm.data.resolve_data_config({{}}, model=model)
    assert tuple(data["mean"]) == (0.1, 0.2, 0.3) and tuple(data["input_size"]) == (3, 16, 16), data
    assert list(model.pretrained_cfg["label_names"]) == ["cat", "dog", "eel"]
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("name", ["cifar_rednet11", "cifar_resnet20"])
def test_our_own_architectures_load_through_timm_too(tmp_path, name):
    model = create_model(name, num_classes=3, norm="group").eval()
    save_model(model, tmp_path, classes=CLASSES)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(again(x), model(x))


def test_a_model_that_timm_made_is_saved_if_timm_can_make_it_again(tmp_path):
    model = timm.create_model("resnet10t", num_classes=3).eval()
    save_model(model, tmp_path, classes=CLASSES)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(load_model(tmp_path).module(x), model(x))
    model.layer4 = nn.Identity()
    with pytest.raises(PocketError, match="differs"):
        save_model(model, tmp_path)
    with pytest.raises(PocketError, match="not a timm model"):
        save_model(nn.Linear(2, 2), tmp_path)


def test_names_of_another_number_of_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 class names"):
        save_model(create_student("pocket_xs", num_classes=3, image_size=16), tmp_path, classes=("a", "b"))


WHOLE = {"architecture": "convnext_xxlarge", "model_args": {}, "layer": "stem", "mean": [0.5] * 3, "std": [0.5] * 3}
HUGE = {"architecture": "pocketvit_vit", "model_args": {"img_size": 32, "stem": "teacher", "stem_args": WHOLE}}


def test_broken_folders_are_explained(tmp_path):
    with pytest.raises(PocketError, match="no model at"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(PocketError, match="is no model"):
        load_model(tmp_path)
    saved(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    data, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(data[:1000])
    with pytest.raises(PocketError, match="not a whole safetensors file"):
        load_model(tmp_path)
    weights.write_bytes(data)
    for change, says in [
        ({"architecture": "no_such_net"}, "names no architecture"),
        ({"num_classes": 4, "model_args": {**json.loads(text)["model_args"], "num_classes": 4}}, "says 4 classes"),
        ({"architecture": "resnet18", "model_args": {}}, "are not those of resnet18"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "asks timm for checkpoint_path"),
        ({"model_args": {"stem_args": {"model_args": {"checkpoint_path": "x"}}}}, "asks timm for checkpoint_path"),
        ({"model_args": {"stem_args": {"model_args": {"width": 10**9}}}}, "too large for the weights .* .width of it"),
        (HUGE, r"too large for the weights beside it .[\d,]+ numbers"),
        ({"model_args": {"embed_dim": 10_000_000}}, "too large for the weights beside it .embed_dim of it"),
        ({"model_args": {"depth": 10_000}}, "too large for the weights beside it .depth of it"),
        ({"model_args": {"embed_dim": 12_000}}, r"too large for the weights beside it .[\d,]+ numbers"),
        ({"model_args": [1]}, "its model_args is no set of named values"),
        ({"pretrained_cfg": "imagenet"}, "its pretrained_cfg is no set of named values"),
        ({"label_names": 5}, "its label_names are no list"),
        ({"label_names": ["a"]}, "names 1 of 3 classes"),
        ({"pocketvit": {}, "pretrained_cfg": {"std": "x"}}, "what pictures it is fed cannot be read"),
        ({"pocketvit": {}, "pretrained_cfg": {"input_size": {"a": 1}}}, "what pictures it is fed cannot be read"),
        ({"pocketvit": {"preprocessing": {"view_size": 16}}}, "preprocessing cannot be read"),
        ({"pocketvit": {"preprocessing": {**ABOUT.to_dict(), "std": [1, 0, 1]}}}, "std above 0"),
        ({"pocketvit": {"preprocessing": {**ABOUT.to_dict(), "gamma": 2}}}, "gamma, which this version does not know"),
    ]:
        config.write_text(json.dumps({**json.loads(text), **change}))
        with pytest.raises(PocketError, match=says):
            load_model(tmp_path)
    config.write_text("{")
    with pytest.raises(PocketError, match="could not read"):
        load_model(tmp_path)


class Boom:
    """Unpickling this would run code."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code ran')",)


def test_a_damaged_archive_of_weights_is_one_message(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.zeros(3)}, path)
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")  # the magic number of an archive's list of files
    disks = whole.rindex(b"PK\x06\x07") + 16  # how many, of an archive on several: zipfile raises when it is asked
    for place in (directory, disks):
        path.write_bytes(whole[:place] + b"XX" + whole[place + 2 :])
        with pytest.raises(PocketError, match=r"not a whole file of torch\.save"):
            read_weights(path)


def test_code_in_a_file_never_runs(tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Boom()}, tmp_path / "evil.pth")
    with pytest.raises(PocketError, match="would run code"):
        read_weights(tmp_path / "evil.pth")


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"epoch": 3, "model": m}, nn.DataParallel])
def test_the_pasted_conversion_of_a_pickled_module_works(tmp_path, wrap, old_format):
    """Scenario 8: the three lines out of the message, run as they stand, give a file that loads."""
    model = create_model("cifar_resnet20", num_classes=3)
    path = tmp_path / "teacher.pth"
    torch.save(wrap(model), path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(PocketError) as caught:
        read_weights(path)
    block = str(caught.value).split("\n\n")[1]
    assert len(block.splitlines()) == 3
    exec(block, {})
    state = read_weights(re.search(r"and give (\S+) with", str(caught.value)).group(1))
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_a_torchscript_file_is_converted_too(tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(PocketError, match="TorchScript") as caught:
        read_weights(path)
    exec(str(caught.value).split("\n\n")[1], {})
    assert set(read_weights(tmp_path / "script-weights.pth")) == {"weight", "bias"}


def test_a_torchscript_file_without_its_architecture_is_a_teacher_by_its_three_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 4, 4)), "my-net.pt")
    with pytest.raises(PocketError) as caught:
        load_teacher("my-net.pt")
    name, function = re.search(r"into (\S+)\.py and give --teacher \1:(\w+):", str(caught.value)).groups()
    (tmp_path / f"{name}.py").write_text(str(caught.value).split("\n\n")[-1])
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    teacher = load_teacher(f"{name}:{function}", input_size=4, norm="none")
    torch.testing.assert_close(teacher.logits(pixels), network(pixels / 255))


def test_wrappers_and_prefixes_are_taken_off(tmp_path):
    state = {"a.weight": torch.ones(2), "a.bias": torch.zeros(1)}
    prefixed = {f"module.{key}": value for key, value in state.items()}
    beside = {"epoch": 3, "best": np.float64(0.5), "args": argparse.Namespace(lr=0.1)}
    for number, value in enumerate(
        [state, prefixed, {"state_dict": prefixed, **beside}, {"model": state, "optimizer": {"lr": 1}, **beside}]
    ):
        torch.save(value, tmp_path / f"{number}.pth")
        assert set(read_weights(tmp_path / f"{number}.pth")) == set(state)
    torch.save({"model": {"a": torch.zeros(1)}, "model_ema": {"a": torch.ones(1)}}, tmp_path / "ema.pth")
    assert read_weights(tmp_path / "ema.pth")["a"] == 1


def test_averaged_weights_are_read_where_there_are_some(tmp_path):
    model = create_model("cifar_resnet20", num_classes=3)
    average = torch.optim.swa_utils.AveragedModel(create_model("cifar_resnet20", num_classes=3)).state_dict()
    plain = model.state_dict()
    for name, saved, expected in (
        ("torchvision", {"model": plain, "model_ema": average}, average["module.linear.weight"]),
        ("bare", average, average["module.linear.weight"]),
        ("empty", {"state_dict": plain, "ema": {}}, plain["linear.weight"]),
        ("counters", {"state_dict": plain, "ema": {"decay": 0.9, "updates": torch.tensor(3)}}, plain["linear.weight"]),
    ):
        torch.save(saved, tmp_path / f"{name}.pth")
        assert torch.equal(read_weights(tmp_path / f"{name}.pth")["linear.weight"], expected), name


def test_networks_in_networks_are_loaded(tmp_path, caplog):
    inner = nn.ModuleDict({"model": nn.ModuleDict({"model": nn.Linear(2, 2)})})
    torch.save(inner.state_dict(), tmp_path / "inner.pth")
    load_weights(inner, read_weights(tmp_path / "inner.pth"), "inner.pth", "inner")
    model = create_model("cifar_resnet20", num_classes=3)  # Lightning: what is trained beside it lies beside it
    state = {f"model.{name}": value for name, value in model.state_dict().items()} | {"loss.weight": torch.ones(3)}
    torch.save({"state_dict": state}, tmp_path / "lightning.ckpt")
    with caplog.at_level("WARNING", logger="pocketvit"):
        teacher = load_teacher(tmp_path / "lightning.ckpt", arch="cifar_resnet20", input_size=32, norm="half")
    assert torch.equal(teacher.module.linear.weight, model.linear.weight)
    assert "the part model.* is read, and not loss.weight" in caplog.text


def test_integers_are_no_weights():
    model = create_model("cifar_resnet20", num_classes=3)
    state = {name: value.to(torch.int8) for name, value in model.state_dict().items()}
    with pytest.raises(PocketError, match=r"are integers .* int8.* before quantization"):
        load_weights(model, state, "x.pth", "cifar_resnet20")


def test_files_without_weights_are_explained(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "empty.pth").read_bytes()[:300])
    (tmp_path / "nothing.pth").write_bytes(b"")
    for name, says in [
        ("empty.pth", "keys epoch"),
        ("cut.pth", "not a whole file"),
        ("nothing.pth", "not a whole file"),
        ("missing.pth", "no weights file"),
    ]:
        with pytest.raises(PocketError, match=says):
            read_weights(tmp_path / name)


def test_weights_of_another_network_name_the_difference_and_what_fits():
    state = create_model("cifar_resnet32", num_classes=7).state_dict()
    with pytest.raises(PocketError, match=r"no layer1\.3.*and \d+ more.*--arch cifar_resnet32"):
        load_weights(create_model("cifar_resnet20", num_classes=7), state, "x.pth", "cifar_resnet20")
    with pytest.raises(PocketError, match=r"linear\.weight is 7x64 in the file and 10x64"):
        load_weights(create_model("cifar_resnet32", num_classes=10), state, "x.pth", "cifar_resnet32")


@pytest.mark.parametrize(("change", "says"), [(torch.Tensor.to_sparse, "sparse"), (lambda one: one.to("meta"), "meta")])
def test_weights_without_their_numbers_are_refused_by_name(change, says):
    model = create_model("cifar_resnet20", num_classes=7)
    state = model.state_dict()
    state["linear.weight"] = change(state["linear.weight"])
    with pytest.raises(PocketError, match=rf"linear\.weight is .*{says}"):
        load_weights(model, state, "x.pth", "cifar_resnet20")


def test_timm_saves_for_the_hub_what_it_loaded_from_a_student_folder(tmp_path):
    """A stem of ours is made by a function, which no config.json can hold: the recipe has its name."""
    student = create_student("pocket_xxs", num_classes=3, image_size=24).eval()
    save_model(student, tmp_path / "student")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True).eval()
    timm.models.save_for_hf(loaded, tmp_path / "hub", safe_serialization=True)
    save_model(loaded, tmp_path / "ours")
    x = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    for folder in ("hub", "ours"):
        again = timm.create_model(f"local-dir:{tmp_path / folder}", pretrained=True).eval()
        torch.testing.assert_close(again(x), student(x))
