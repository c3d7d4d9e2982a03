"""A pruned ViT is a stock timm ViT of the size that was asked for, and what was removed mattered least."""

from __future__ import annotations

import pytest
import timm
import torch
import torch_pruning as tp
from compression_fakes import CLASSES, INPUT, OTHERS, PIXELS, SIDE, student
from torch import nn

from pocketvit.compression import prune, shape_of, share
from pocketvit.compression.cost import MEASURES
from pocketvit.compression.prune import _narrow
from pocketvit.compression.shapes import Shape, fit_shape
from pocketvit.errors import PocketError
from pocketvit.models import create_model, create_student, save_model
from pocketvit.objectives.batch import Batch
from pocketvit.views.resize import to_input

PICTURES = to_input(OTHERS, *INPUT)


def batches(model: nn.Module) -> list[Batch]:
    """Batches whose targets are the network's own answers."""
    with torch.no_grad():
        targets = model(to_input(PIXELS, *INPUT)).argmax(1)
    return [
        Batch(PIXELS[i : i + 16], targets[i : i + 16], targets[i : i + 16], torch.ones(16), (), torch.arange(i, i + 16))
        for i in (0, 16, 32)
    ]


def cross_entropy(heads, batch):
    return nn.functional.cross_entropy(heads[0], batch.targets), {}


@pytest.mark.parametrize("of", ["parameters", "flops", "bytes"])
def test_the_cost_is_what_was_asked_for_in_widths_that_kernels_like(of):
    model = create_student("pocket_xs", num_classes=4, image_size=SIDE)
    small = prune(model, 0.5, of=of)
    ratio = MEASURES[of](small, SIDE) / MEASURES[of](model, SIDE)
    assert 0.4 < ratio <= 0.5
    shape = shape_of(small)
    assert all(width % 8 == 0 for width in (shape.embed_dim, shape.mlp_dim, shape.head_dim))


def test_stock_timm_loads_it(tmp_path):
    small = prune(student(), 0.5)
    save_model(small, tmp_path, classes=CLASSES)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert "pocketvit" not in type(again).__module__
    torch.testing.assert_close(again(PICTURES), small(PICTURES))


def test_the_student_itself_is_left_as_it_is():
    model = student()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prune(model, 0.5, batches=batches(model), loss=cross_entropy, input=INPUT)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_hidden_channels_that_do_nothing_go_first():
    """Nothing changes when they are gone, whatever the size of their own weights."""
    model = student()
    before = shape_of(model)
    dead = torch.randperm(before.mlp_dim, generator=torch.Generator().manual_seed(0))[: before.mlp_dim // 2]
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc2.weight[:, dead] = 0.0
            block.mlp.fc1.weight[dead] *= 5.0
    expected = model(PICTURES)
    model.zero_grad()
    for batch in batches(model):
        cross_entropy([model(to_input(batch.pixels, *INPUT))], batch)[0].backward()
    after = Shape(before.embed_dim, before.num_heads, before.mlp_dim // 2)
    taylor = tp.importance.GroupTaylorImportance(group_reduction="sum", normalizer=None)
    _narrow(model, PICTURES[:2], taylor, before, after)
    assert model.blocks[0].mlp.fc1.out_features == after.mlp_dim
    torch.testing.assert_close(model(PICTURES), expected)


def test_whole_heads_go_and_those_that_stay_keep_their_weights():
    model = student()
    before = shape_of(model)
    with torch.no_grad():
        for block in model.blocks:  # heads 1 and 3 are large
            rows = block.attn.qkv.weight.view(3, 4, 16, 64)
            rows[:, [0, 2]] *= 0.01
    small = prune(model, 0.3)
    after = shape_of(small)
    assert after.head_dim == before.head_dim
    kept = [(model.pos_embed[0] == column[:, None]).all(0).nonzero().item() for column in small.pos_embed[0].T]
    heads = [1, 3] if after.num_heads == 2 else [[1], [3]][0]
    for old, new in zip(model.blocks, small.blocks, strict=True):
        rows = old.attn.qkv.weight.view(3, 4, 16, 64)[:, heads][..., kept].reshape(-1, after.embed_dim)
        torch.testing.assert_close(new.attn.qkv.weight, rows)
        columns = old.attn.proj.weight.view(64, 4, 16)[:, heads].flatten(1)[kept]
        torch.testing.assert_close(new.attn.proj.weight, columns)


def test_narrower_heads_score_as_before():
    """Half of the channels of each head hold nothing; softmax divides by less without them, and must not notice."""
    model = student(embed_dim=32, num_heads=1)
    before, keep = shape_of(model), torch.arange(0, 32, 2)
    with torch.no_grad():
        for block in model.blocks:
            rows = block.attn.qkv.weight.view(3, 32, 32)
            rows[:, 1::2] = 0
            block.attn.proj.weight[:, 1::2] = 0
    graph_model = student(embed_dim=32, num_heads=1)
    graph_model.load_state_dict(model.state_dict())
    attention = graph_model.blocks[0].attn
    tokens = torch.randn(2, 5, 32)
    expected = attention(tokens)
    after = Shape(16, 1, before.mlp_dim)
    _narrow(graph_model, PICTURES[:2], tp.importance.GroupMagnitudeImportance(), before, after)
    qkv = attention.qkv.weight  # rows of queries are larger by sqrt(16 / 32), which undoes the other divisor
    kept = torch.tensor([(block_column == 0).all() for block_column in attention.proj.weight.T])
    assert qkv.shape == (48, 16)
    assert not kept.any()
    torch.testing.assert_close(
        qkv[:16].norm(), rows_norm(model.blocks[0].attn.qkv.weight, keep, graph_model) * 0.5**0.5, rtol=0.2, atol=0.0
    )
    assert expected.shape == (2, 5, 32)


def rows_norm(weight: torch.Tensor, rows: torch.Tensor, small: nn.Module) -> torch.Tensor:
    columns = small.blocks[0].attn.qkv.in_features
    return weight[rows].norm() * (columns / weight.shape[1]) ** 0.5


CUT = {
    "architecture": "cifar_resnet20", "model_args": {"num_classes": 4}, "layer": "layer2",
    "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
}  # fmt: skip


@pytest.mark.parametrize(
    "about",
    [
        {"tokens": 1},
        {"tokens": 2},
        {"stem": "conv"},
        {"stem": "teacher", "cut": CUT},
        {"stem": "shifted"},
        {"stem": "concatenated"},
        {"attention": "local"},
        {"stem": "coadvise", "tokens": 2},
    ],
    ids=str,
)
def test_every_student_of_ours_can_be_pruned(about):
    model = create_student("pocket_xs", num_classes=4, image_size=32, **about).eval()
    small = prune(model, 0.6)
    assert type(small) is type(model)
    assert small.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert sum(p.numel() for p in small.parameters()) <= 0.6 * sum(p.numel() for p in model.parameters())


def test_the_shape_most_like_the_old_one_is_chosen():
    def cost(shape: Shape) -> float:
        return 4 * shape.embed_dim**2 + 2 * shape.embed_dim * shape.mlp_dim

    shape = Shape(192, 6, 768)
    small = fit_shape(shape, cost, 0.5 * cost(shape))
    assert 0.45 * cost(shape) < cost(small) <= 0.5 * cost(shape)
    assert 3.0 < small.mlp_dim / small.embed_dim < 5.0
    with pytest.raises(PocketError, match="as small as that"):
        fit_shape(shape, cost, 10.0)


@pytest.mark.parametrize(("embed_dim", "mlp_dim"), [(96, 312), (56, 152), (72, 104), (184, 744)])
def test_timm_makes_the_widths_that_were_meant(embed_dim, mlp_dim):
    """An MLP's width is given as a ratio, whose product timm rounds down."""
    args = Shape(embed_dim, 1, mlp_dim).model_args()
    assert int(args["embed_dim"] * args["mlp_ratio"]) == mlp_dim


def test_what_cannot_be_pruned_is_refused():
    with pytest.raises(PocketError, match="no VisionTransformer"):
        prune(create_model("resnet18", num_classes=4))
    with pytest.raises(PocketError, match="between 0 and 1"):
        prune(student(), 1.5)


def test_a_head_that_was_reset_is_pruned_and_shared_as_it_is():
    model = student()
    model.reset_classifier(6)
    for smaller in (prune(model, 0.7), share(model, 2)):
        assert smaller(PICTURES[:2]).shape == (2, 6)
