"""What bfloat16 does for training on a processor: passes and updates in it, over those in float32.

    python benchmarks/half_precision.py [--json]

Forward and backward passes of students with channels innermost: pocket_s and pocket_xl with the convolutional stem,
32 px, and pocket_s with the hybrid one, 96 px. "Plain" is torch.autocast alone; "ours" takes attention apart and hands
GroupNorm its maps plane by plane. The update is Muon's of pocket_xl. Without units for bfloat16 all ratios are far
above 1, and `--precision auto` leaves it alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from _timing import alternate, print_table, run
from torch import nn

from pocketvit.config import TrainConfig
from pocketvit.models import create_student
from pocketvit.models.innermost import planes_for_group_norm
from pocketvit.training import FromPixels
from pocketvit.training.optim import build_optimizer
from pocketvit.training.precision import autocast, training

BATCH = 64
CPU = torch.device("cpu")
STUDENTS = (("pocket_s", "conv", 32), ("pocket_xl", "conv", 32), ("pocket_s", "hybrid", 96))


def student(name: str, stem: str, side: int) -> nn.Module:
    """Return an untrained student, laid out as for training."""
    torch.manual_seed(0)
    model = create_student(name, num_classes=10, image_size=side, stem=stem)  # type: ignore[arg-type]
    return model.to(memory_format=torch.channels_last).train()


def one_pass(model: nn.Module, side: int, context: Callable[[], AbstractContextManager]) -> Callable[[], None]:
    """Return what takes a forward and a backward pass on noise."""
    forward = FromPixels(model, (side, (0.5,) * 3, (0.25,) * 3))
    pixels = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8)

    def take() -> None:
        with context():
            heads = forward(pixels)
        sum(head.float().square().mean() for head in heads).backward()
        model.zero_grad(set_to_none=True)

    return take


def update(precision: str) -> Callable[[], object]:
    """Return what updates pocket_xl with gradients that stay."""
    model = student(*STUDENTS[1])
    optimizer = build_optimizer(model, TrainConfig(optimizer="muon", precision=precision))  # type: ignore[arg-type]
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    return optimizer.step


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print each time and return the ratios."""
    candidates: dict[str, Callable[[], object]] = {}
    for name, stem, side in STUDENTS:
        shown = f"{name}, {stem}, {side} px"
        ours = student(name, stem, side)
        planes_for_group_norm(ours)
        candidates[f"{shown}: fp32"] = one_pass(student(name, stem, side), side, lambda: autocast("fp32", CPU))
        candidates[f"{shown}: bf16, plain"] = one_pass(student(name, stem, side), side, lambda: autocast("bf16", CPU))
        candidates[f"{shown}: bf16, ours"] = one_pass(ours, side, lambda: training("bf16", CPU, apart=True))
    candidates |= {f"Muon's update of pocket_xl: {name}": update(name) for name in ("fp32", "bf16")}
    medians = alternate(candidates, arguments.seconds, least=5)
    print_table(("what", "ms"), [(name, 1000 * seconds) for name, seconds in medians.items()])
    taken = iter(medians.values())
    result: dict[str, float] = {}
    for name, stem, side in STUDENTS:
        exact, plain, half = next(taken), next(taken), next(taken)
        key = f"{name.removeprefix('pocket_')}_{stem}_{side}"
        result |= {f"bf16_over_fp32_{key}": half / exact, f"bf16_over_plain_bf16_{key}": half / plain}
    exact, half = taken
    return {**result, "bf16_over_fp32_muon": half / exact}


if __name__ == "__main__":
    run(measure, __doc__, seconds=60.0)
