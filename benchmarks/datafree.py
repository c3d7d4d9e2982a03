"""The loop of a student without images: what a step costs beside its plain parts, and how fast pictures are drawn.

    python benchmarks/datafree.py [--json]

The student (about 1 M parameters, 32 px) sees a bank's pictures under hard views (crops, colours, CutMix, Mixup) and
learns from a ResNet-20: asked about each batch, or from its stored labels as `distill --data-free` does. Beside it a
plain supervised step of the same student under light views, and the teacher's bare forward.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np
import torch
from _steps import BATCH, BLOCK, block, endless, noise, stepper, teachers
from _timing import alternate, print_table, run

from pocketvit.labels import write_labels
from pocketvit.synthesis.procedural import Procedural
from pocketvit.training import Feed
from pocketvit.views import Views
from pocketvit.views.synthetic import hard_views

DRAWN = 1024  # pictures of a timed block


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
    drawn = {size: rate(size) for size in (32, 224)}
    print_table(("procedural pictures of", "pictures/s"), [(f"{size} px", value) for size, value in drawn.items()])
    return {
        "loop_over_plain": (plain + asked) / live,
        "stored_loop_over_plain": (plain + asked) / stored,
        "procedural_per_second_32": drawn[32],
        "procedural_per_second_224": drawn[224],
    }


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
    run(measure, __doc__, seconds=12.0)
