"""Image classifiers that transformers saved are teachers, fed as their image processors say."""

from __future__ import annotations

import json

import pytest
import torch

from pocketvit.errors import PocketError
from pocketvit.teachers import align, load_teacher

transformers = pytest.importorskip("transformers")
PIXELS = torch.randint(0, 256, (2, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def folder(tmp_path):
    """A small ViT of three classes in a folder of transformers, and the network."""
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        id2label={0: "tench, Tinca tinca", 1: "b", 2: "c"},
    )  # fmt: skip
    torch.manual_seed(0)
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(tmp_path)
    said = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    return tmp_path, network


@pytest.mark.parametrize("spec", ["{}", "local-dir:{}"])
def test_a_saved_classifier_answers_as_transformers_has_it(folder, spec):
    path, network = folder
    teacher = load_teacher(spec.format(path))
    assert (teacher.name, teacher.classes) == (path.name, ("tench, Tinca tinca", "b", "c"))
    assert (teacher.input_size, teacher.mean, teacher.std) == (32, (0.5,) * 3, (0.25,) * 3)
    with torch.no_grad():
        assert torch.allclose(teacher.logits(PIXELS), network(teacher._input(PIXELS)).logits, atol=1e-6)
    assert not teacher.notes


def test_folders_named_by_wordnet_ids_are_matched(folder):
    assert align(load_teacher(folder[0]), ("n01440764", "c")).columns.tolist() == [0, 2]


def test_what_the_processor_does_not_say_is_said_to_be_assumed(folder):
    path, _ = folder
    (path / "preprocessor_config.json").unlink()
    teacher = load_teacher(path)
    assert (teacher.input_size, teacher.std) == (32, (0.229, 0.224, 0.225))
    assert any("normalization not known" in note for note in teacher.notes)


def test_a_damaged_folder_is_one_sentence(folder):
    path, _ = folder
    (path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(PocketError, match="cannot be loaded by transformers"):
        load_teacher(path)
