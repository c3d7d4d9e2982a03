"""What is chosen where the user chose nothing. Every choice is printed and stands in the run's config.yaml.

Choices follow from the settings, the images and the networks' multiply-adds, never from a stopwatch, so that the same
command decides alike on any machine. (`hours` is the exception: its rate is measured once, and the epochs that come of
it are written down.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from ..config import LabelConfig, LossConfig, NetworkConfig, RunConfig, Stem, TermConfig, TrainConfig, ViewConfig
from ..errors import PocketError
from ..labels.record import choose_k
from ..models import LADDER
from ..models.names import is_pretrained
from ..models.norms import ENOUGH_IMAGES
from ..objectives.terms import kind_of
from ..settings import Compare, Distill, Settings, Train, listed
from ..settings.groups import Architecture, Views
from ..settings.verbs import Distilling
from ..sources import Dataset, Source
from ..sources.subset import few_labelled
from ..sources.targets import class_counts, labelled
from ..sources.tiles import independent
from ..synthesis.card import require_many
from ..tasks import Task, task_named
from ..teachers import Teacher
from .matched import with_usual_match
from .smaller import SMALL, SMALLER_FIRST, progressive_for
from .starts import NONE, with_usual_start
from .stems import with_stem, with_usual_stem
from .viewing import usual_aspect, view_config, view_size

# What a student sees by default: minutes to half an hour on two processor cores, by its size and that of the images.
IMAGE_BUDGET = 250_000  # of 32 px; fewer of larger ones
MOST_EPOCHS = 200
VIEWS = 10
USUAL_STUDENT = "pocket_s"
WORN, HARD = 4, 1 / 3  # times that each of two stored views at most is seen, from which so many epochs are the labels'
GATED = 100  # labelled validation images from which a gate is fitted to several teachers
ENOUGH = 0.5  # of the images that are seen unasked: in less time a student is smaller, and less is asked of it
LONG = 40  # epochs from which a student gains by more than light augmentation (recipes/biomedical.md)

L = TypeVar("L", bound=Distilling | Train)
V = TypeVar("V", bound=Views)
D = TypeVar("D", bound=Distilling)


def images_for(side: int) -> float:
    """Images that a student sees by default: `IMAGE_BUDGET` of 32 px, fewer of larger ones, which cost more each."""
    return IMAGE_BUDGET * min(1.0, 32 / side)


def epochs_for(count: int, side: int, share: float = 1.0, least: int = 0) -> int:
    """Epochs over ``count`` training images of ``side`` pixels, from 5 to `MOST_EPOCHS`.

    Args:
        count: Training images.
        side: Of the views in pixels.
        share: Of the images that a student sees, by the task.
        least: Images that are seen at any rate.
    """
    return max(5, min(MOST_EPOCHS, math.ceil(max(share * images_for(side), least) / max(1, count))))


def batch_size_for(count: int, most: int = 128) -> int:
    """A power of two up to ``most`` that leaves eight steps per epoch where it can, with enough images for BatchNorm.

    On 96 blood cells 200 epochs in batches of 8 and of 16 taught as much (71.9 and 72.2 % of 1,200 test images).
    """
    least = ENOUGH_IMAGES if count >= ENOUGH_IMAGES else ENOUGH_IMAGES // 2
    return max(least, min(most, 2 ** int(math.log2(max(1, count / 8)))))


def usual_batch(count: int, task: Task, optimizer: str = "muon") -> int:
    """Images of a step where nothing is asked for."""
    return batch_size_for(count, min(task.batch, 64 if optimizer == "muon" else 128))


def learning_rate_for(optimizer: str, batch: int, *, pretrained: bool) -> float:
    """Return the peak rate: by the square root of the batch, gentle where the weights have learned already."""
    if pretrained:
        return 3e-4 * math.sqrt(batch / 64)
    if optimizer == "muon":
        return 5e-3 * math.sqrt(batch / 64)
    return 1e-3 * math.sqrt(batch / 128)


def labels_of(settings: Settings, dataset: Dataset) -> Source:
    """Return the training images with the labels that a student sees."""
    few = getattr(settings, "few_labels", 0)
    return few_labelled(dataset.train, few) if few else dataset.train


def class_count(dataset: Dataset, teachers: Sequence[Teacher]) -> int:
    """Return how many classes will be learned: those of the images, or else of the teacher that knows most."""
    return len(dataset.classes) or max((teacher.num_outputs for teacher in teachers), default=0)


def class_weights(source: Source, balance: str) -> tuple[float, ...]:
    """Return N / (C n_c) for each class of n_c of the N labelled images, where ``balance`` is "weights"; else ().

    scikit-learn's "balanced" heuristic (King & Zeng 2001): the weights' mean over the images is 1.
    """
    if balance != "weights":
        return ()
    counts = class_counts(source.targets, len(source.classes))
    return tuple(float(counts.sum() / (len(counts) * max(count, 1))) for count in counts)


def decide_training(settings: L, dataset: Dataset, *, name: str, side: int | None = None) -> tuple[L, TrainConfig]:
    """Return the settings with epochs, batch, optimizer and rate decided, and the optimization they come down to.

    Args:
        settings: Of a verb that trains.
        dataset: Its training images decide epochs and batch.
        name: Of the network: one with weights of its own is trained gently.
        side: Of the views.
    """
    count = min(getattr(settings, "images_limit", None) or len(dataset.train), len(dataset.train))
    pretrained = is_pretrained(name) or getattr(settings, "init", None) is not None
    optimizer = settings.optimizer
    if optimizer == "auto":
        optimizer = "adamw" if pretrained else "muon"
    task = task_named(dataset.task)
    batch = settings.batch_size or usual_batch(count, task, optimizer)
    epochs, least = settings.epochs, task.steps * batch
    side = side or view_size(dataset.train)
    progressive = progressive_for(settings, task, name, small=side <= SMALL and not pretrained)
    if epochs is None and pretrained:
        epochs = max(10, min(MOST_EPOCHS, math.ceil(least / max(1, count))))
    elif epochs is None:
        more = SMALLER_FIRST if progressive else 1.0
        epochs = round(more * epochs_for(count, side, task.shown, least))
    rate = settings.lr or learning_rate_for(optimizer, batch, pretrained=pretrained)
    decided: dict[str, Any] = {"epochs": epochs, "batch_size": batch, "lr": rate, "optimizer": optimizer}
    decided |= {"progressive": progressive} if hasattr(settings, "progressive") else {}
    settings = dataclasses.replace(settings, **decided)
    return settings, TrainConfig(
        epochs=epochs, batch_size=batch, learning_rate=rate, optimizer=optimizer, ema=settings.ema,
        schedule=schedule_for(settings, task, optimizer),
        accumulate=settings.accumulate,
        drop_path=getattr(settings, "drop_path", 0.0), progressive=progressive,
        balance=getattr(settings, "balance", "none"), precision=settings.precision,
        compile=settings.compile, seed=getattr(settings, "seed", 0),
    )  # fmt: skip


def schedule_for(settings: Distilling | Train, task: Task, optimizer: str) -> Literal["cosine", "wsd"]:
    """Return how the learning rate goes: a cosine for weights that have learned already, and for detectors.

    CIFAR-10, 10,000 images by their labels, pocket_xs, Muon, 12 epochs: 75.9 % with the schedule that stays up and goes
    down in the end, 72.8 with a cosine. A budget of time asks for the one that can be extended.
    """
    stays = optimizer == "muon" and task.finetunes
    return "wsd" if stays or getattr(settings, "time", None) is not None else "cosine"


def decide_view(settings: V, dataset: Dataset, epochs: int | None) -> tuple[V, ViewConfig]:
    """Return the settings with the views' size and augmentation decided, and the views they come down to."""
    augment = settings.augment
    if augment == "auto" and dataset.synthetic:
        augment = "hard"
    elif augment == "auto":
        augment = "medium" if epochs is not None and epochs >= _long(settings, dataset) else "light"
    task, aspect = task_named(dataset.task), settings.aspect
    size = task.side(view_size(dataset.train)) if settings.size is None else settings.size
    if aspect == "auto":
        aspect = usual_aspect(dataset.train) if task.finetunes else "crop"
    view = view_config(
        dataset, size=size, augment=augment, flip=settings.flip, vertical_flip=settings.vertical_flip,
        resample=settings.resample, aspect=aspect,
    )  # fmt: skip
    return dataclasses.replace(settings, size=size, augment=augment, aspect=aspect), task.view(view)


def _long(settings: Views, dataset: Dataset) -> float:
    """Return the epochs from which views vary more: `LONG`, and in a budget of time half of the usual ones as well.

    Few images are seen forty times in few steps. 560 spectrograms of 64 px, pocket_xxs, --hours 0.02: 71.8 % with light
    augmentation, 64.8 with medium; 600 drawn tiles 99.0 and 97.0.
    """
    if getattr(settings, "time", None) is None:
        return LONG
    side = settings.size or view_size(dataset.train)
    return max(LONG, ENOUGH * epochs_for(len(dataset.train), side, task_named(dataset.task).shown))


def decide_loss(settings: D, dataset: Dataset, teachers: Sequence[Teacher]) -> tuple[D, LossConfig]:
    """Return the settings with objective and temperature decided, and the loss they come down to."""
    task = task_named(dataset.task)
    balanced = class_weights(labels_of(settings, dataset), getattr(settings, "balance", "none"))
    if settings.untaught:
        return settings, LossConfig(weight=0.0, label_smoothing=task.smoothing, class_weights=balanced)
    classes = class_count(dataset, teachers)
    whole = choose_k(classes, settings.top_k) == 0
    objective, temperature = task.default_objective(classes, whole=whole)
    asked = getattr(settings, "objective", "auto")
    if asked != "auto":
        objective = asked
    if settings.temperature is not None:
        temperature = settings.temperature
    weights = settings.teacher_weights
    if weights == "auto":
        weights = _usual_weights(settings, dataset, teachers)
    loss = LossConfig(
        objective=objective,
        temperature=temperature,
        weight=settings.teacher_share,
        teacher_weights=weights,
        class_weights=balanced,
        terms=checked_terms(settings),
    )
    decided: dict[str, Any] = {"temperature": temperature, "teacher_weights": weights}
    decided |= {"objective": objective} if hasattr(settings, "objective") else {}
    return dataclasses.replace(settings, **decided), loss


def _usual_weights(settings: Distilling, dataset: Dataset, teachers: Sequence[Teacher]) -> Literal["fixed", "learned"]:
    """Return how several teachers are weighed: by what validation images say of them, where these are enough.

    Digits, 100 labels, a teacher of convolutions (95 %) and one of involutions that learned too briefly (42 %): the
    student has 79.1 % by the gate, and 65.2 % where both count alike. Methods that are compared name what they add.
    """
    if hasattr(settings, "methods"):
        return "fixed"
    task = task_named(dataset.task)
    count = len(teachers or listed(settings.teacher)) or len(task.light)
    checked = 0 if dataset.val is None else int(labelled(dataset.val.targets).sum())
    return "learned" if count > 1 and task.kind == "softmax" and checked >= GATED else "fixed"


def hard_share_for(settings: Any, dataset: Dataset) -> float:
    """Return the share of the epochs that learn labels alone: as asked, or where few stored views would wear out.

    CIFAR-10, 10,000 images, 12 epochs: one stored view teaches 66.7 %, with four epochs of labels in its middle 74.7,
    two views 74.9 and 76.7, as many as epochs 77.7 (recipes/replayed_views.md). With ten views it does no good: 1,000
    blood cells, 60 epochs, 82.2 % in place of 84.0. By the clock nobody knows where the middle is.
    """
    task, targets = task_named(dataset.task), labels_of(settings, dataset).targets
    if settings.hard_share and (not task.finetunes or not labelled(targets).any()):
        raise settings.refused("hard_share", "this is for images with classes that are known. Leave it away")
    if settings.hard_share is not None:
        return settings.hard_share
    fits = task.finetunes and not settings.terms and getattr(settings, "time", None) is None
    worn = settings.views <= 2 and settings.epochs >= WORN * settings.views
    return HARD if fits and worn and bool(labelled(targets).all()) else 0.0


def checked_terms(settings: Distilling) -> tuple[TermConfig, ...]:
    """Return the objectives on features that are asked for; refuse those that cannot be."""
    terms = getattr(settings, "terms", ())
    for term in terms:
        if "average" in kind_of(term.objective).needs and not settings.ema:
            raise PocketError(
                f"--match {term.objective} learns from an average of the student's weights: give --ema 0.999, say."
            )
    return terms


def decide(
    settings: Distill | Compare, dataset: Dataset, teachers: Sequence[Teacher] = ()
) -> tuple[Distill | Compare, RunConfig]:
    """Return the settings with every open choice made, and what they come down to. Deciding again changes nothing.

    Args:
        settings: Of `distill` or `compare`.
        dataset: Opened.
        teachers: As loaded; those of other classes will learn the dataset's.

    Raises:
        PocketError: What is asked does not fit these images.
    """
    classes = class_count(dataset, teachers)
    task_named(dataset.task).refuse(settings, classes)
    asked = settings
    if settings.student == "auto":
        settings = dataclasses.replace(settings, student=USUAL_STUDENT)
    name = str(settings.student)
    side = settings.size or view_size(dataset.train)
    settings, train = decide_training(settings, dataset, name=name, side=side)
    settings, view = decide_view(settings, dataset, train.epochs)
    settings, loss = decide_loss(settings, dataset, teachers)
    views = min(train.epochs, settings.views or VIEWS)
    settings = dataclasses.replace(settings, views=views)
    if loss.weight:  # without a teacher no labels are stored
        check_served(loss, settings, classes, task=dataset.task)
    if isinstance(settings, Distill) and loss.weight:
        share = hard_share_for(settings, dataset)
        settings, loss = dataclasses.replace(settings, hard_share=share), dataclasses.replace(loss, hard_share=share)
    stored = getattr(settings, "store_features", None)
    labels = LabelConfig(views, settings.top_k, settings.approximate_tail, stored)
    network = network_of(settings, name, side)
    if network.stem == "teacher" and teachers:
        network = with_stem(network, teachers[0], view.view_size)
    elif settings.stem == "auto" and teachers:
        network = with_usual_stem(network, settings, teachers[0], dataset)
    if network.stem == "teacher" and train.progressive and isinstance(asked, Distill) and asked.progressive is None:
        # Layers that stay as they are do not learn smaller pictures: 71.0 %, whole ones 72.6 (recipes/datafree_cnn.md).
        return decide(dataclasses.replace(asked, progressive=0.0), dataset, teachers)
    if teachers:
        network = with_usual_start(network, settings, teachers[0], dataset)
    config = RunConfig(network, view, labels, loss, train)
    matched: dict[str, Any] = with_usual_match(settings, config, dataset, teachers)
    if matched:
        return decide(dataclasses.replace(asked, **matched), dataset, teachers)
    if isinstance(settings, Distill):  # methods that are compared have losses of their own
        check_share(loss, settings, dataset)
    return settings, config


def decide_model(settings: Train, dataset: Dataset, teachers: Sequence[Any] = ()) -> tuple[Train, RunConfig]:
    """Return the settings of `train` with every open choice made, and what they come down to."""
    if not dataset.classes:
        raise PocketError(
            f"{dataset.name} has no labels to train on. Sort the images into one folder per class, or give --table."
        )
    task = task_named(dataset.task)
    if settings.model == "auto":
        settings = dataclasses.replace(settings, model=task.light[0])
    task.refuse(settings, len(dataset.classes))
    if settings.statistics_card:  # told before the training, not behind it
        require_many(independent(dataset.train), "a statistics card of these training images (--statistics-card)")
    side = settings.size
    decided, training = decide_training(settings, dataset, name=str(settings.model), side=side)
    if not settings.freeze:  # a probe takes no such steps
        settings = decided
    settings, view = decide_view(settings, dataset, training.epochs)
    smoothing = task.smoothing if settings.label_smoothing is None else settings.label_smoothing
    loss = LossConfig(
        weight=0.0, label_smoothing=smoothing, class_weights=class_weights(dataset.train, settings.balance)
    )
    network = network_of(settings, str(settings.model), view.view_size)
    network = dataclasses.replace(network, replace_norm=settings.replace_norm)
    return settings, RunConfig(network=network, view=view, loss=loss, train=training)


def network_of(settings: Architecture, name: str, side: int) -> NetworkConfig:
    """Return the network that a name and the group Student describe, for images of ``side`` pixels."""
    stem = settings.stem
    if stem == "auto":
        stem = _usual_stem(settings, name, small=7 <= side <= SMALL)
    start = None if settings.init_from in (None, NONE) else str(settings.init_from)
    return NetworkConfig(
        name, settings.patch, settings.tokens, stem, settings.attention, detector=settings.detector, init_from=start
    )


def _usual_stem(settings: Architecture, name: str, *, small: bool) -> Stem:
    """Convolutions before the patches where the student can have them: it learns faster with them (docs/students.md).

    Residual ones where images are ``small``; of synthetic images, too (recipes/datafree_cnn.md). 28 seconds, labels
    alone: 600 drawn tiles of 64 px, 99.8 % (pocket_xs) in place of 96.2 (pocket_s, hybrid), 560 spectrograms 73.2 in
    place of 63.0; 360 gratings of 96 px, 66.2 and 65.4: no difference seen.
    """
    if name not in LADDER or settings.attention != "plain" or settings.patch not in (None, 4, 8, 16):
        return "patch"
    return "conv" if settings.tokens or (small and settings.patch is None) else "hybrid"


def check_share(loss: LossConfig, settings: Distilling, dataset: Dataset) -> None:
    """Refuse teachers that count for nothing: answers of no weight, no features, and labels for every image."""
    if settings.untaught or loss.weight or loss.terms or dataset.synthetic:
        return
    if labelled(labels_of(settings, dataset).targets).all():
        raise settings.refused(
            "teacher_share", "the student would learn nothing of its teachers. Give more, or --teacher none"
        )


def check_served(loss: LossConfig, settings: Distilling, classes: int, *, task: str) -> None:
    """Refuse an objective that labels of so many classes will not serve, before any is made."""
    k = choose_k(classes, settings.top_k)
    needs = task_named(task).objective(loss.objective).needs_at(loss.temperature)
    if k and needs == "full" and not settings.approximate_tail:
        raise PocketError(
            f"--objective {loss.objective} at temperature {loss.temperature:g} needs the logits of all {classes} "
            f"classes, and the top {k} would be stored. Give --top-k 0, or --objective kl --temperature 1, or accept "
            "an approximation with --approximate-tail."
        )
