"""Shifted patches over plain ones and over their definition, forward and backward; on the processor.

    python benchmarks/patches.py [--json]

Embeddings: those of pocket_s (128 channels), 32-px pictures in patches of 4 and 224-px pictures in patches of 16.
Pictures need no gradient. A window has four times the pixels of a patch, so that the products are four times the plain
ones. The definition has five times as many, and those once more for the gradient of its linear layer's input, which
LayerNorm's own gradients need: 8 to 15, to which its copies and LayerNorm come.

Models: students of the ladder in training mode, forward and backward. The floor is what the products alone would give.
The keys are pocket_s at 32 px, which is the default student, and pocket_l at 224 px: pocket_s is so small there that
its floor is above the wanted 1.10.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from _timing import alternate, print_table, run
from timm.layers import PatchEmbed
from torch import nn

from pocketvit.models import create_student
from pocketvit.models.flops import count_flops
from pocketvit.models.patches import ShiftedEmbed

_DIM = 128
_EMBEDDINGS = ((32, 4, 128), (224, 16, 32))  # side, patch, pictures
_MODELS = (("pocket_s", 32, 64), ("pocket_l", 32, 32), ("pocket_s", 224, 8), ("pocket_l", 224, 8))
_KEYS = {("pocket_s", 32): "shifted_over_plain_model", ("pocket_l", 224): "shifted_over_plain_model_224"}


def there_and_back(module: nn.Module, pictures: torch.Tensor) -> Callable[[], None]:
    """Return one forward and backward pass with a fixed gradient."""
    gradient = torch.randn_like(module(pictures))

    def take() -> None:
        for parameter in module.parameters():
            parameter.grad = None
        module(pictures).backward(gradient)

    return take


def embeddings(side: int, patch: int, batch: int, seconds: float) -> dict[str, float]:
    """Return each embedding's median duration."""
    fast, naive = ShiftedEmbed(side, patch, 3, _DIM), ShiftedEmbed(side, patch, 3, _DIM)
    naive.proj.naive = True
    modules = {"plain": PatchEmbed(side, patch, 3, _DIM), "shifted": fast, "naive": naive}
    pictures = torch.randn(batch, 3, side, side)
    return alternate({name: there_and_back(module, pictures) for name, module in modules.items()}, seconds)


def models(name: str, side: int, batch: int, seconds: float) -> tuple[dict[str, float], float]:
    """Return the medians of a student with plain and with shifted patches, and the ratio of their products."""
    made: dict[str, Any] = {
        stem: create_student(name, num_classes=10, image_size=side, stem=stem) for stem in ("patch", "shifted")
    }
    plain = count_flops(made["patch"], side)
    patches = made["patch"].patch_embed.num_patches
    patch = side // round(patches**0.5)
    embed = 2 * patches * 3 * patch * patch * made["patch"].embed_dim
    # Backward is twice forward, but for the embedding, whose input has no gradient.
    floor = (3 * (plain - embed) + 2 * 4 * embed) / (3 * (plain - embed) + 2 * embed)
    pictures = torch.randn(batch, 3, side, side)
    steps = {stem: there_and_back(model.train(), pictures) for stem, model in made.items()}
    return alternate(steps, seconds), floor


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print both tables and return the ratios."""
    result: dict[str, float] = {}
    rows = []
    for side, patch, batch in _EMBEDDINGS:
        took = embeddings(side, patch, batch, arguments.seconds)
        over_plain, over_naive = took["shifted"] / took["plain"], took["shifted"] / took["naive"]
        rows.append(
            (f"{side} px, patch {patch}, batch {batch}", *(1000 * t for t in took.values()), over_plain, over_naive)
        )
        end = "" if side == 32 else f"_{side}"
        result[f"shifted_over_plain_embedding{end}"] = over_plain
        result[f"shifted_over_naive_embedding{end}"] = over_naive
    print_table(("embedding", "plain ms", "shifted ms", "naive ms", "over plain", "over naive"), rows)
    print()
    rows = []
    for name, side, batch in _MODELS:
        took, floor = models(name, side, batch, arguments.seconds)
        ratio = took["shifted"] / took["patch"]
        rows.append(
            (
                f"{name}, {side} px, batch {batch}",
                1000 * took["patch"],
                1000 * took["shifted"],
                f"{ratio:.3f}",
                f"{floor:.3f}",
            )
        )
        if (name, side) in _KEYS:
            result[_KEYS[name, side]] = ratio
    print_table(("model", "plain ms", "shifted ms", "ratio", "floor"), rows)
    return result


if __name__ == "__main__":
    run(measure, __doc__, seconds=20.0)
