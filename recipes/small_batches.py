"""What does normalization cost where batches are small? Four of them at batches of 32 to 2, and fine-tuning at 2.

Shows   the test error of BatchNorm, GroupNorm, LayerNorm and InstanceNorm at 32, 16, 8, 4 and 2 images per batch,
        every run seeing the same number of images, three seeds; the learning rate is 0.1 x batch / 32 for every norm,
        and the last norm of every residual block starts at zero. Where a second set is named, also: pre-training on
        the first in batches of 32, then fine-tuning on the second in batches of 2, with BatchNorm as it is, BatchNorm
        frozen, or GroupNorm throughout. Pictures are seen at 16 pixels: more of them per hour, which is worth more to
        so short a training than their size.
Paper   Group Normalization (Wu & He 2018, arXiv 1803.08494), figure 5 and table 2, in the small.
Data    CIFAR-10, then BloodMNIST (28 px), as MedMNIST-layout .npz; any set of small pictures will do.
Cost    about 25 to 45 minutes per set on one processor core (no AVX-512), fine-tuning 5 more; --small: about 6 minutes.
Command pocketvit run recipes/small_batches.py --images data/cifar10.npz,blood_28.npz
        pocketvit run recipes/small_batches.py --images blood_28.npz
Result  recipes/small_batches.md
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pocketvit.config import LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.files import read_json, write_json, write_text
from pocketvit.metrics import paired_difference
from pocketvit.models import create_model
from pocketvit.models.checkpoint import read_weights
from pocketvit.models.renorm import replace_norm
from pocketvit.reporting.curves import curve_plot
from pocketvit.reporting.style import standalone_svg
from pocketvit.road.answering import network_answers, road_answers
from pocketvit.road.images import Road, open_road
from pocketvit.road.train import train_network
from pocketvit.sources.subset import Subset, balanced

log = logging.getLogger("pocketvit")

NORMS = {"batch": "BatchNorm", "group": "GroupNorm", "layer": "LayerNorm", "instance": "InstanceNorm"}
BATCHES = (32, 16, 8, 4, 2)
SEEDS = range(3)
# Validation error in % of ResNet-50 on ImageNet (table 2 of the paper): ours is the small counterpart.
PUBLISHED = {"BatchNorm": (23.6, 23.7, 24.8, 27.3, 34.7), "GroupNorm": (24.1, 24.2, 24.0, 24.2, 24.1)}
# How the pre-trained network goes on at 2 images per batch: name -> norm of pre-training, norm of fine-tuning.
TUNINGS = {
    "BatchNorm": ("batch", "batch"),
    "BatchNorm, then frozen": ("batch", "frozen"),
    "GroupNorm": ("group", "group"),
}


def config(small: bool = False, norm: str = "group", batch: int = 32) -> RunConfig:
    """One point of the curve; only norm, batch and learning rate change from point to point."""
    return RunConfig(
        network=NetworkConfig("cifar_resnet8", replace_norm=norm),
        view=ViewConfig(view_size=16, flip=0.5),
        loss=LossConfig(weight=0.0),
        train=TrainConfig(
            epochs=2,
            batch_size=batch,
            optimizer="sgd",
            learning_rate=0.1 * batch / 32,
            weight_decay=1e-4,
            warmup=0.05,
            clip=0.0,
            precision="fp32",
        ),
    )


def opened(images: str, folder: Path, small: bool) -> Road:
    """Return a set with a quarter of its training images, 8,000 at most, 500 validation and 2,000 test images."""
    road = open_road(images, config(small).view, folder.parent / "shared")
    road = road.reduced(min(len(road.dataset.train) // 4, 1000 if small else 8000))
    dataset = road.dataset
    some: dict[str, Any] = {
        split: Subset(source, balanced(source, most))
        for split, source, most in (("val", dataset.val, 500), ("test", dataset.test, 2000))
        if source is not None
    }
    return dataclasses.replace(road, dataset=dataclasses.replace(dataset, **some))


def errors(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """Test errors in percent, one per seed."""
    return [100 * (1 - record["accuracy"]) for record in records]


def spread(one: Sequence[float]) -> str:
    """Mean and deviation over the seeds."""
    return f"{np.mean(one):.1f} ± {np.std(one, ddof=1) if len(one) > 1 else 0.0:.1f}"


def minus(one: Sequence[float], other: Sequence[float]) -> str:
    """The difference of two errors in points, paired over the seeds."""
    difference = paired_difference(one, other)
    if difference.interval is None:
        return f"{difference.mean:+.1f} (no interval)"
    low, high = difference.interval
    return f"{difference.mean:+.1f} ({low:+.1f} to {high:+.1f}{'' if difference.seen else '; no difference seen'})"


def curve_table(found: Mapping[tuple[str, int], Sequence[float]]) -> str:
    """Return error +- deviation over the seeds, norm by batch, and GroupNorm's difference to BatchNorm."""
    lines = [["error, % (images per batch)", *map(str, BATCHES)], ["---"] * (len(BATCHES) + 1)]
    lines += [[name, *(spread(found[norm, batch]) for batch in BATCHES)] for norm, name in NORMS.items()]
    gaps = (minus(found["group", batch], found["batch", batch]) for batch in BATCHES)
    lines.append(["GroupNorm minus BatchNorm, points (95 % interval, paired)", *gaps])
    lines += [[f"{name}, published", *map(str, row)] for name, row in PUBLISHED.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fine_tuned(road: Road, weights: Path, classes: int, norms: tuple[str, str], seed: int, place: Path) -> float:
    """Fine-tune a network of the curve, of which ``weights`` is a checkpoint, at 2 images per batch; its test error."""
    result = place / "result.json"
    if result.is_file():
        return read_json(result)["error"]
    before, after = norms
    state = {name[6:]: one for name, one in read_weights(weights).items() if name.startswith("model.")}
    torch.manual_seed(seed)
    model: nn.Module = replace_norm(create_model("cifar_resnet8", num_classes=classes), before)  # type: ignore[arg-type]
    model.load_state_dict(state)
    if after != before:
        model = replace_norm(model, after)  # type: ignore[arg-type]
    model.reset_classifier(len(road.dataset.classes))  # type: ignore[operator]
    base = config(batch=2)
    training = dataclasses.replace(base.train, seed=seed)
    unwatched = dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, val=None))
    base = dataclasses.replace(base, train=training)
    model = train_network(unwatched, base, place, model=model, input=road.input)
    source = road.scored
    assert source is not None
    answer = network_answers(model, road.input, road.task)
    guessed = road_answers({"": answer}, road, source)[""].argmax(1)
    error = 100 * float((guessed != source.targets).mean())
    write_json(result, {"error": error})
    return error


def tuning_table(road: Road, first: Road, folder: Path) -> str:
    """Fine-tune every pre-trained network on a quarter of the second set's images; return the table."""
    road = road.reduced(len(road.dataset.train) // 4)
    found: dict[str, list[float]] = {name: [] for name in TUNINGS}
    for seed in SEEDS:
        for name, norms in TUNINGS.items():
            start = folder / f"{first.dataset.name}-{norms[0]}-32" / f"seed-{seed}" / "checkpoints" / "last.safetensors"
            place = folder / f"{road.dataset.name}-from-{first.dataset.name}-{'-'.join(norms)}" / f"seed-{seed}"
            found[name].append(fine_tuned(road, start, len(first.dataset.classes), norms, seed, place))
            log.info("fine-tuned, %s, seed %d: %.2f %% error", name, seed, found[name][-1])
    lines = [
        f"Pre-trained on {first.dataset.name} in batches of 32, fine-tuned in batches of 2 on "
        f"{len(road.dataset.train):,} images of {road.dataset.name} ({len(road.scored or ()):,} test images).",
        "",
        "| norm | error, % | minus BatchNorm, points (95 % interval, paired) |",
        "| --- | --- | --- |",
    ]
    for name, one in found.items():
        words = "-" if name == "BatchNorm" else minus(one, found["BatchNorm"])
        lines.append(f"| {name} | {spread(one)} | {words} |")
    return "\n".join(lines)


def recipe(images: str | None, folder: Path, small: bool) -> str:
    """Train 4 norms x 5 batches x 3 seeds on the first set; with a second one fine-tune 3 ways x 3 seeds on it."""
    name, _, second = (images or "data/cifar10.npz").partition(",")
    road = opened(name, folder, small)
    data = road.dataset.name
    points = [(norm, batch) for batch in BATCHES for norm in NORMS]
    arms = [
        Arm(f"{data}-{norm}-{batch}", f"{NORMS[norm]}, {batch}", config(small, norm, batch)) for norm, batch in points
    ]
    records = run_arms(road, arms, SEEDS, folder)
    found = {point: errors(records[arm.key]) for point, arm in zip(points, arms, strict=True)}
    panels = {
        f"test error, {data}": {NORMS[norm]: [found[norm, batch] for batch in BATCHES] for norm in NORMS},
        "published (ResNet-50, ImageNet)": {key: [[one] for one in row] for key, row in PUBLISHED.items()},
    }
    drawing = curve_plot(panels, BATCHES, "images per batch")
    title = f"Test error of normalizations over the batch size, {data}"
    write_text(folder / f"{data}.svg", standalone_svg(drawing, "small-batches", title))
    parts = [curve_table(found)]
    if second:
        parts.append(tuning_table(opened(second, folder, small), road, folder))
    # The report compares every point with GroupNorm at 32, which a reader of other papers would start from.
    full = report_arms(road, arms, records, folder, against=f"{data}-group-32", title=__doc__ or "", notes=parts)
    parts.append(full.split("\n\n", 1)[1].split("\n", 1)[0])
    text = "\n\n".join(parts)
    write_text(folder / f"{data}.md", text + "\n")
    return text
