"""Photographs of twelve megapixels: memory, the first and the second epoch, and the second start.

    python benchmarks/photos.py [--json] [--images 200]

Photographs are drawn (smooth shapes under grain, JPEG quality 92, a third of them turned by EXIF). Four figures:

* ``peak_gb``: the most memory of a process that labels them and trains one epoch (views of 224, batch 128), libraries
  and all, from `getrusage`.
* ``views_over_torchvision_photos``: images per second of a first epoch from files, packing included, over what
  torchvision's users write: JPEG ``draft``, ``transforms.v2`` (random resized crop, flip), a ``DataLoader`` with two
  worker processes.
* ``second_epoch_over_first``: time of the next epoch, from the pack, over that of the first.
* ``recheck_over_first``: time of a second start over many small files, over that of the first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import print_table, run
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from pocketvit.config import ViewConfig
from pocketvit.sources import open_images, pack_dataset
from pocketvit.views import Views

SIZE, BATCH = 224, 128
SIDES = (3000, 4000)  # of a photograph, in pixels
FILES = 10_000  # small ones, of the second start
TURNS = 3
VIEW = ViewConfig(view_size=SIZE, crop="random_resized", flip=0.5)
_LABEL_AND_TRAIN = """
import resource, sys, timm, torch, pocketvit
torch.manual_seed(0)
torch.set_num_threads(2)
teacher = timm.create_model("mobilenetv3_small_050", num_classes=2)
teacher.pretrained_cfg.update(mean=(0.5,) * 3, std=(0.5,) * 3)
pocketvit.distill(sys.argv[1], teacher=teacher, epochs=1, views=1, size={size}, batch_size={batch}, baseline=False,
                  out=sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def draw(folder: Path, count: int) -> None:
    """Write photographs into two class folders."""
    random = np.random.default_rng(0)
    height, width = SIDES
    grain = random.normal(0, 6, (height + 200, width + 200, 1)).astype(np.float32)
    for number in range(count):
        place = folder / ("sea", "land")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        top, left = random.integers(0, 200, 2)
        pixels = np.clip(smooth + grain[top : top + height, left : left + width], 0, 255).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 3 == 0 else 1
        Image.fromarray(pixels).save(place / f"{number:04}.jpg", quality=92, exif=exif)


def draw_small(folder: Path, count: int) -> None:
    """Write small photographs into ten class folders."""
    random = np.random.default_rng(1)
    for number in range(count):
        place = folder / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        path = place / f"{number:05}.jpg"
        coarse.resize((160, 160), Image.Resampling.BICUBIC).save(path)
        os.utime(path, (time.time() - 3600,) * 2)  # what was written just now is not trusted by its time


class Drafted(Dataset):
    """What torchvision's users write who know of ``draft``."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.transform = v2.Compose(
            [v2.RandomResizedCrop(SIZE, scale=VIEW.crop_scale, antialias=True), v2.RandomHorizontalFlip(), v2.ToImage()]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> torch.Tensor:
        with Image.open(self.paths[position]) as image:
            image.draft("RGB", (2 * SIZE, 2 * SIZE))
            return self.transform(ImageOps.exif_transpose(image).convert("RGB"))


def torchvision_epoch(paths: list[Path]) -> float:
    """Return the seconds of one pass."""
    start = time.perf_counter()
    for _ in DataLoader(Drafted(paths), batch_size=BATCH, num_workers=2):
        pass
    return time.perf_counter() - start


def epoch(source: Any, view: int) -> None:
    """Render every image once."""
    views = Views(source, VIEW)
    for start in range(0, len(source), BATCH):
        views.render(np.arange(start, min(start + BATCH, len(source))), view)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as place:
        photos, small = Path(place, "photos"), Path(place, "small")
        draw(photos, arguments.images)
        dataset = open_images(photos, val_fraction=0, progress=False)
        paths = [photos / name for name in dataset.train.names]
        firsts, seconds, theirs = [], [], []
        for turn in range(TURNS):
            theirs.append(torchvision_epoch(paths))
            start = time.perf_counter()
            packed = pack_dataset(dataset, Path(place, f"pack{turn}"), progress=False)
            epoch(packed.train, 0)
            middle = time.perf_counter()
            epoch(packed.train, 1)
            firsts.append(middle - start)
            seconds.append(time.perf_counter() - middle)
        first, second, other = (float(np.median(times)) for times in (firsts, seconds, theirs))
        draw_small(small, FILES)
        starts = []
        for _ in range(2):
            start = time.perf_counter()
            open_images(small, progress=False, memory=Path(place, "checked"))
            starts.append(time.perf_counter() - start)
        program = _LABEL_AND_TRAIN.format(size=SIZE, batch=BATCH)
        command = [sys.executable, "-c", program, str(photos), str(Path(place, "runs"))]
        peak = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])
    print_table(
        ("what", "seconds"),
        [
            ("first epoch, packing included", first),
            ("second epoch", second),
            ("torchvision, two workers", other),
            (f"first start over {FILES:,} small files", starts[0]),
            ("second start", starts[1]),
        ],
    )
    print(f"labelling and one epoch of {arguments.images} photographs: {peak:.2f} GB at most")
    return {
        "peak_gb": peak,
        "views_over_torchvision_photos": other / first,
        "second_epoch_over_first": second / first,
        "recheck_over_first": starts[1] / starts[0],
    }


if __name__ == "__main__":
    run(measure, __doc__, images=200)
