"""Structured pruning: a ViT in, a narrower ViT of the same architecture out, which stock timm makes and loads.

Token width, heads, head width and MLPs shrink, each to the same number in every block. torch-pruning (Fang et al.,
"DepGraph", CVPR 2023) knows which layers are coupled and scores their channels; the widths are chosen here, because
timm wants tokens as wide as all heads together. Layers of the same kind are scored among themselves, never against
others ("Isomorphic Pruning", Fang et al., ECCV 2024), by the first-order Taylor term |weight x gradient| (Molchanov et
al., CVPR 2019) where batches are given, and by their norms otherwise.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..errors import PocketError
from ..models import input_stats, shared
from ..models.checkpoint import load_weights
from ..models.inputs import tell_input
from ..models.registry import build
from ..models.saving import recipe_of
from ..training.feed import Batch
from ..training.step import FromPixels, Input, Loss
from .cost import MEASURES, Measure
from .shapes import Shape, fit_shape, shape_of


def prune(
    model: nn.Module,
    keep: float = 0.5,
    *,
    of: Measure | Callable[[nn.Module], float] = "parameters",
    batches: Iterable[Batch] = (),
    loss: Loss | None = None,
    input: Input | None = None,
) -> nn.Module:
    """Return a narrower network with the best of ``model``'s channels; ``model`` is left as it is.

    Args:
        model: a timm ``VisionTransformer`` or a student of ours, made by `create_model` or `create_student`.
        keep: share of the cost that may be left, in (0, 1).
        of: which cost. A function is called with untrained networks on the ``meta`` device: estimate, don't run.
        batches: a few batches of a `Feed`, of at least some hundred images, to score channels by the loss's gradient.
        loss: the one that the student learns by; needed with ``batches``.
        input: what the network is fed; needed with ``batches``.

    Raises:
        PocketError: the network is not of a kind that can be pruned, or cannot be made that small.
    """
    if not 0 < keep < 1:
        raise PocketError(f"the share of a network that pruning keeps lies between 0 and 1, not at {keep}.")
    before = prunable(model)
    recipe = recipe_of(model)
    side = input[0] if input is not None else input_stats(model).input_size
    after = _fit(before, recipe, keep, of, side)

    work = copy.deepcopy(model).eval().requires_grad_(True)
    work.zero_grad(set_to_none=True)
    importance = _gradients(work, batches, loss, input)
    pixels = torch.zeros(2, 3, side, side, device=next(work.parameters()).device)
    _narrow(work, pixels, importance, before, after)

    smaller = build(recipe["architecture"], recipe["model_args"] | after.model_args())
    load_weights(smaller, work.state_dict(), "the pruned network", recipe["architecture"])
    tell_input(smaller, like=model)
    return smaller.to(pixels.device).train(model.training)


def prunable(model: nn.Module) -> Shape:
    """Return the widths of a network that can be pruned.

    Raises:
        PocketError: its blocks share layers, or are of a kind that nothing is known of.
    """
    if isinstance(model, VisionTransformer) and recipe_of(model)["architecture"] == shared.pocketvit_shared.__name__:
        raise PocketError("this student's blocks share their layers. Prune first, and share what is left.")
    return shape_of(model)


def _fit(
    before: Shape,
    recipe: dict[str, Any],
    keep: float,
    of: Measure | Callable[[nn.Module], float],
    side: int,
) -> Shape:
    """Return the shape whose cost is at most ``keep`` of what it was."""

    @functools.cache
    def cost(shape: Shape) -> float:
        with torch.device("meta"):
            network = build(recipe["architecture"], recipe["model_args"] | shape.model_args())
        return of(network) if callable(of) else MEASURES[of](network, side)

    return fit_shape(before, cost, keep * cost(before))


def _gradients(model: nn.Module, batches: Iterable[Batch], loss: Loss | None, input: Input | None) -> Any:
    """Leave the loss's gradient over ``batches`` in ``model`` and return how a group of channels is scored."""
    forward = None
    for batch in batches:
        if loss is None or input is None:
            raise ValueError("batches need a loss and an input")
        forward = forward or FromPixels(model, input)
        value, _ = loss(tuple(head.float() for head in forward(batch.pixels)), batch)
        value.backward()
    import torch_pruning as tp  # here, for it is slow to import

    if forward is None:
        return tp.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None)
    return tp.importance.GroupTaylorImportance(group_reduction="sum", normalizer=None)


def _narrow(model: Any, pixels: Tensor, importance: Any, before: Shape, after: Shape) -> None:
    """Remove channels in place, those of least importance."""
    import torch_pruning as tp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters outside layers: positions and tokens, which it finds by itself
        own = [block.attn.temperature for block in model.blocks if hasattr(block.attn, "temperature")]
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=pixels, ignored_params=own)
    out = tp.prune_linear_out_channels

    def scores(layer: nn.Linear) -> Tensor:
        return importance(graph.get_pruning_group(layer, out, list(range(layer.out_features)))).cpu()

    # All scores before the first cut: a cut takes gradients away too.
    drop: list[tuple[nn.Linear, list[int]]] = []
    kept_heads: list[Tensor] = []
    for block in model.blocks:
        by_head = scores(block.attn.qkv).view(3, before.num_heads, before.head_dim).sum(0)
        heads = _best(by_head.sum(1), after.num_heads)
        kept = torch.zeros(before.num_heads, before.head_dim, dtype=torch.bool)
        for head in heads.tolist():
            kept[head, _best(by_head[head], after.head_dim)] = True
        drop.append((block.attn.qkv, (~kept).flatten().repeat(3).nonzero().flatten().tolist()))
        kept_heads.append(heads)
        hidden = block.mlp.fc1
        drop.append((hidden, _rest(_best(scores(hidden), after.mlp_dim), before.mlp_dim)))
    last = model.blocks[-1].mlp.fc2
    drop.append((last, _rest(_best(scores(last), after.embed_dim), before.embed_dim)))

    for layer, channels in drop:
        if channels:
            graph.get_pruning_group(layer, out, channels).prune()
    for block, heads in zip(model.blocks, kept_heads, strict=True):
        _fix_heads(block.attn, heads, before, after)


@torch.no_grad()
def _fix_heads(attention: Any, heads: Tensor, before: Shape, after: Shape) -> None:
    """Keep what belongs to heads in step with them: scores keep their size though narrower heads divide by less."""
    temperature = getattr(attention, "temperature", None)  # one a head, of locality self-attention
    if isinstance(temperature, nn.Parameter):
        attention.temperature = nn.Parameter(temperature[heads.to(temperature.device)].clone())
    elif isinstance(attention.q_norm, nn.Identity):
        factor = (after.head_dim / before.head_dim) ** 0.5
        attention.qkv.weight[: after.embed_dim] *= factor
        if attention.qkv.bias is not None:
            attention.qkv.bias[: after.embed_dim] *= factor


def _best(scores: Tensor, count: int) -> Tensor:
    """Return the positions of the ``count`` highest scores, in order of position."""
    return scores.topk(count).indices.sort().values


def _rest(kept: Tensor, count: int) -> list[int]:
    mask = torch.ones(count, dtype=torch.bool)
    mask[kept] = False
    return mask.nonzero().flatten().tolist()
