"""What a training step costs with each method of distillation, over plain supervision.

    python benchmarks/methods.py [--json]

The student and the teacher of recipes/which_method.py: a ViT of 0.46 M parameters with a residual convolutional stem,
32-px images, Muon, and a CIFAR ResNet-20. Objectives on answers read labels that are in memory; those on features also
run the teacher, but for one, which has them from memory, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _timing import alternate, print_table, run

from pocketvit.config import LossConfig, TermConfig, TrainConfig
from pocketvit.labels import FullLabels, LayerLabels
from pocketvit.models import create_model, create_student
from pocketvit.objectives import OBJECTIVES
from pocketvit.objectives.terms import TERMS, FeatureTerms
from pocketvit.tasks import task_named
from pocketvit.teachers import Teacher, load_teacher
from pocketvit.training import Batch, Stepper
from pocketvit.training.features import LiveFeatures

BATCH, INPUT = 64, (32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
TASK = task_named("classification")


def step(teacher: Teacher, objective: str | None, term: str | None, *, stored: bool = False) -> Callable[[], object]:
    """Return what takes one step of a method: no objective is plain supervision."""
    student = create_student("pocket_xs", num_classes=10, image_size=32, stem="conv")
    loss = LossConfig(objective=objective or "zscore", terms=(TermConfig(term),) if term else ())
    terms = FeatureTerms(loss, student, 32, [teacher]) if term else None
    ema = 0.99 if terms is not None and terms.needs_average else 0.0
    config = TrainConfig(precision="fp32", ema=ema, optimizer="muon", learning_rate=5e-3)
    stepper = Stepper(student, INPUT, TASK.loss(loss), config, 1000, task=TASK, terms=terms)
    layers = terms.teacher_layers(0) if terms is not None else []
    look = LiveFeatures([teacher], [layers]) if layers else None
    classes = torch.arange(BATCH) % 10
    soft = (FullLabels(torch.randn(BATCH, 10).half()),) if objective or term else ()
    pixels = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    shape = (64, 8, 8)  # of the ResNet's last stage
    kept = LayerLabels(torch.randint(-127, 128, (BATCH, 64 * 8 * 8), dtype=torch.int8), torch.ones(BATCH))

    def take() -> None:
        batch = Batch(pixels, classes, classes, torch.ones(BATCH), soft, torch.arange(BATCH), BATCH)
        if stored:
            batch.features = ({layers[0]: kept.features.unflatten(1, shape)},)
        elif look is not None:
            batch.features = look(batch)[1]
        stepper.take([batch])

    return take


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print each method's step and return the ratios."""
    teacher = load_teacher(create_model("cifar_resnet20", num_classes=10), input_size=32, norm="imagenet")
    candidates = {"alone": step(teacher, None, None)}
    candidates |= {name: step(teacher, name, None) for name in OBJECTIVES}
    # A convolution network has no attention to take queries, keys and values from.
    candidates |= {f"zscore+{name}": step(teacher, None, name) for name in TERMS if name != "minilm"}
    candidates["zscore+fitnets_stored"] = step(teacher, None, "fitnets", stored=True)
    medians = alternate(candidates, arguments.seconds)
    plain = medians["alone"]
    rows = [(name, 1000 * seconds, BATCH / seconds, seconds / plain) for name, seconds in medians.items()]
    print_table(("method", "ms per step", "images/s", "over plain"), rows)
    return {f"{name}_over_plain": seconds / plain for name, seconds in medians.items() if name != "alone"}


if __name__ == "__main__":
    run(measure, __doc__, seconds=30.0)
