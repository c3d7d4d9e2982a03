"""The share of a training step that is spent waiting for views: (step - step on a cached batch) / step.

    python benchmarks/waiting.py [--json]

The CIFAR recipe: a student of about 1 M parameters at 32 px on padded crops, flips, RandAugment and erasing.
"""

from __future__ import annotations

import argparse
import itertools

from _steps import BATCH, BLOCK, block, endless, noise, stepper
from _timing import alternate, print_table, run


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print the rates and return the share."""
    source, steps = noise(4096), stepper(tokens=0)
    fed = endless(source)
    cached = itertools.repeat(next(fed))
    medians = alternate(
        {"views as they come": block(steps, fed), "one cached batch": block(steps, cached)}, arguments.seconds
    )
    step, bare = medians.values()
    rows = [(name, 1000 * seconds / BLOCK, BLOCK * BATCH / seconds) for name, seconds in medians.items()]
    print(f"a step of {BATCH} images in {steps.config.precision}")
    print_table(("batches", "ms a step", "images/s"), rows)
    share = (step - bare) / step
    print(f"waiting: {share:.1%} of a step")
    return {"waiting_share": share}


if __name__ == "__main__":
    run(measure, __doc__, seconds=35.0)
