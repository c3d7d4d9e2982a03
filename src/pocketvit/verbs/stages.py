"""The stretches of the road that several verbs and recipes walk: data, labels, training a student, its files."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..config import RunConfig, ViewConfig
from ..deployment.export import export_onnx
from ..deployment.int8 import quantize_int8
from ..deployment.package import write_device_zip
from ..deployment.parity import check_parity
from ..errors import PocketError
from ..files import human_time, read_json, sha256_of, write_json
from ..labels import LabelStore, SoftLabels, encode_topk, write_labels
from ..labels.record import choose_k
from ..models import create_student, scale_heads
from ..models.cifar_resnet import IMAGENET_MEAN, IMAGENET_STD
from ..models.norms import zero_init_last
from ..models.renorm import replace_norm
from ..models.saving import save_model
from ..objectives import Gate, find_objective, fit_gate, student_loss
from ..objectives.gating import FROM_VALIDATION
from ..objectives.terms import FeatureTerms
from ..rundir import machine
from ..sources import Dataset, open_images, pack_dataset
from ..sources.base import Source
from ..sources.subset import Subset, balanced, hide_labels
from ..tasks.classification import evaluate, fit_temperature
from ..tasks.screening import mean_auc
from ..teachers import Teacher
from ..training.distributed import Processes, join_processes
from ..training.feed import Feed
from ..training.loop import fit
from ..training.precision import choose_precision
from ..training.predict import plain_pixels, predict_logits
from ..training.step import FromPixels, Input
from ..views import Views
from ..views.kinds import PHOTO
from .features import teacher_features

log = logging.getLogger("pocketvit")

# Views do not depend on the student's seed, so that students of every seed share one store.
VIEW_SEED = 0


@dataclass
class Road:
    """What is fixed before the first network is loaded, and shared by everything that is trained after it."""

    dataset: Dataset
    views: Views  # of the training split
    shared: Path  # packs, adapted teachers and labels, used by every run beside it
    processes: Processes  # this one among those of `torchrun`, and its device

    @property
    def device(self) -> torch.device:
        return self.processes.device

    @property
    def view(self) -> ViewConfig:
        return self.views.config

    @property
    def input(self) -> Input:
        """What our students are fed: the view as it is, normalized with ImageNet's statistics."""
        return self.view.view_size, IMAGENET_MEAN, IMAGENET_STD

    @property
    def scored(self) -> Source | None:
        """The split that figures are taken on: test, else validation; a labelled one where there is one."""
        splits = [source for source in (self.dataset.test, self.dataset.val) if source is not None and len(source)]
        return next((source for source in splits if (source.targets >= 0).any()), splits[0] if splits else None)


def open_road(config: RunConfig, shared: Path, *, images: Any = None, device: str | None = None) -> Road:
    """Open, check, say and pack the images; choose the device."""
    dataset = images if isinstance(images, Dataset) else open_images(
        images if images is not None else config.images,
        labels=config.labels, group=config.group, window=config.window, tile=config.tile,
    )  # fmt: skip
    if config.modality is not None:
        dataset = dataclasses.replace(dataset, modality=None if config.modality == PHOTO else config.modality)
    tell_dataset(dataset)
    if dataset.train is None or len(dataset.train) < 2:
        raise PocketError(f"{config.images} has fewer than two training images; there is nothing to learn from.")
    dataset = pack_dataset(dataset, shared / "packs")
    views = Views(dataset.train, config.view, seed=VIEW_SEED)
    return Road(dataset, views, shared, join_processes(device or "auto"))


def reduced(road: Road, images: int | np.ndarray) -> Road:
    """Return the same road with some training images: a number of them, the classes taking turns, or positions."""
    train = road.dataset.train
    some = Subset(train, balanced(train, images) if isinstance(images, int) else images)
    views = Views(some, road.view, seed=VIEW_SEED)
    return dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, train=some), views=views)


def viewed(road: Road, view: ViewConfig) -> Road:
    """Return the same road with other views of its training images."""
    return road if view == road.view else dataclasses.replace(road, views=Views(road.dataset.train, view, VIEW_SEED))


def with_few_labels(road: Road, count: int) -> Road:
    """Return the same road with the labels of all but ``count`` training images forgotten, the classes taking turns."""
    train = hide_labels(road.dataset.train, balanced(road.dataset.train, count))
    views = Views(train, road.view, seed=VIEW_SEED)
    return dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, train=train), views=views)


def tell_dataset(dataset: Dataset) -> None:
    """Say what was found and decided."""
    log.info("images   %s", dataset.name)
    for line in (*dataset.checks.lines(), *dataset.notes):
        log.info("         %s", line)


def store_folder(road: Road, config: RunConfig) -> Path:
    """Where the labels of these images and views are kept, whoever the teachers are."""
    key = sha256_of([road.dataset.train.fingerprint, road.views.fingerprint, config.top_k])[:10]
    return road.shared / "labels" / f"{road.dataset.name}-{key}"


def label_road(road: Road, teachers: Sequence[Teacher], config: RunConfig, *, folder: Path | None = None) -> LabelStore:
    """Label the training views with every teacher, or reuse what is there, and say which."""
    folder = folder or store_folder(road, config)
    ledger = folder / "cost.json"  # seconds that each record set took, to say what reuse saves
    costs = read_json(ledger) if ledger.is_file() else {}
    before = {path.name for path in folder.glob("*/view-*/*.safetensors")} if folder.is_dir() else set()
    complete = _complete(folder, teachers, config.views)
    start = time.monotonic()
    store = write_labels(
        folder, road.dataset.train, road.views, teachers, config.views, k=config.top_k, progress=not complete
    )
    seconds = time.monotonic() - start
    names = [store.key(teacher) for teacher in teachers]
    if complete:
        saved = sum(costs.get(name, 0.0) for name in names)
        log.info("labels   reused from %s%s", folder, f", which saved about {human_time(saved)}" if saved else "")
    elif road.processes.rank == 0:
        share = seconds / len(names)
        write_json(ledger, costs | {name: costs.get(name, 0.0) + share for name in names})
        log.info("labels   stored in %s in %s%s", folder, human_time(seconds), " (resumed)" if before else "")
    return store


def check_served(store: LabelStore, teachers: Sequence[Teacher], config: RunConfig) -> None:
    """Refuse an objective that the store cannot serve, unless an approximation was asked for."""
    names = [store.key(teacher) for teacher in teachers]
    several = any(teacher.kind == "sigmoid" for teacher in teachers)
    needs = find_objective(config.loss.objective, several=several).needs_at(config.loss.temperature)
    if not config.approximate_tail and not store.serves(needs, names):
        raise PocketError(store.refusal(config.loss.objective, names))


def _complete(folder: Path, teachers: Sequence[Teacher], views: int) -> bool:
    try:
        store = LabelStore(folder)
        return all(set(range(views)) <= set(store.views(store.key(teacher))) for teacher in teachers)
    except PocketError:
        return False


def probabilities_of(teacher: Teacher, source: Source, view: ViewConfig, batch: int = 64) -> np.ndarray:
    """Return float32 [N, C], what a teacher says of every unaugmented image: a softmax, of several labels a sigmoid."""
    views = Views(source, view.plain())
    parts = []
    for start in range(0, len(source), batch):
        pixels = views.render(np.arange(start, min(start + batch, len(source))), 0).pixels
        logits = teacher.logits(pixels.to(teacher.device))
        parts.append((logits.sigmoid() if source.multilabel else logits.softmax(1)).cpu().numpy())
    return np.concatenate(parts)


def teacher_gate(teachers: Sequence[Teacher], road: Road, config: RunConfig, *, stored: bool) -> Gate | None:
    """Return what weights "per_class" or "learned" are made of; None for others, or without labelled validation images.

    A teacher's accuracy on a class without images counts as 0. With ``stored``, the gate is fitted on labels that hold
    as many logits as the store's.
    """
    kind, source = config.loss.teacher_weights, road.dataset.val
    if len(teachers) < 2 or kind not in FROM_VALIDATION or source is None or not (source.targets >= 0).any():
        return None
    given = [probabilities_of(teacher, source, road.view) for teacher in teachers]
    if kind == "per_class":
        rows = [evaluate(one, source.targets).per_class for one in given]
        return Gate(torch.from_numpy(np.nan_to_num(np.stack(rows))).float())  # type: ignore[arg-type]
    k = choose_k(len(road.dataset.classes), config.top_k) if stored else 0
    logits = [torch.from_numpy(one).clamp_min(torch.finfo(torch.float32).tiny).log() for one in given]
    soft = [encode_topk(one, k) if k else SoftLabels(one) for one in logits]
    return fit_gate(soft, torch.from_numpy(np.asarray(source.targets)).long())


def train_student(
    road: Road,
    config: RunConfig,
    folder: Path,
    *,
    teachers: Sequence[Teacher] = (),
    store: LabelStore | None = None,
    live: bool = False,
    resume: bool = False,
    source_views: Views | None = None,
) -> nn.Module:
    """Train the config's student into ``folder``, from stored labels, live teachers or ground truth alone.

    Args:
        road: Images and views.
        config: Student, loss and optimization.
        folder: Receives checkpoints and metrics.
        teachers: Whose labels are learned; none for plain supervision with a fresh view every epoch.
        store: Where their labels are; None with ``live``.
        live: Run the teachers on every batch instead.
        resume: Go on from the last checkpoint, if any.
        source_views: Views to train on instead of the road's (a subset, say).
    """
    views = source_views or road.views
    torch.manual_seed(config.train.seed)
    model = create_student(
        config.student,
        num_classes=len(road.dataset.classes),
        image_size=road.view.view_size,
        patch_size=config.patch_size,
        tokens=config.tokens if teachers or config.stem == "coadvise" else min(config.tokens, 1),
        stem=config.stem,
        attention=config.attention,
        drop_path=config.train.drop_path,
    )
    if config.replace_norm is not None:
        model = renormed(model, config.replace_norm)
    model.to(road.device)
    gate = teacher_gate(teachers, road, config, stored=store is not None)
    terms = FeatureTerms(config.loss, model, road.view.view_size, teachers) if config.loss.terms else None
    feed = Feed(
        views,
        config.train.batch_size,
        labels=store,
        teachers=[store.key(teacher) for teacher in teachers] if store is not None else (),
        view_count=config.views if store is not None else None,
        live=list(teachers) if live else None,
        features=None
        if terms is None
        else teacher_features(views, store_folder(road, config), config, teachers, terms),
        balance=config.train.balance == "sampling",
        seed=config.train.seed,
        rank=road.processes.rank,
        world=road.processes.world,
        device=road.device,
    )
    loss = student_loss(config.loss, gate=gate, approximate_tail=config.approximate_tail)
    if config.train.precision == "auto" and road.processes.rank == 0:
        _share_precision(model, road, config, folder)
    return fit(
        model, feed, loss, config.train, folder,
        evaluate=validation(road), input=road.input, terms=terms, resume=resume,
    )  # fmt: skip


def renormed(model: nn.Module, kind: str) -> nn.Module:
    """Return an untrained network with another normalization, whose residual blocks start as their shortcuts."""
    if kind == "frozen":
        raise PocketError("frozen BatchNorm needs trained statistics. Name weights, or choose another --replace-norm.")
    model = replace_norm(model, kind)  # type: ignore[arg-type]
    zero_init_last(model)
    return model


def _share_precision(model: nn.Module, road: Road, config: RunConfig, folder: Path) -> None:
    """Measure the arithmetic once for all runs of a student on this machine, not once a run.

    Where bf16 and fp32 take about as long, each measurement may end otherwise: the student would be compared with one
    trained in another arithmetic, and the same command would give other weights.
    """
    if (folder / "choices.json").is_file():
        return
    here = {name: value for name, value in machine().items() if name != "date"}
    variant = [*([config.stem] if config.stem != "patch" else []), *(["local"] if config.attention == "local" else [])]
    student = [config.student, *variant, config.patch_size]
    key = sha256_of([*student, road.view.view_size, str(road.device.type), here])[:10]
    shared = road.shared / "precision" / key
    forward = FromPixels(model, road.input)
    choose_precision(forward, config.train.batch_size, road.view.view_size, shared, road.device)
    write_json(folder / "choices.json", read_json(shared / "choices.json"))


def validation(road: Road, source: Source | None = None, input: Input | None = None) -> Any:
    """Return what `fit` calls after each epoch: accuracy on the validation split, or None without labels.

    Of several labels an image: the share of labels that are right at 0.5, and the mean AUC, which labels that are
    nearly always absent do not flatter.
    """
    source = source or road.dataset.val
    if source is None or not (source.targets >= 0).any():
        return None
    # Rendered once and kept while that is small beside the memory of any machine.
    small = len(source) * road.view.view_size**2 * 3 < 1 << 29
    pixels = plain_pixels(source, road.view) if small else source
    targets = torch.from_numpy(np.asarray(source.targets))

    def evaluate_epoch(model: nn.Module) -> dict[str, float]:
        heads = predict_logits(model, pixels, road.view, input or road.input)
        if targets.ndim == 2:
            return label_scores(torch.stack(heads).mean(0).sigmoid(), targets)
        answer = torch.stack([head.softmax(1) for head in heads]).mean(0).argmax(1)
        known = targets >= 0
        return {"val_accuracy": float((answer == targets)[known].float().mean())}

    return evaluate_epoch


def label_scores(probabilities_NC: torch.Tensor, targets_NC: torch.Tensor) -> dict[str, float]:
    """Return "val_accuracy" and, where a label is there and absent, "val_auc" of several labels an image."""
    rows = (targets_NC >= 0).all(1)
    p_NC, y_NC = probabilities_NC[rows], targets_NC[rows]
    auc = mean_auc(p_NC.numpy(), y_NC.numpy())
    scores = {"val_accuracy": float(((p_NC >= 0.5) == y_NC).float().mean())}
    return scores if auc is None else scores | {"val_auc": auc}


def calibrate(model: nn.Module, road: Road, input: Input | None = None) -> bool:
    """Fold a temperature a head, fitted on the validation split, into the heads; False where there are no labels."""
    source = road.dataset.val
    if source is None or not (source.targets >= 0).any():
        return False
    heads = predict_logits(model, source, road.view, input or road.input)
    scale_heads(model, [fit_temperature(head, source.targets) for head in heads])
    return True


def write_student(model: nn.Module, road: Road, folder: Path, input: Input | None = None) -> None:
    """Save the student as timm reads it, export it to fp32 and int8 ONNX, check both, and pack ``device.zip``."""
    side, mean, std = input or road.input
    classes = road.dataset.classes
    model = model.cpu().eval()
    train = road.dataset.train
    several = train.multilabel
    tile = train.size[0] if train.parents is not None and train.size else None
    tiled = {"tile": tile} if tile else {}
    student = folder / "student"
    save_model(model, student, classes=classes, mean=mean, std=std, input_size=side, several=several, **tiled)
    fp32, int8 = folder / "model.onnx", folder / "model-int8.onnx"
    export_onnx(
        model, fp32, image_size=side, mean=mean, std=std, classes=classes, view=road.view.plain(), window=train.window,
        tile=tile, several=several,
    )  # fmt: skip
    quantize_int8(fp32, int8)
    source = road.scored or road.dataset.train
    pixels = Views(source, road.view.plain()).render(np.arange(min(64, len(source))), 0).pixels
    log.info("export   model.onnx: %s", check_parity(model, fp32, pixels).text())
    log.info("         model-int8.onnx: %s", check_parity(model, int8, pixels).text())
    write_device_zip(folder / "device.zip", int8)


def describe(config: RunConfig) -> str:
    """One line on what is trained and how."""
    train, loss = config.train, config.loss
    parts = {"patch": "", "coadvise": "coadvise stems"}.get(config.stem, f"{config.stem} patches")
    parts = " and ".join(filter(None, (parts, "local attention" if config.attention == "local" else "")))
    stem = f" with {parts}" if parts else ""
    return (
        f"{config.student}{stem}, {train.epochs} epochs in batches of {train.batch_size}, {train.optimizer} "
        f"{train.learning_rate:.2g}, {loss.objective} T={loss.temperature:g}, teachers' share {loss.weight:g}"
        + "".join(f", {term.objective} x {term.weight:g}" for term in loss.terms)
    )
