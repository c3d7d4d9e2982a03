"""The one place where a network is trained: student, student alone, ceiling, teacher, fold, comparison, recovery."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..config import RunConfig
from ..errors import PocketError
from ..files import counted, human_time, read_json, sha256_of, write_json
from ..labels import FullLabels, LabelStore, encode_topk
from ..labels.record import choose_k
from ..metrics import fit_answers, fit_temperature
from ..models import scale_heads
from ..models.heads import head_layers
from ..models.names import is_pretrained
from ..models.norms import keep_where_few
from ..objectives import Gate, fit_gate
from ..objectives.gating import FROM_VALIDATION
from ..objectives.terms import FeatureTerms
from ..rundir import machine
from ..sources.subset import Subset
from ..teachers import Teacher
from ..training import fit
from ..training.feed import Feed
from ..training.precision import choose_precision
from ..training.predict import predict_logits
from ..training.progressive import smaller_side
from ..training.step import FromPixels, Input, Loss
from ..views import Views
from .answering import network_answers, probabilities_of, road_answers
from .base import Cost, Stage, Walk
from .features import teacher_features
from .images import Road, known
from .rates import training_seconds
from .students import input_of, make_network, start_network

log = logging.getLogger("pocketvit")

Evaluate = Callable[[nn.Module], dict[str, Any]]
"""From a network to what an epoch's line of metrics says of it on the validation split."""

GATE = "gate.json"  # in a student's folder: what weighs its teachers, for who trains on without them
FOLLOWED = 500  # images on which a student's confidence is compared with its teachers'


def train_network(
    road: Road,
    config: RunConfig,
    folder: Path,
    *,
    model: nn.Module | None = None,
    input: Input | None = None,
    teachers: Sequence[Teacher] = (),
    store: LabelStore | None = None,
    keys: Sequence[str] = (),
    gate: Gate | None = None,
    live: bool = False,
    views: Views | None = None,
    loss: Loss | None = None,
    evaluate: Evaluate | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> nn.Module:
    """Train a network into ``folder``, from stored labels, live teachers or the ground truth alone; resume if begun.

    Args:
        road: Images and views.
        config: Network, loss and optimization.
        folder: Receives checkpoints and metrics.
        model: A network that exists already; None to make the config's.
        input: What it is fed; None for what `input_of` says.
        teachers: Whose labels are learned; none for plain supervision with a fresh view every epoch.
        store: Where their labels are; None with ``live``.
        keys: Of the store's teachers whose labels are learned, where these are not loaded.
        gate: Fitted to these, where the loss asks for that; None to fit it to the teachers.
        live: Run the teachers on every batch instead.
        views: To train on, instead of the road's.
        loss: Instead of the task's.
        evaluate: After each epoch, instead of `validation`.
        on_epoch: Called with each line of metrics.
    """
    views = views or road.views
    train = config.train
    if model is None:
        model = make_network(config.network, road, taught=bool(teachers), drop_path=train.drop_path, seed=train.seed)
        start_network(model, config.network, teachers)
    kept = keep_where_few(model, train.batch_size // road.processes.world) if is_pretrained(config.network.name) else ""
    if kept:
        log.info("         %s", kept)
    side = input or input_of(config.network, model, road)
    if train.progressive and smaller_side(model, side[0]) is None:
        log.info("         this network takes pictures of one size: it sees whole ones throughout")
    model.to(road.device)
    terms = FeatureTerms(config.loss, model, side[0], teachers) if config.loss.terms else None
    feed = Feed(
        views,
        train.batch_size,
        labels=store,
        teachers=[*keys, *(store.key(teacher) for teacher in teachers)] if store is not None else (),
        task=road.task,
        view_count=config.labels.views if store is not None else None,
        live=list(teachers) if live else None,
        features=None
        if terms is None
        else teacher_features(
            views,
            road.store_folder(config.labels),
            config.labels,
            teachers,
            terms,
            rank=road.processes.rank,
            world=road.processes.world,
        ),
        hard=hard_epochs(train.epochs, config.loss.hard_share) if store is not None and terms is None else range(0),
        balance=train.balance == "sampling",
        seed=train.seed,
        rank=road.processes.rank,
        world=road.processes.world,
        device=road.device,
    )
    gate = gate or teacher_gate(teachers, road, config, stored=store is not None)
    if gate is not None and road.processes.rank == 0:
        write_json(folder / GATE, gate.record)
    if loss is None:
        asked = config.loss
        if asked.weight > 0 and not known(road.dataset.train):  # all of it is the teachers' share: no term stays zero
            asked = dataclasses.replace(asked, weight=1.0)
        loss = road.task.loss(asked, model=model, gate=gate, approximate_tail=config.labels.approximate_tail)
    if train.precision == "auto" and road.processes.rank == 0:
        _share_precision(model, side, road, config, folder)
    return fit(
        model, feed, loss, train, folder,
        task=road.task, evaluate=evaluate or validation(road, side), input=side, terms=terms, resume=True,
        on_epoch=on_epoch,
    )  # fmt: skip


def hard_epochs(epochs: int, share: float) -> range:
    """Return the epochs in the middle that learn the ground truth alone: soft, hard, soft.

    Cui et al., Hard Labels In! (arXiv 2512.15647): where few views are stored, the labels of all are a part of what the
    teacher would say, and drift from the image's class; labels of the class, in views never seen before, bring it back.
    """
    count = round(share * epochs)
    start = (epochs - count + 1) // 2
    return range(start, start + count)


def validation(road: Road, input: Input) -> Evaluate | None:
    """Return what `fit` calls after each epoch: the task's scores on the validation split; None without labels."""
    source = road.dataset.val
    if source is None or not known(source):
        return None

    def evaluate(model: nn.Module) -> dict[str, Any]:
        given = road_answers({"": network_answers(model, input, road.task)}, road, source)[""]
        return road.task.validate(given, source.targets)

    return evaluate


def calibrate(model: nn.Module, road: Road, input: Input) -> bool:
    """Fold a temperature per head, fitted on the validation split, into the heads; False where there are no labels.

    Not where the validation split is the scored one: a temperature fitted on the scored images would flatter.
    """
    source = road.dataset.val
    if source is None or not known(source) or source is road.scored or not road.task.calibrates:
        return False
    if not _scalable(model):
        return False
    heads = predict_logits(model, road.pixels(source), road.view, input)
    scale_heads(model, [road.task.fit_temperature(head, source.targets) for head in heads])
    return True


def _scalable(model: nn.Module) -> bool:
    """Whether a network's heads can be scaled; where not, its answers stay as they are, and that is said."""
    try:
        head_layers(model)
    except PocketError as error:
        log.info("         %s", error)
        return False
    return True


def follow_teachers(model: nn.Module, road: Road, input: Input, teachers: Sequence[Teacher]) -> bool:
    """Fold temperatures and shifts into the heads: as sure of training images as its teachers, each class as often.

    Where no labels are there to fit them: z-scores and their kin leave the scale of the logits to chance, and how often
    a class is named follows the views that were learned, cut and mixed, more than the images. Made pictures do not say
    how often real ones are of a class: shifts fitted to them cost up to 2.4 points (recipes/datafree_cnn.md).
    """
    source = road.dataset.train
    if not teachers or road.task.kind != "softmax" or not len(source) or not _scalable(model):
        return False
    some = Subset(source, np.unique(np.linspace(0, len(source) - 1, FOLLOWED).astype(np.int64)))
    expected = road.task.merged([probabilities_of(teacher, road, some) for teacher in teachers])
    heads = predict_logits(model, road.pixels(some), road.view, input)
    if road.dataset.synthetic:
        scale_heads(model, [fit_temperature(head, expected) for head in heads])
    else:
        fitted = [fit_answers(head, expected) for head in heads]
        scale_heads(model, [temperature for temperature, _ in fitted], [shift for _, shift in fitted])
    return True


def teacher_gate(teachers: Sequence[Teacher], road: Road, config: RunConfig, *, stored: bool) -> Gate | None:
    """Return what weights "per_class" or "learned" are made of; None for others, or without labelled validation images.

    A teacher's accuracy on a class without images counts as 0. With ``stored``, the gate is fitted on labels that hold
    as many logits as the store's.
    """
    kind, source = config.loss.teacher_weights, road.dataset.val
    if len(teachers) < 2 or kind not in FROM_VALIDATION or source is None or not known(source):
        return None
    given = [probabilities_of(teacher, road, source) for teacher in teachers]
    if kind == "per_class":
        rows = [road.task.judge(one, source.targets, source.classes).scores.per_class for one in given]
        return Gate(torch.from_numpy(np.nan_to_num(np.stack(rows))).float())
    k = choose_k(len(road.dataset.classes), config.labels.top_k) if stored else 0
    logits = [torch.from_numpy(one).clamp_min(torch.finfo(torch.float32).tiny).log() for one in given]
    soft = [encode_topk(one, k) if k else FullLabels(one) for one in logits]
    return fit_gate(soft, torch.from_numpy(np.asarray(source.targets)).long())


def _share_precision(model: nn.Module, input: Input, road: Road, config: RunConfig, folder: Path) -> None:
    """Measure the arithmetic once for all trainings of a network on this machine, not once per training.

    Where bf16 and fp32 take about as long, each measurement may end otherwise: the student would be compared with one
    trained in another arithmetic, and the same command would give other weights.
    """
    if (folder / "choices.json").is_file():
        return
    here = {name: value for name, value in machine().items() if name != "date"}
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    key = sha256_of([shapes, input[0], str(road.device.type), here])[:10]
    shared = road.shared / "precision" / key
    forward = FromPixels(model, input)
    choose_precision(forward, config.train.batch_size, road.view.view_size, shared, road.device)
    write_json(folder / "choices.json", read_json(shared / "choices.json"))


def describe(config: RunConfig, *, labelled: bool = True) -> str:
    """One line on what is trained and how; where no image is ``labelled``, all of it is the teachers' share."""
    train, loss, network = config.train, config.loss, config.network
    stems = {
        "patch": "",
        "hybrid": "a convolution first",
        "conv": "a convolutional stem",
        "teacher": "its teacher's first layers",
        "coadvise": "coadvise stems",
    }
    parts = [stems.get(network.stem, f"{network.stem} patches"), "local attention" * (network.attention == "local")]
    parts.append("the decoder of LW-DETR" * (network.detector == "detr"))
    stem = " and ".join(filter(None, parts))
    epochs = counted(train.epochs, "epoch")
    length = f"{human_time(train.seconds)}, about {epochs}," if train.seconds else epochs
    learned = [
        f"the first {train.progressive:.0%} in smaller pictures" if train.progressive else "",
        f"{loss.objective} T={loss.temperature:g}" if loss.weight else "",
        f"teachers' share {loss.weight:g}" if loss.weight and labelled else "",
        f"{loss.hard_share:.0%} of the epochs by labels alone" if loss.weight and loss.hard_share else "",
        *(f"{term.objective} x {term.weight:g}" for term in loss.terms),
    ]
    how = f"in batches of {train.batch_size}, {train.optimizer} {train.learning_rate:.2g}"
    return ", ".join(filter(None, [f"{network.name}{f' with {stem}' if stem else ''}", f"{length} {how}", *learned]))


class Train(Stage):
    """The student, from the stored labels."""

    name = "train"
    reads = ("images", "teachers", "labels")
    writes = ("student",)

    def cost(self, walk: Walk) -> Cost:
        seconds, weights = training_seconds(walk)
        stored = "a fresh one every epoch" if walk.untaught else f"{walk.config.labels.views} stored per image"
        size = f"{walk.road.view.view_size} px, {stored}"
        told = (f"views    {size}", f"student  {describe(walk.config, labelled=known(walk.road.dataset.train))}")
        return Cost(seconds, 7 * weights, told)

    def trains(self, walk: Walk) -> int:
        return 1

    def run(self, walk: Walk) -> None:
        log.info("student  %s", describe(walk.config, labelled=known(walk.road.dataset.train)))
        road = pupils(walk).labelled_alone() if walk.untaught else pupils(walk)
        student = train_network(road, walk.config, walk.folder, teachers=walk.tutors, store=walk.store)
        walk.networks["student"], walk.input = student, input_of(walk.config.network, student, walk.road)


def pupils(walk: Walk) -> Road:
    """Return the road as students see it: with few labels, if so asked."""
    few = getattr(walk.settings, "few_labels", 0)
    return walk.road.with_few_labels(few) if few else walk.road
