"""A distillation step from stored labels over a plain supervised step, and beside it a step with two live teachers.

    python benchmarks/stored_labels.py [--json]

The same network (about 1 M parameters, one token and head per teacher), views and optimizer; only what it learns from
differs: ground truth, the stored outputs of a convolution and an involution teacher, or these two running on each
batch. A step includes waiting for its batch, and so rendering, reading and gathering labels as far as they are felt.
"""

from __future__ import annotations

import argparse
import tempfile

from _steps import BATCH, BLOCK, VIEW, block, endless, noise, stepper, teachers
from _timing import alternate, print_table, run

from pocketvit.labels import write_labels
from pocketvit.views import Views


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print the rates and return the ratios."""
    source, live = noise(2048), teachers()
    with tempfile.TemporaryDirectory() as folder:
        store = write_labels(folder, source, Views(source, VIEW), live, 1, progress=False)
        steps = stepper(tokens=2)
        plainly = block(steps, endless(source))
        medians = alternate(
            {
                "plain supervised": plainly,
                "two teachers, stored": block(steps, endless(source, labels=store, teachers=store.teachers())),
            },
            arguments.seconds,
        )
        # Slow and far from any limit: one turn beside a plain block is enough.
        beside = alternate({"plain": plainly, "live": block(steps, endless(source, live=live))}, 0.0, least=1)
        medians["two teachers, live"] = medians["plain supervised"] * beside["live"] / beside["plain"]
    plain, stored, alive = medians.values()
    rows = [
        (name, 1000 * seconds / BLOCK, BLOCK * BATCH / seconds, seconds / plain) for name, seconds in medians.items()
    ]
    print(f"a step of {BATCH} images in {steps.config.precision}")
    print_table(("learning from", "ms per step", "images/s", "over plain"), rows)
    return {"stored_over_plain": stored / plain, "live_over_plain": alive / plain}


if __name__ == "__main__":
    run(measure, __doc__, seconds=12.0)
