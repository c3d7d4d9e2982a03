"""Position embeddings move to another resolution as pictures do, set by set, and prefix tokens keep theirs."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from pocketvit.errors import PocketError
from pocketvit.models import create_model, create_student, load_model, save_model
from pocketvit.models.positions import fit_positions, resample_positions
from pocketvit.teachers import load_teacher
from pocketvit.views import resize


def positions(count, dim=6):
    return torch.randn(1, count, dim, generator=torch.Generator().manual_seed(count))


def as_map(tokens, grid):
    return tokens.transpose(1, 2).unflatten(2, grid).contiguous()


def student(side=16, **changes):
    torch.manual_seed(0)
    args = {"num_classes": 3, "image_size": side, "patch_size": 4, **changes}
    model = create_student("pocket_xs", **args).eval()
    nn.init.normal_(model.pos_embed)
    return model


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_patches_are_resampled_as_a_picture_and_the_prefix_is_kept(prefix):
    given = positions(prefix + 4 * 5)
    moved = resample_positions(given, prefix, (4, 5), (7, 3))
    assert torch.equal(moved[:, :prefix], given[:, :prefix])
    expected = resize(as_map(given[:, prefix:], (4, 5)), (7, 3), "lanczos", 5)
    torch.testing.assert_close(as_map(moved[:, prefix:], (7, 3)), expected)
    assert not torch.equal(moved, resample_positions(given, prefix, (4, 5), (7, 3), "lanczos", 3))


def test_nothing_is_rounded_or_cut_off():
    """Values beyond 0..255 and fractions survive, and the same grid is the same positions."""
    given = 1e-3 * positions(17) - 500
    assert torch.equal(resample_positions(given, 1, (4, 4), (4, 4)), given)
    flat = torch.full((1, 16, 2), -0.37)
    torch.testing.assert_close(resample_positions(flat, 0, (4, 4), (9, 9)), torch.full((1, 81, 2), -0.37))


def test_two_sets_do_not_run_into_each_other():
    first, second = positions(16), 100 + positions(16)
    both = resample_positions(torch.cat([positions(1), first, second], 1), 1, (4, 4), (6, 6))
    for index, one in enumerate((first, second)):
        alone = resample_positions(one, 0, (4, 4), (6, 6))
        torch.testing.assert_close(both[:, 1 + 36 * index : 37 + 36 * index], alone)


def test_positions_that_make_no_grid_are_refused():
    with pytest.raises(ValueError, match="not made of grids of 4 x 4"):
        resample_positions(positions(18), 1, (4, 4), (6, 6))


def test_half_precision_is_resampled_in_float32():
    given = positions(16).half()
    moved = resample_positions(given, 0, (4, 4), (8, 8))
    assert moved.dtype == torch.float16
    assert torch.equal(moved, resample_positions(given.float(), 0, (4, 4), (8, 8)).half())


@pytest.mark.parametrize("changes", [{}, {"tokens": 2}, {"stem": "shifted", "tokens": 1}, {"stem": "concatenated"}])
def test_a_saved_student_moves_to_another_size_and_stays_there(changes, tmp_path):
    model = student(**changes)
    save_model(model, tmp_path / "small", classes=tuple("abc"))
    large = load_model(tmp_path / "small", input_size=24)
    assert large.preprocessing.input_size == 24
    prefix = 1 + changes.get("tokens", 0)
    expected = resample_positions(model.pos_embed.detach(), prefix, (4, 4), (6, 6))
    torch.testing.assert_close(large.module.pos_embed.detach(), expected)
    x = torch.randn(2, 3, 24, 24)
    save_model(large.module, tmp_path / "large", classes=large.classes)
    again = load_model(tmp_path / "large")
    assert again.preprocessing.input_size == 24
    assert torch.equal(again.module(x), large.module(x))


def test_the_old_grid_of_a_picture_that_is_not_square_is_known():
    model = create_model("vit_tiny_patch16_224", num_classes=3, img_size=(16, 32), patch_size=4, depth=1)
    nn.init.normal_(model.pos_embed)
    other = create_model("vit_tiny_patch16_224", num_classes=3, img_size=(32, 32), patch_size=4, depth=1)
    moved = fit_positions(model.state_dict(), other, (16, 32))
    expected = resample_positions(model.pos_embed.detach(), 1, (4, 8), (8, 8))
    assert torch.equal(moved["pos_embed"], expected)


def test_the_saved_size_changes_nothing(tmp_path):
    model = student()
    save_model(model, tmp_path, classes=tuple("abc"))
    assert torch.equal(load_model(tmp_path, input_size=16).module.pos_embed, model.pos_embed)


def test_a_network_for_any_size_only_notes_the_new_one(tmp_path):
    model = create_model("cifar_resnet20", num_classes=3).eval()
    save_model(model, tmp_path, classes=tuple("abc"))
    loaded = load_model(tmp_path, input_size=24)
    x = torch.randn(1, 3, 24, 24)
    assert loaded.preprocessing.input_size == 24
    assert torch.equal(loaded.module(x), model(x))


def test_a_teacher_folder_is_brought_to_the_size_that_is_asked(tmp_path):
    save_model(student(), tmp_path, classes=tuple("abc"))
    teacher = load_teacher(tmp_path, input_size=32)
    assert teacher.input_size == 32
    assert teacher.module.pos_embed.shape[1] == 65


@pytest.mark.parametrize("changes", [{"tokens": 2}, {"stem": "concatenated"}])
def test_timms_own_loading_resamples_our_students_as_we_do(changes, tmp_path):
    save_model(student(**changes), tmp_path, classes=tuple("abc"))
    by_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=24)
    torch.testing.assert_close(by_timm.pos_embed, load_model(tmp_path, input_size=24).module.pos_embed)


def test_weights_of_another_network_are_still_refused(tmp_path):
    """Resampling hides no mistake: a wrong patch size is not a resolution."""
    save_model(student(), tmp_path, classes=tuple("abc"))
    save_model(student(patch_size=8), tmp_path / "other", classes=tuple("abc"))
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(PocketError, match=r"patch_embed\.proj\.weight"):
        load_model(tmp_path, input_size=24)
