"""Statistics cards: what they hold, whose they are, what is made with one, and that it is never called data-free."""

import dataclasses
import re

import numpy as np
import pytest
import synthesis_fakes
import timm
import torch
from safetensors.torch import save_file

from pocketvit.errors import PocketError
from pocketvit.models import create_student
from pocketvit.settings import Distill, Synthesize
from pocketvit.sources import open_images
from pocketvit.synthesis import (
    DrawnConfig,
    GenerationConfig,
    InversionConfig,
    Priors,
    Procedural,
    draw_bank,
    generate_bank,
    invert_bank,
    measure_card,
    read_card,
)
from pocketvit.synthesis.methods import Request, make_bank
from pocketvit.teachers import load_teacher

QUIET = {"progress": False}
NAME = "statistics.safetensors"


@pytest.fixture(scope="module")
def grouped():
    return synthesis_fakes.teacher_of(synthesis_fakes.colour_network(synthesis_fakes.group_norm))


@pytest.fixture(scope="module")
def pixels():
    return torch.from_numpy(Procedural(5, 16).take(np.arange(120)))


@pytest.fixture(scope="module")
def card(grouped, pixels):
    return measure_card(grouped, pixels.split(50), 120)


def test_it_holds_the_moments_of_what_each_layer_is_fed(grouped, pixels, card, tmp_path):
    first = grouped.module.conv1(pixels.float() / 255)
    torch.testing.assert_close(card.moments["norm1"].mean, first.mean((0, 2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(card.moments["norm1"].var, first.var((0, 2, 3), correction=0), atol=1e-5, rtol=1e-4)
    card.write(tmp_path / NAME)
    again = read_card(tmp_path / NAME)
    again.check(grouped)
    assert dataclasses.replace(again, moments=card.moments) == card
    assert again.record == card.record
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", again.date)
    torch.testing.assert_close(again.moments["norm2"].var, card.moments["norm2"].var, atol=0, rtol=0)


def test_tokens_of_no_patch_have_rows_of_their_own_and_a_stem_is_held_too():
    model = create_student("pocket_xxs", num_classes=3, image_size=16, stem="conv", tokens=1).eval()
    teacher = load_teacher(model, input_size=16, norm="none")
    pixels = torch.from_numpy(Procedural(5, 16).take(np.arange(100)))
    card = measure_card(teacher, [pixels], 100)
    seen = []
    handle = teacher.module.blocks[0].norm1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    teacher.logits(pixels)
    handle.remove()
    tokens, kept = seen[0], card.moments["blocks.0.norm1"]
    assert kept.mean.shape == (3, 64)
    torch.testing.assert_close(kept.mean[0], tokens[:, 0].mean(0))
    torch.testing.assert_close(kept.var[2], tokens[:, 2:].flatten(0, 1).var(0, correction=0), atol=1e-5, rtol=1e-4)
    assert any(path.startswith("patch_embed") for path in card.moments)
    with Priors(teacher, card=card) as priors:  # over the images that it is of, nothing is amiss
        teacher.logits(pixels)
        assert float(priors.parts["statistics"][1].loss()) < 1e-3


def test_norms_of_queries_and_keys_have_no_tokens_apart():
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=4,
        embed_dim=32,
        depth=1,
        num_heads=2,
        num_classes=3,
        qk_norm=True,
    )
    teacher = load_teacher(model.eval(), input_size=16, norm="none")
    card = measure_card(teacher, [torch.from_numpy(Procedural(5, 16).take(np.arange(100)))], 100)
    card.check(teacher)
    assert card.moments["blocks.0.attn.q_norm"].mean.shape == (16,)
    assert card.moments["blocks.0.norm2"].mean.shape == (2, 32)


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224"])
def test_channels_are_found_wherever_a_network_has_them(name):
    options = {"img_size": 32, "window_size": 4} if "swin" in name else {}
    torch.manual_seed(0)
    teacher = load_teacher(timm.create_model(name, num_classes=3, **options).eval(), input_size=32, norm="none")
    pixels = torch.from_numpy(Procedural(5, 32).take(np.arange(100)))
    card = measure_card(teacher, [pixels], 100)
    card.check(teacher)
    with Priors(teacher, card=card) as priors:
        teacher.logits(pixels)
        assert float(priors.parts["statistics"][1].loss()) < 1e-3
    with Priors(teacher) as priors:  # without one, shares of the same channels
        teacher.logits(pixels)
        assert float(priors.parts["channels"][1].loss()) >= 0


def test_images_come_nearer_to_what_it_holds(grouped, card, tmp_path):
    config = InversionConfig(24, steps=20, confidence=0)

    def apart(bank):
        with Priors(grouped, card=card) as priors:
            grouped.logits(torch.from_numpy(np.ascontiguousarray(bank.images.transpose(0, 3, 1, 2))))
            return float(priors.parts["statistics"][1].loss())

    without = invert_bank(tmp_path / "without", grouped, config, **QUIET)
    bank = invert_bank(tmp_path / "with", grouped, config, card=card, **QUIET)
    assert apart(bank) < 0.7 * apart(without)
    assert "activation" not in str(bank.provenance["made"]["priors"][0])


def test_what_is_made_with_it_says_so_and_is_not_called_data_free(grouped, card, tmp_path):
    start = draw_bank(tmp_path / "drawn", grouped, DrawnConfig(12), **QUIET)
    bank = invert_bank(tmp_path / "bank", grouped, InversionConfig(12, steps=2, confidence=0), card=card, **QUIET)
    later = invert_bank(tmp_path / "later", grouped, InversionConfig(6, steps=2, confidence=0), start=bank, **QUIET)
    made = generate_bank(
        tmp_path / "made", grouped, GenerationConfig(6, rounds=2, steps=1, confidence=0), card=card, **QUIET
    )
    for one in (bank, later, made):  # one that starts from it, too
        said = one.dataset().synthetic
        assert said.startswith("statistics-assisted, NOT data-free")
    assert "moments of 2 layers over 120 training images (a statistics card of 20" in bank.dataset().synthetic
    assert bank.provenance["provenance"]["statistics"]["statistics_images"] == 120
    assert open_images(bank.file, progress=False).synthetic == bank.dataset().synthetic
    assert start.dataset().synthetic.startswith("data-free")
    with pytest.raises(PocketError, match="asked for otherwise"):  # a bank is of one card, or of none
        invert_bank(tmp_path / "bank", grouped, InversionConfig(12, steps=2, confidence=0), **QUIET)


def test_another_teacher_or_other_layers_are_refused(grouped, card, network):
    other = synthesis_fakes.teacher_of(synthesis_fakes.colour_network(synthesis_fakes.group_norm, steps=3))
    with pytest.raises(PocketError, match=r"is of ColourNet with weights .*, and ColourNet has"):
        Priors(other, card=card)
    lost = dataclasses.replace(card, moments={"norm9": card.moments["norm1"]})
    with pytest.raises(PocketError, match=r"other layers: norm9 of \[8\], and ColourNet has no such"):
        Priors(grouped, card=lost)
    crossed = dataclasses.replace(card, moments={"norm1": card.moments["norm2"]})
    with pytest.raises(PocketError, match=r"norm1 of \[16\], and ColourNet has 8 channels there"):
        Priors(grouped, card=crossed)
    with pytest.raises(
        PocketError, match="no statistics card of ColourNet: it keeps the moments of its 2 BatchNorm layers itself"
    ):
        measure_card(synthesis_fakes.teacher_of(network), [], 200)


def test_few_images_and_damaged_files_are_refused(grouped, card, tmp_path):
    with pytest.raises(PocketError, match="fewer than 100 describe single ones"):
        measure_card(grouped, [], 99)
    path = tmp_path / NAME
    dataclasses.replace(card, images=40).write(path)
    with pytest.raises(PocketError, match="is of 40 images"):
        read_card(path)
    card.write(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 255
    path.write_bytes(data)
    with pytest.raises(PocketError, match="its checksum is wrong"):
        read_card(path)
    path.write_bytes(data[:40])
    with pytest.raises(PocketError, match="is damaged or no statistics card"):
        read_card(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(PocketError, match=f"is no statistics card. Give the {NAME}"):
        read_card(path)
    with pytest.raises(PocketError, match="there is no statistics card at"):
        read_card(tmp_path / "none")


def test_methods_without_priors_take_no_card(grouped, card, tmp_path):
    with pytest.raises(PocketError, match="--method drawn asks for no statistics"):
        Request(card=card)
    bank = make_bank(tmp_path / "bank", grouped, Request("inverted", 12, card=card), **QUIET)
    assert bank.dataset().synthetic.startswith("statistics-assisted")
    for given, message in (
        ({"statistics": True}, "--statistics: other methods ask for no statistics"),
        ({"prune_ratio": 0.3, "method": "drawn"}, "--prune-ratio 0.3: other methods optimize no patches"),
    ):
        with pytest.raises(PocketError, match=message):
            Synthesize(teacher="t", **given)
    with pytest.raises(PocketError, match=r"--statistics a\.safetensors: other methods ask for no statistics"):
        Distill(data_free=True, teacher="t", statistics="a.safetensors")
    with pytest.raises(PocketError, match=r"--statistics a\.safetensors: this is for images made from the teacher"):
        Distill("photos", statistics="a.safetensors")
