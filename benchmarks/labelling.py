"""Images per second of `label` over the bare forward pass of the teacher, and of teachers over networks as made.

    python benchmarks/labelling.py [--json]

Of a CIFAR ResNet-56 at 32 px, `label` renders augmented views (padded crop, flip, RandAugment, erasing), runs the
teacher and writes the shards; the bare forward is the same network on batches of the same size that are ready as
normalized fp32 tensors. Teachers are kept in channels-last, whatever they were made in.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
from functools import partial
from pathlib import Path

import torch
from _steps import settled
from _timing import alternate, print_table, run

from pocketvit.config import ViewConfig
from pocketvit.labels import write_labels
from pocketvit.models import create_model
from pocketvit.sources import open_images
from pocketvit.teachers import load_teacher
from pocketvit.views import Views
from pocketvit.views.resize import to_input


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print the rates and return the ratio."""
    images, batch = int(arguments.images), 256
    pixels = torch.randint(0, 256, (images, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(images) % 10
    dataset = open_images((pixels.numpy(), targets.numpy()), val_fraction=0, progress=False)
    config = ViewConfig(view_size=32, crop="padded", flip=0.5, randaugment_ops=2, erase=0.25)
    teacher = load_teacher(settled(create_model("cifar_resnet56", num_classes=10)), input_size=32, norm="imagenet")
    source = dataset.train
    augmented, plain = Views(source, config), Views(source, config.plain())
    views = pixels.permute(0, 3, 1, 2).contiguous()  # channels first, as the views that `label` shows the teacher
    ready = [to_input(part, 32, teacher.mean, teacher.std) for part in views.split(batch)]

    def forward() -> None:
        with torch.no_grad():
            for batch_pixels in ready:
                teacher.module(batch_pixels)

    def label(views: Views) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_labels(Path(folder), source, views, [teacher], 1, batch_size=batch, progress=False)

    def render() -> None:
        augmented.render(augmented.order(0), 0)

    medians = alternate(
        {
            "bare forward": forward,
            "label, augmented views": lambda: label(augmented),
            "label, plain views": lambda: label(plain),
            "rendering alone": render,
        },
        arguments.seconds,
    )
    rates = {name: len(source) / seconds for name, seconds in medians.items()}
    base = rates["bare forward"]
    print_table(["", "images/s", "over the forward"], [[name, rate, rate / base] for name, rate in rates.items()])
    return {"label_over_forward": rates["label, augmented views"] / base} | formats(arguments.seconds)


def formats(seconds: float) -> dict[str, float]:
    """Time teachers as `Teacher` keeps them, in channels-last, and as they were made; print and return the ratios."""
    ratios, rows = {}, []
    for name, side, batch in (("cifar_resnet20", 32, 256), ("cifar_rednet11", 32, 256), ("mobilenetv2_100", 224, 16)):
        teacher = load_teacher(settled(create_model(name, num_classes=10)), input_size=side, norm="imagenet")
        plain = copy.deepcopy(teacher)
        plain.module.to(memory_format=torch.contiguous_format)
        pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
        medians = alternate(
            {"ours": partial(teacher.logits, pixels), "plain": partial(plain.logits, pixels)}, seconds / 3
        )
        ratios[name] = medians["plain"] / medians["ours"]
        rows.append([f"{name}, {side} px", batch / medians["ours"], ratios[name]])
    print_table(["teacher", "images/s", "over contiguous"], rows)
    return {"teacher_over_contiguous": math.prod(ratios.values()) ** (1 / len(ratios))}


if __name__ == "__main__":
    run(measure, __doc__, seconds=15.0, images=1024)
