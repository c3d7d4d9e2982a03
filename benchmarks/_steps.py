"""Training steps of the CIFAR recipe at their real shapes, on noise: shared by the benchmarks of a step."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pocketvit.config import LossConfig, TrainConfig, ViewConfig
from pocketvit.models import create_model, create_student
from pocketvit.sources import Source, open_images
from pocketvit.tasks import task_named
from pocketvit.teachers import Teacher, load_teacher
from pocketvit.training import Batch, Feed, FromPixels, Stepper
from pocketvit.training.precision import choose_precision
from pocketvit.views import Views

BATCH, BLOCK = 128, 8  # images of a step, steps of a timed block: as many as are rendered at once
VIEW = ViewConfig(view_size=32, crop="padded", flip=0.5, randaugment_ops=2, randaugment_magnitude=7.0, erase=0.25)
INPUT = (32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
TASK = task_named("classification")


def noise(images: int) -> Source:
    """Random pictures of 32 x 32 pixels in ten classes."""
    pixels = torch.randint(0, 256, (images, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return open_images((pixels.numpy(), (torch.arange(images) % 10).numpy()), val_fraction=0, progress=False).train


def settled(network: nn.Module) -> nn.Module:
    """Give a network the running statistics of a trained one: without, its logits leave fp16."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of all batches
    with torch.no_grad():
        for _ in range(4):
            network.train()(torch.randn(32, 3, 32, 32))
    return network.eval()


def teachers() -> list[Teacher]:
    """The recipe's convolution and involution networks; what they know does not matter here."""
    made = []
    for name in ("cifar_resnet20", "cifar_rednet20"):
        teacher = load_teacher(settled(create_model(name, num_classes=10)), input_size=32, norm="imagenet")
        teacher.name = name
        made.append(teacher)
    return made


def stepper(tokens: int) -> Stepper:
    """A student of about 1 M parameters and its optimizer, in the precision that is faster here."""
    student = create_student("pocket_s", num_classes=10, image_size=32, tokens=tokens)
    student.to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        precision = choose_precision(FromPixels(student, INPUT), BATCH, 32, Path(folder), torch.device("cpu"))
    config = TrainConfig(batch_size=BATCH, precision=precision)  # type: ignore[arg-type]
    return Stepper(student, INPUT, TASK.loss(LossConfig(objective="zscore")), config, 1000, task=TASK)


def endless(source: Source, **options: Any) -> Iterator[Batch]:
    """Batches of one epoch after another, as training gets them."""
    feed = Feed(Views(source, VIEW), BATCH, **options)
    epoch = 0
    while True:
        yield from feed.epoch(epoch)
        epoch += 1


def block(steps: Stepper, batches: Iterator[Batch]) -> Callable[[], None]:
    """Return what takes `BLOCK` steps, waiting for their batches; the first call takes one, which warms up enough."""
    lengths = itertools.chain([1], itertools.repeat(BLOCK))

    def take() -> None:
        for _ in range(next(lengths)):
            steps.take([next(batches)])

    return take
