"""The loop of a student without images: what a step costs beside its plain parts, and how fast pictures are drawn.

    python benchmarks/datafree.py [--json] [--vit FOLDER]

The student (about 1 M parameters, 32 px) sees a bank's pictures under hard views (crops, colours, CutMix, Mixup) and
learns from a ResNet-20: asked about each batch, or from its stored labels as `distill --data-free` does. Beside it a
plain supervised step of the same student under light views, and the teacher's bare forward.

A ViT is inverted dense and sparse, from the same drawn pictures: one of DeiT-Tiny's shape with 64 patches and random
weights, or the trained one in a folder, which then also says how sure it is of both in the end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial

import numpy as np
import timm
import torch
from _steps import BATCH, BLOCK, block, endless, noise, stepper, teachers
from _timing import alternate, print_table, run

from pocketvit.labels import write_labels
from pocketvit.synthesis import InversionConfig, Priors, Procedural
from pocketvit.synthesis.inversion import Inverter
from pocketvit.teachers import load_teacher
from pocketvit.training import Feed
from pocketvit.views import Views
from pocketvit.views.synthetic import hard_views

DRAWN = 1024  # pictures of a timed block
INVERTED, STEPS, RATIO = 16, 30, 0.3  # pictures that are optimized together, in the steps of --method inverted


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print the rates and return the ratios."""
    source, teacher = noise(2048), teachers()[0]
    views = Views(source, hard_views(32))
    batch = torch.randn(BATCH, 3, 32, 32)

    def forward() -> None:
        with torch.no_grad():
            for _ in range(BLOCK):
                teacher.module(batch)

    def hard(**learned):
        feed = Feed(views, BATCH, **learned)
        for epoch in range(1_000_000):
            yield from feed.epoch(epoch)

    with tempfile.TemporaryDirectory() as folder:
        store = write_labels(folder, source, views, [teacher], 1, progress=False)
        steps = stepper(tokens=0)
        medians = alternate(
            {
                "plain supervised step": block(steps, endless(source)),
                "the teacher's forward": forward,
                "without images, live teacher": block(steps, hard(live=[teacher])),
                "without images, stored labels": block(steps, hard(labels=store, teachers=store.teachers())),
            },
            arguments.seconds,
        )
    plain, asked, live, stored = medians.values()
    rows = [(name, 1000 * seconds / BLOCK, BLOCK * BATCH / seconds) for name, seconds in medians.items()]
    print(f"a step of {BATCH} images in {steps.config.precision}")
    print_table(("", "ms per step", "images/s"), rows)
    dense, sparse = inversion(arguments)
    drawn = {size: rate(size) for size in (32, 224)}
    print_table(("procedural pictures of", "pictures/s"), [(f"{size} px", value) for size, value in drawn.items()])
    return {
        "loop_over_plain": (plain + asked) / live,
        "stored_loop_over_plain": (plain + asked) / stored,
        "sparse_over_dense": dense / sparse,
        "procedural_per_second_32": drawn[32],
        "procedural_per_second_224": drawn[224],
    }


def inversion(arguments: argparse.Namespace) -> tuple[float, float]:
    """Print what dense and sparse inversion of a ViT come to; return the seconds of each."""
    if arguments.vit:
        vit = load_teacher(arguments.vit)
    else:
        torch.manual_seed(0)
        network = timm.create_model("deit_tiny_patch16_224", img_size=32, patch_size=4, num_classes=10)
        vit = load_teacher(network, input_size=32, norm="imagenet")
    pictures = torch.from_numpy(Procedural(0, vit.input_size).take(np.arange(INVERTED)))
    targets = torch.arange(INVERTED) % vit.num_outputs
    made: dict[str, torch.Tensor] = {}

    def invert(name: str, ratio: float) -> None:
        config = InversionConfig(INVERTED, batch=INVERTED, steps=STEPS, prune_ratio=ratio)
        with Priors(vit, config.priors) as priors:
            made[name] = Inverter(vit, priors, config).run(pictures, targets, 0)

    seconds = alternate(
        {"dense": partial(invert, "dense", 0.0), "sparse": partial(invert, "sparse", RATIO)}, arguments.seconds
    )
    sure = {name: vit.logits(images).softmax(1)[range(INVERTED), targets] for name, images in made.items()}
    rows = [(name, INVERTED / value, float(sure[name].mean())) for name, value in seconds.items()]
    told = vit.name if arguments.vit else "a ViT of random weights"
    print_table((f"{STEPS} steps of inversion of {told}", "images/s", "probability of the class"), rows)
    return seconds["dense"], seconds["sparse"]


def rate(size: int) -> float:
    """Pictures drawn in a second, on all cores: the best of three."""
    row = Procedural(0, size)
    count = max(8, DRAWN * 32 * 32 // size**2)
    row.take(np.arange(count))
    best = float("inf")
    for turn in range(3):
        start = time.perf_counter()
        row.take(np.arange(turn * count, (turn + 1) * count))
        best = min(best, time.perf_counter() - start)
    return count / best


if __name__ == "__main__":
    run(measure, __doc__, seconds=12.0, vit="")
