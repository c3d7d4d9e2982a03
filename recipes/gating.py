"""Whom to believe: teachers weighed equally, by confidence, by agreement, per class, or by a gate fitted once.

Shows   the same student of 400 labels with the convolution and the involution teacher of light_teachers.py, and a third
        one that is wrong and confident (trained for an epoch on 6,000 images, its logits four times as large), weighed
        in five ways.
Paper   CA-MKD (Zhang et al., ICASSP 2022) weighs by confidence; `pocketvit.objectives.gating` names the others. Beware
        the teacher that is wrong on an image and confident.
Data    CIFAR-10 as a MedMNIST-layout .npz or as torchvision lays it out.
Cost    after light_teachers.py, whose teachers it reuses: about an hour of one processor core; --small: less than that
        recipe's.
Command pocketvit run recipes/gating.py --images data/cifar10.npz
Result  recipes/gating.md
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import light_teachers as base
import numpy as np
import torch

from pocketvit.config import RunConfig, TrainConfig
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.files import write_text
from pocketvit.labels import FullLabels
from pocketvit.objectives import teacher_weights
from pocketvit.road.answering import probabilities_of
from pocketvit.road.images import Road
from pocketvit.road.label import label_road
from pocketvit.road.light import train_teacher
from pocketvit.road.train import teacher_gate
from pocketvit.teachers import Teacher, load_teacher
from pocketvit.training import Batch

WAYS = {
    "fixed": "equally",
    "confidence": "by confidence",
    "agreement": "by agreement",
    "per_class": "by accuracy per class",
    "learned": "by the learned gate",
}


def wrong_and_confident(road: Road, small: bool) -> Teacher:
    """A convolution network that has hardly learned, and is four times as sure of itself as it should be."""
    teaching = TrainConfig(epochs=1, batch_size=128, warmup=0.2, precision="fp32", seed=7)
    teacher = train_teacher(road.reduced(1000 if small else 6000), "cifar_resnet20", teaching, input_size=32)
    loud = copy.deepcopy(teacher.module)
    for parameter in loud.get_submodule("linear").parameters():
        parameter.data.mul_(4.0)
    result = load_teacher(loud, input_size=32, norm=(teacher.mean, teacher.std), classes=teacher.classes)
    result.name = "loud"
    return result


def weighed(config: RunConfig, way: Any) -> RunConfig:
    """The same training with the teachers weighed in another way."""
    return dataclasses.replace(config, loss=dataclasses.replace(config.loss, teacher_weights=way))


def mixture_table(road: Road, config: RunConfig, teachers: list[Teacher]) -> str:
    """Return what the teachers' weighted mixture itself says of the test images, no student between: a Markdown table.

    The same weights that a student's loss would use, on plain views; "per_class" is left out, because it looks the
    image's own class up, which is what is asked here.
    """
    source = road.scored
    assert source is not None
    probabilities = [probabilities_of(teacher, road, source) for teacher in teachers]
    soft = [FullLabels(torch.from_numpy(np.log(part.clip(1e-12)))) for part in probabilities]
    targets = torch.from_numpy(np.asarray(source.targets))
    ones = torch.ones(len(source))
    batch = Batch(torch.empty(len(source), 0), targets, targets, ones, tuple(soft), torch.arange(len(source)))
    lines = ["| teachers weighed | accuracy of the mixture, % | negative log-likelihood |", "|---|---|---|"]
    for way, name in WAYS.items():
        if way == "per_class":
            continue
        gate = teacher_gate(teachers, road, weighed(config, way), stored=True)
        weights = teacher_weights(way, soft, batch, gate).numpy()
        mixed = sum(weights[:, i, None] * part for i, part in enumerate(probabilities))
        right = (mixed.argmax(1) == targets.numpy()).mean()
        loss = -np.log(mixed[np.arange(len(mixed)), targets.numpy()].clip(1e-12)).mean()
        lines.append(f"| {name} | {100 * right:.2f} | {loss:.3f} |")
    return "\n".join(lines)


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(WAYS), seeds: int = 1) -> str:
    """Label all images with the three teachers, train a student for each way of weighing them."""
    kind = base.ARMS["few-conv-inv"]
    road = base.opened(images or "data/cifar10.npz", folder, small)
    config = base.config(small, kind, road.view)
    teachers = [*base.teachers_of(road, small, kind.teachers).values(), wrong_and_confident(road, small)]
    store = label_road(road, teachers, config.labels)
    arms = [Arm(way, WAYS[way], weighed(config, way), tuple(teachers), store) for way in only]
    mixtures = mixture_table(road, config, teachers)
    write_text(folder / "mixtures.md", mixtures + "\n")
    found = run_arms(base.seen(road, kind), arms, range(seeds), folder)
    table = report_arms(road, arms, found, folder, against=only[0], teachers=teachers, title=__doc__)
    return f"{mixtures}\n\n{table}"
