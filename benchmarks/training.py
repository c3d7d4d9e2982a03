"""Images per second in training: ours over timm's train script, and over a plain loop written by hand with torchvision.

    python benchmarks/training.py [--json] [--images 1024]

The same student (pocket_s on the convolutional stem, 32 px), batch, optimizer (AdamW), precision and augmentation
(padded crop, flip, RandAugment, erasing) everywhere; a turn is one epoch, from opening to exhaustion, so that nobody
loads images while another one trains.

    ours    Feed and Stepper as `distill` uses them: views rendered beside the step, labels replayed from a store
    timm    its loader (two workers, prefetcher) and the lines of its train.py for a step, of one class per image
    plain   torchvision's transforms in a DataLoader with two workers; forward, backward, step

Only ours learns from a teacher, from stored labels: the others' step has less to do.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from _steps import noise
from _timing import alternate, print_table, run
from PIL import Image
from timm.data import create_loader
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, dispatch_clip_grad
from torch import nn
from torch.nn import functional as F
from torchvision import transforms

from pocketvit.config import LossConfig, TrainConfig, ViewConfig
from pocketvit.labels import LabelStore, write_labels
from pocketvit.models import create_student
from pocketvit.sources import Source
from pocketvit.tasks import task_named
from pocketvit.teachers import load_teacher
from pocketvit.training import Feed, Stepper
from pocketvit.views import Views

BATCH, SIDE, WORKERS = 64, 32, 2
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
VIEW = ViewConfig(view_size=SIDE, crop="padded", flip=0.5, randaugment_ops=2, randaugment_magnitude=7.0, erase=0.25)
RATE, DECAY = 1e-3, 0.05


class Pictures(torch.utils.data.Dataset):
    """A source's images as torchvision's CIFAR-10 gives them."""

    def __init__(self, source: Source, transform: Any = None) -> None:
        self.images = [source[i][0] for i in range(len(source))]
        self.targets, self.transform = source.targets.tolist(), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        image = Image.fromarray(self.images[i])
        return (image if self.transform is None else self.transform(image)), self.targets[i]


def student() -> nn.Module:
    """The network that everybody trains."""
    torch.manual_seed(0)
    return create_student("pocket_s", num_classes=10, image_size=SIDE, stem="conv").train()


def ours(source: Source, store: LabelStore) -> Callable[[], None]:
    """Return what trains an epoch as `distill` does."""
    task = task_named("classification")
    config = TrainConfig(batch_size=BATCH, optimizer="adamw", learning_rate=RATE, precision="fp32")
    model = student().to(memory_format=torch.channels_last)
    steps = Stepper(model, (SIDE, MEAN, STD), task.loss(LossConfig()), config, 1_000_000, task=task)
    feed = Feed(Views(source, VIEW), BATCH, labels=store, teachers=store.teachers())

    def epoch() -> None:
        for batch in feed.epoch(0):
            steps.take([batch])
        feed.close()

    return epoch


def timms(source: Source) -> Callable[[], None]:
    """Return what trains an epoch as timm's train.py does (of 1.0.31, without what only logs)."""
    model = student()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=DECAY)
    loss_fn, losses = nn.CrossEntropyLoss(), AverageMeter()
    dataset: Any = Pictures(source)  # timm's loader takes any, and says its own
    loader = create_loader(
        dataset, (3, SIDE, SIDE), BATCH, is_training=True, auto_augment="rand-m7-n2", re_prob=0.25, mean=MEAN, std=STD,
        num_workers=WORKERS, device=torch.device("cpu"),
    )  # fmt: skip
    # Its random resized crop costs more than the padded one of the others.
    first, *rest = dataset.transform.transforms
    dataset.transform = transforms.Compose([transforms.RandomCrop(SIDE, padding=SIDE // 8), *rest])
    assert "Resized" in type(first).__name__

    def epoch() -> None:
        for images, target in loader:
            with contextlib.nullcontext():
                loss = loss_fn(model(images), target)
            loss.backward()
            dispatch_clip_grad(model.parameters(), 1.0)
            optimizer.step()
            losses.update(loss.item(), images.size(0))
            optimizer.zero_grad()

    return epoch


def plain(source: Source) -> Callable[[], None]:
    """Return what trains an epoch as one writes it in five minutes."""
    model = student()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(SIDE, padding=SIDE // 8),
            transforms.RandomHorizontalFlip(),
            transforms.RandAugment(2, 7),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
            transforms.RandomErasing(0.25),
        ]
    )
    loader = torch.utils.data.DataLoader(
        Pictures(source, transform), BATCH, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True
    )

    def epoch() -> None:
        for images, target in loader:
            loss = F.cross_entropy(model(images), target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return epoch


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print the rates and return the ratios."""
    source = noise(arguments.images)
    teacher = load_teacher(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 10)), input_size=SIDE, norm="half")
    with tempfile.TemporaryDirectory() as folder:
        store = write_labels(folder, source, Views(source, VIEW), [teacher], 1, progress=False)
        medians = alternate(
            {"ours, stored labels": ours(source, store), "timm": timms(source), "plain loop": plain(source)},
            arguments.seconds,
        )
    rows = [(name, len(source) / seconds) for name, seconds in medians.items()]
    print_table(("training", "images/s"), rows)
    mine, timm, handmade = medians.values()
    return {"rate_over_timm": timm / mine, "rate_over_plain_loop": handmade / mine}


if __name__ == "__main__":
    run(measure, __doc__, seconds=60.0, images=1024)
