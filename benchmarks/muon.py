"""What Muon costs: a training step with it over one with AdamW, of the same student.

    python benchmarks/muon.py [--json]

Images of 32 px, 64 a step: forward, backward, clipping, update. `muon_over_adamw_step` is of the student on the
convolutional stem (the default where images are small), `muon_over_adamw_step_patch` of the plain ViT. The other rows
show where the time goes: the update alone, and torch's own Muon, which takes one matrix at a time and no convolutions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _timing import alternate, print_table, run

from pocketvit.config import LossConfig, TrainConfig
from pocketvit.models import create_student
from pocketvit.tasks import task_named
from pocketvit.training import Batch, Stepper
from pocketvit.training.optim import matrix_parts

BATCH, INPUT = 64, (32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
TASK = task_named("classification")
STEMS = ("conv", "patch")


def stepper(stem: str, optimizer: str) -> Stepper:
    """A student of about 1 M parameters and its optimizer."""
    torch.manual_seed(0)
    student = create_student("pocket_s", num_classes=10, image_size=32, stem=stem)  # type: ignore[arg-type]
    student.to(memory_format=torch.channels_last)
    config = TrainConfig(optimizer=optimizer, learning_rate=1e-3, precision="fp32")  # type: ignore[arg-type]
    return Stepper(student, INPUT, TASK.loss(LossConfig()), config, 10_000, task=TASK)


def step(steps: Stepper) -> Callable[[], object]:
    """Return what takes one step on noise."""
    classes = torch.arange(BATCH) % 10
    pixels = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    batch = Batch(pixels, classes, classes, torch.ones(BATCH), (), torch.arange(BATCH), BATCH)
    return lambda: steps.take([batch])


def update(steps: Stepper) -> Callable[[], object]:
    """Return what updates the weights with gradients that stay."""
    for p in steps.parameters:
        p.grad = torch.randn_like(p)
    return steps.optimizer.step


def torch_muon(steps: Stepper) -> Callable[[], object]:
    """Return torch's own update of those matrices that it takes."""
    weights = [p for p in matrix_parts(steps.model) if p.ndim == 2]
    for p in weights:
        p.grad = torch.randn_like(p)
    return torch.optim.Muon(weights, lr=1e-3, adjust_lr_fn="match_rms_adamw").step


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print each step and return the ratios."""
    candidates: dict[str, Callable[[], object]] = {}
    for stem in STEMS:
        for optimizer in ("muon", "adamw"):
            candidates[f"{stem}: step, {optimizer}"] = step(stepper(stem, optimizer))
            candidates[f"{stem}: update, {optimizer}"] = update(stepper(stem, optimizer))
        candidates[f"{stem}: update, torch.optim.Muon (linear layers only)"] = torch_muon(stepper(stem, "muon"))
    medians = alternate(candidates, arguments.seconds, least=5)
    rows = [(name, 1000 * seconds) for name, seconds in medians.items()]
    print_table(("what", "ms"), rows)
    conv, patch = (medians[f"{stem}: step, muon"] / medians[f"{stem}: step, adamw"] for stem in STEMS)
    return {"muon_over_adamw_step": conv, "muon_over_adamw_step_patch": patch}


if __name__ == "__main__":
    run(measure, __doc__, seconds=30.0)
