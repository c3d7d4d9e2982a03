"""The stage between a student and its files: pruned, with shared layers, rounded; trained again without a teacher."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..compression import before_norms, fake_quantize, freeze, prune, recovery, share
from ..compression.cost import Measure, count_parameters
from ..compression.fakequant import quantized
from ..compression.prune import prunable
from ..compression.recover import Step
from ..config import RunConfig
from ..deployment.int8 import BITS
from ..errors import PocketError
from ..files import counted
from ..labels import LabelStore
from ..models.detector import Detector
from ..models.saving import load_model, save_model
from ..objectives import Gate
from ..settings import devices
from ..training.feed import Feed
from ..training.step import Input
from .answering import file_answers
from .base import Stage, Walk
from .images import Road, known
from .measuring import Entry, find
from .reopen import Reopened, Taught, relative, teacher_rows
from .rounding import Rounding, calibrating
from .ship import FP32, INT8, preprocessing_of
from .train import calibrate, train_network

log = logging.getLogger("pocketvit")

_SCORING = 512  # training images whose gradients say which channels matter


class Reopen(Stage):
    """The images and labels of a finished run."""

    name = "open"
    writes = ("images",)

    def __init__(self, reopened: Reopened) -> None:
        self.reopened = reopened

    def run(self, walk: Walk) -> None:
        walk.road = self.reopened.road(walk.device)


class Compress(Stage):
    """A smaller student, recovered from the labels that the first one learned."""

    name = "compress"
    reads = ("images",)
    writes = ("student",)

    def __init__(self, reopened: Reopened) -> None:
        self.reopened = reopened

    def run(self, walk: Walk) -> None:
        settings, road, origin = walk.settings, walk.road, self.reopened
        walk.input = origin.input
        taught = labels_of(walk, origin)
        model = self._shrunk(walk, taught).to(road.device)
        walk.rounding = rounding_of(settings)
        qat = settings.quantize == "qat"
        if qat:
            log.info("         scales from %s", calibrating(road).text())
            model = with_rounding(walk, model, settings)
        steps = done(settings)
        if trains(settings):
            train = walk.config.train
            epochs = counted(train.epochs, "epoch")
            answers = f"the labels in {taught.store.folder}" if taught.store else "labels"
            log.info("recover  %s from %s", epochs, answers)
            model = train_network(road, walk.config, walk.folder, model=model, input=origin.input, **taught._asdict())
            steps.append("recovered")
            source = f"the answers that {origin.folder.name} stored" if taught.store else "the images' own labels"
            walk.notes.append(f"recovered for {epochs} from {source}; no teacher was loaded")
        elif settings.prune or settings.fit or settings.share:
            steps.append("not recovered")
        if qat:
            walk.networks["rounded"] = rounded = model
            if calibrate_rounded(walk, rounded):
                walk.calibrated.add("student")
            model = freeze(rounded)
        walk.networks["student"] = model
        before = origin.chain[-1].folder
        walk.names |= names_of(steps, settings.quantize, before.name)
        rows = _files_before(origin, walk.folder)
        if not steps:  # the network is the one before it, and its fp32 file has a row
            rows = [row for row in rows if row.key != f"before-{len(origin.chain)}"]
        walk.entries = [*teacher_rows(origin.chain[0], road, walk.folder), *rows]
        about = origin.chain[0].results
        if not steps or settings.quantize in ("dynamic", "static"):
            steps = [*steps, f"{settings.quantize} int8"]
        walk.extra |= {
            "title": f"{road.dataset.name}: {before.name} {', '.join(steps)}",
            "teachers": about.get("teachers", []),
            "labels": about.get("labels", []),
            "compressed_from": str(before),
        }
        walk.notes += origin.notes

    def _shrunk(self, walk: Walk, taught: Taught) -> nn.Module:
        """Return the student pruned and shared, made once: a resumed run goes on with the same network."""
        settings, origin = walk.settings, self.reopened
        model = origin.student.module
        if not (settings.prune or settings.fit or settings.share):
            return model
        folder = walk.folder / "shrunk"
        if (folder / "config.json").is_file():
            return load_model(folder).module
        before = count_parameters(model)
        if settings.prune:
            keep = 1 - settings.prune
            model = prune_by_loss(walk.road, walk.config, model, keep, walk.input, **taught._asdict())
        if settings.share:
            model = share(model, settings.share)
        after = count_parameters(model)
        log.info("compress %s parameters of %s, %.1f times fewer", f"{after:,}", f"{before:,}", before / after)
        save_model(
            model,
            folder,
            classes=walk.road.dataset.classes,
            preprocessing=preprocessing_of(walk.road, walk.input),
            task=walk.road.task,
        )
        return load_model(folder).module


def labels_of(walk: Walk, origin: Reopened) -> Taught:
    """Return the labels that are learned from; none where nothing is, and channels may be chosen without them.

    Raises:
        PocketError: They are gone, and something is to be learned.
    """
    settings = walk.settings
    if trains(settings):
        return origin.labels(walk.road)
    if not (settings.prune or settings.fit):
        return Taught()
    try:
        return origin.labels(walk.road)
    except PocketError as error:
        log.warning("         %s", str(error).split(": ")[0])
        walk.notes.append("the labels of the run are gone: channels were chosen by the size of their weights")
        return Taught()


def with_rounding(walk: Walk, model: nn.Module, settings: devices.Compress) -> nn.Module:
    """Return a network that is trained with the rounding of its file."""
    kept = before_norms(model, walk.input[0])  # in the file they have the norm in them: stored in 8 bits
    pixels, bits = calibrating(walk.road).pixels, rounding_of(settings).bits
    return fake_quantize(model, pixels, walk.input, bits=bits, activations="static", keep=kept)


def prune_by_loss(
    road: Road,
    config: RunConfig,
    model: nn.Module,
    keep: float,
    input: Input,
    *,
    of: Measure = "parameters",
    store: LabelStore | None = None,
    keys: Sequence[str] = (),
    gate: Gate | None = None,
) -> nn.Module:
    """Return a narrower network; channels stay by what they do to the loss that the student learns by.

    Args:
        road: Its training images, some hundred of which are looked at.
        config: Its loss.
        model: Left as it is.
        keep: Share of the cost that may be left.
        input: What it is fed.
        of: Which cost.
        store: Of soft labels; None for the images' own.
        keys: Of the store's teachers. Without store or labels, channels stay by the size of their weights.
        gate: Weighs these teachers, where the loss asks for that.
    """
    if store is None and (config.loss.weight > 0 or not known(road.dataset.train)):
        return prune(model, keep, of=of, input=input)
    feed = Feed(
        road.views,
        config.train.batch_size,
        labels=store,
        teachers=keys,
        task=road.task,
        view_count=config.labels.views if store is not None else None,
        device=road.device,
    )
    work = copy.deepcopy(model).to(road.device)
    loss = road.task.loss(config.loss, model=work, gate=gate, approximate_tail=config.labels.approximate_tail)
    count = max(1, min(_SCORING // config.train.batch_size, feed.steps_per_epoch))
    try:
        batches = list(itertools.islice(feed.epoch(0), count))
    finally:
        feed.close()
    return prune(work, keep, of=of, batches=batches, loss=loss, input=input).cpu()


def done(settings: devices.Compress) -> list[str]:
    """Return what the settings do to the network, in words."""
    words = []
    if settings.prune:
        words.append(f"pruned by {settings.prune:.0%}")
    if settings.fit:
        words.append(f"fit to {settings.fit}")
    if settings.share:
        words.append(f"shared by {settings.share}")
    if settings.quantize == "qat":
        words.append(f"{settings.bits} bits")
    return words


def names_of(steps: Sequence[str], quantize: str, before: str) -> dict[str, str]:
    """Return how the table calls the fp32 network, named by what was done to it, and its int8 file.

    What differs stands first: a narrow table cuts long names.
    """
    kind = f"{quantize} int8 file" if quantize in ("dynamic", "static") else "int8 file"
    if not steps:
        return {"student": f"{before}, student", "int8": f"{before}, {kind}"}
    return {"student": ", ".join(steps), "int8": f"{kind}, {', '.join(steps)}"}


def trains(settings: devices.Compress) -> bool:
    """Whether anything is trained again."""
    changed = settings.quantize == "qat" or settings.prune or settings.fit or settings.share
    return bool(settings.recover and changed)


def refuse(settings: devices.Compress, model: nn.Module) -> None:
    """Refuse a student that cannot be made smaller in the ways that are asked for, before a run is begun.

    Raises:
        PocketError: Its kind or its depth does not allow it.
    """
    if isinstance(model, Detector) and (settings.prune or settings.fit or settings.share):
        raise PocketError(
            "a detector is neither pruned nor made to share layers: --quantize takes one. A smaller one is trained, "
            "with `pocketvit distill IMAGES --student NAME` and this run as --teacher."
        )
    if settings.prune or settings.fit:
        prunable(model)
    if settings.share:
        share(model, settings.share)


def rounding_of(settings: devices.Compress) -> Rounding:
    """Return how the settings want an int8 file."""
    static = settings.quantize in ("static", "qat")
    asked = ""
    more = settings.prune or settings.share  # is left to be done then
    if settings.quantize != "none" or settings.fit:
        asked = "Give the command again with --resume and a larger --max-drop (nothing is trained anew)" + (
            f", or leave {'--fit' if settings.fit else '--quantize'} away." if more else "."
        )
    return Rounding("static" if static else "dynamic", min(settings.bits, BITS), settings.max_drop, asked)


def recovered(config: RunConfig, settings: devices.Compress) -> RunConfig:
    """Return the config with which a compressed student is trained again."""
    step: Step = "prune" if settings.prune or settings.fit else "share" if settings.share else "quantize"
    train = recovery(config.train, step, settings.epochs)
    if settings.lr is not None:
        train = dataclasses.replace(train, learning_rate=settings.lr)
    return dataclasses.replace(config, train=train)


@torch.no_grad()
def calibrate_rounded(walk: Walk, rounded: nn.Module) -> bool:
    """Fold temperatures into the heads of a network that rounds, and into the scales of their integers."""
    layers = quantized(rounded)
    before = {name: layer.weight.norm() for name, layer in layers.items()}
    if not calibrate(rounded, walk.road, walk.input):
        return False
    for name, layer in layers.items():
        if layer.log_weight_scale is not None:
            layer.log_weight_scale.add_((layer.weight.norm() / before[name]).log())
    return True


def _files_before(origin: Reopened, folder: Path) -> list[Entry]:
    """The rows of the run that was compressed, and of those before it, measured again beside the new ones."""
    entries = []
    for number, run in enumerate(origin.chain, start=1):
        row = find(run.results["rows"], "student")
        sizes = {name: row.get(name) for name in ("parameters", "flops")}
        for key, name, file in (("", ", student", run.folder / FP32), ("-int8", ", int8 file", run.folder / INT8)):
            if file.is_file():
                entries.append(
                    Entry(
                        f"before-{number}{key}", f"{run.folder.name}{name}", "other", origin.input[0],
                        file_answers(file), None, file, row.get("calibrated") is not False,
                        extra=sizes | {"file": relative(file, folder)},
                    )
                )  # fmt: skip
    return entries
