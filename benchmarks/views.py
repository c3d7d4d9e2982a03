"""Rendering augmented views, over torchvision's ``transforms.v2`` on PIL images in two loader workers.

    python benchmarks/views.py [--json]

RandAugment (two operations, magnitude 9 of 10), padded crop, flip and erasing, on both sides; decoded pictures at the
start, uint8 batches at the end. torchvision gets what its users have: PIL images in a dataset, a ``DataLoader`` with
two worker processes (kept alive between epochs), its default nearest-pixel RandAugment. Ours renders in this process
with as many threads, whatever OMP_NUM_THREADS says. Last, the share of a CIFAR training step that is spent waiting for
views: (step - step on a cached batch) / step, with a student of about 1 M parameters at 32 px.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import torch
from _steps import BATCH, BLOCK, block, endless, noise, stepper
from _timing import alternate, print_table, run
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from pocketvit.config import ViewConfig
from pocketvit.views import Views

WORKERS = 2


class _Source:
    """Smooth random pictures of one size, in memory."""

    def __init__(self, count: int, size: int) -> None:
        random = np.random.default_rng(0)
        coarse = random.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        self.ids = random.integers(0, 2**63, count, dtype=np.uint64)
        self.size = (size, size)
        self.images = np.stack(
            [np.asarray(Image.fromarray(x).resize((size, size), Image.Resampling.BICUBIC)) for x in coarse]
        )

    def rgb(self, positions: np.ndarray) -> np.ndarray:
        return self.images[positions]


class _Torchvision(Dataset):
    """The same pictures as PIL images, through torchvision."""

    def __init__(self, images: np.ndarray, repeats: int, padding: int) -> None:
        self.images = [Image.fromarray(image) for image in images]
        self.length = len(images) * repeats
        self.transform = v2.Compose(
            [
                v2.RandomCrop(images.shape[1], padding),
                v2.RandomHorizontalFlip(),
                v2.RandAugment(2, 27),  # bin 27 of 0..30 is magnitude 9 of 10
                v2.PILToTensor(),
                v2.RandomErasing(0.25),
            ]
        )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(self.images[index % len(self.images)])


def measure_size(size: int, count: int, repeats: int, batch: int, seconds: float) -> dict[str, float]:
    """Return images per second of both at one size."""
    source = _Source(count, size)
    padding = size // 8
    config = ViewConfig(view_size=size, crop="padded", crop_padding=padding, flip=0.5, randaugment_ops=2, erase=0.25)
    views = Views(source, config)
    total = count * repeats
    loader = DataLoader(
        _Torchvision(source.images, repeats, padding), batch, num_workers=WORKERS, persistent_workers=True
    )
    group = min(1024, count)
    state = {"view": 0}

    def ours() -> None:
        for _ in range(repeats):
            state["view"] += 1
            for start in range(0, count, group):
                views.render(np.arange(start, min(count, start + group)), state["view"])

    def theirs() -> None:
        for _ in loader:
            pass

    medians = alternate({"pocketvit": ours, "torchvision": theirs}, seconds)
    return {name: total / seconds for name, seconds in medians.items()}


def measure_waiting() -> float:
    """Print the rates of training steps and return the share of one that is spent waiting for views."""
    source, steps = noise(4096), stepper(tokens=0)
    fed = endless(source)

    cached = itertools.repeat(next(fed))
    medians = alternate({"views as they come": block(steps, fed), "one cached batch": block(steps, cached)}, seconds=0)
    step, bare = medians.values()
    print(f"a step of {BATCH} images in {steps.config.precision}")
    rows = [(name, 1000 * seconds / BLOCK, BLOCK * BATCH / seconds) for name, seconds in medians.items()]
    print_table(("batches", "ms per step", "images/s"), rows)
    share = (step - bare) / step
    print(f"waiting: {share:.1%} of a step")
    return share


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print the rates and return the ratios and the share."""
    small = measure_size(32, 4096, 1, 128, arguments.seconds)
    large = measure_size(224, 64, 16, 32, arguments.seconds)
    print_table(
        ["views", "pocketvit images/s", "torchvision images/s", "ratio"],
        [
            [f"{size} px", rates["pocketvit"], rates["torchvision"], rates["pocketvit"] / rates["torchvision"]]
            for size, rates in ((32, small), (224, large))
        ],
    )
    return {
        "views_over_torchvision_32": small["pocketvit"] / small["torchvision"],
        "views_over_torchvision_224": large["pocketvit"] / large["torchvision"],
        "waiting_share": measure_waiting(),
    }


if __name__ == "__main__":
    torch.set_num_threads(WORKERS)
    run(measure, __doc__, seconds=3.5)
