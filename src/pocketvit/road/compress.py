"""The stage between a student and its files: pruned, with shared layers, rounded; trained again without a teacher."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..compression import before_norms, fake_quantize, freeze, prune, recovery, share, weight_bytes
from ..compression.cost import Measure, count_parameters
from ..compression.fakequant import quantized
from ..compression.prune import prunable
from ..compression.recover import Step
from ..config import RunConfig
from ..deployment.budget import Budget
from ..deployment.export import export_onnx
from ..deployment.int8 import BITS, quantize_int8
from ..deployment.latency import measure
from ..errors import PocketError
from ..files import counted, human_bytes
from ..labels import LabelStore
from ..models.saving import load_model, save_model
from ..rundir import Run
from ..training.feed import Feed
from ..training.step import Input
from .answering import file_answers
from .base import Stage, Walk
from .images import Road, known
from .reopen import Reopened, teacher_rows
from .rounding import Rounding, calibrating
from .score import Entry, find
from .ship import FP32, INT8, preprocessing_of
from .train import calibrate, train_network

log = logging.getLogger("pocketvit")

_SCORING = 512  # training images whose gradients say which channels matter
_TRIES = 6  # prunings until a target is met


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
        store, keys = self._labels(walk)
        model = self._shrunk(walk, store, keys).to(road.device)
        walk.rounding = rounding_of(settings)
        qat = settings.quantize == "qat"
        if qat:
            seen = calibrating(road)
            log.info("         scales from %s", seen.text())
            kept = before_norms(model, origin.input[0])  # in the file they have the norm in them: stored in 8 bits
            model = fake_quantize(
                model, seen.pixels, origin.input, bits=walk.rounding.bits, activations="static", keep=kept
            )
        steps = done(settings)
        if trains(settings):
            train = walk.config.train
            epochs = counted(train.epochs, "epoch")
            log.info("recover  %s from %s", epochs, f"the labels in {store.folder}" if store else "labels")
            model = train_network(
                road, walk.config, walk.folder, model=model, input=origin.input, store=store, keys=keys
            )
            steps.append("recovered")
            source = f"the stored labels of {origin.folder.name}" if store else "the images' own labels"
            walk.notes.append(f"recovered for {epochs} from {source}; no teacher was loaded")
        elif settings.prune or settings.target or settings.share:
            steps.append("not recovered")
        if qat:
            walk.networks["rounded"] = rounded = model
            if calibrate_rounded(walk, rounded):
                walk.calibrated.add("student")
            model = freeze(rounded)
        walk.networks["student"] = model
        before = origin.chain[-1].folder
        walk.names |= names_of(steps, settings.quantize, before.name)
        rows = _files_before(origin)
        if not steps:  # the network is the one before it, and its fp32 file has a row
            rows = [row for row in rows if row.key != f"before-{len(origin.chain)}"]
        walk.entries = [*teacher_rows(origin.chain[0], road), *rows]
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

    def _labels(self, walk: Walk) -> tuple[LabelStore | None, list[str]]:
        """Return the labels that are learned from; none where nothing is, and channels may be chosen without them."""
        settings = walk.settings
        if trains(settings):
            return self.reopened.labels(walk.road)
        if not (settings.prune or settings.target):
            return None, []
        try:
            return self.reopened.labels(walk.road)
        except PocketError as error:
            log.warning("         %s", str(error).split(": ")[0])
            walk.notes.append("the labels of the run are gone: channels were chosen by the size of their weights")
            return None, []

    def _shrunk(self, walk: Walk, store: LabelStore | None, keys: list[str]) -> nn.Module:
        """Return the student pruned and shared, made once: a resumed run goes on with the same network."""
        settings, origin = walk.settings, self.reopened
        model = origin.student.module
        if not (settings.prune or settings.target or settings.share):
            return model
        folder = walk.folder / "shrunk"
        if (folder / "config.json").is_file():
            return load_model(folder).module
        before = count_parameters(model)
        if settings.prune:
            model = prune_by_loss(walk.road, walk.config, model, 1 - settings.prune, walk.input, store=store, keys=keys)
        if settings.target:
            model = self._fitted(walk, model, Budget(**vars(settings.budget)), store, keys)
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

    def _fitted(
        self, walk: Walk, model: nn.Module, budget: Budget, store: LabelStore | None, keys: list[str]
    ) -> nn.Module:
        """Prune until the int8 file has the size and takes the time that are asked for, on this machine."""
        keep, smaller = 1.0, model
        for _ in range(_TRIES):
            size, ms = self._file_costs(walk, smaller, timed=budget.ms is not None)
            log.info("         %s parameters: int8 file of %s", f"{count_parameters(smaller):,}", human_bytes(size))
            if budget.excess(size, ms) is None:
                return smaller
            weights = weight_bytes(dict(smaller.named_parameters()))
            shares = [1.0]
            if budget.bytes is not None:
                shares.append((budget.bytes - (size - weights)) / weights)  # the graph itself stays as large
            if budget.ms is not None and ms is not None:
                shares.append(budget.ms / ms)
            if min(shares) <= 0:
                raise PocketError(f"--target {budget}: the graph alone takes more than that. Take a shallower student.")
            keep *= min(shares) * 0.98
            smaller = prune_by_loss(walk.road, walk.config, model, keep, walk.input, of="bytes", store=store, keys=keys)
        raise PocketError(f"--target {budget}: not met after {_TRIES} prunings. Take a smaller or shallower student.")

    @staticmethod
    def _file_costs(walk: Walk, model: nn.Module, *, timed: bool) -> tuple[int, float | None]:
        with tempfile.TemporaryDirectory() as folder:
            fp32, int8 = Path(folder) / FP32, Path(folder) / INT8
            about = preprocessing_of(walk.road, walk.input)
            export_onnx(model, fp32, classes=walk.road.dataset.classes, preprocessing=about, task=walk.road.task)
            size = quantize_int8(fp32, int8).stat().st_size
            ms = measure({"": int8}, image_size=walk.input[0], seconds=0.5)[""].p50 if timed else None
        return size, ms


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
    loss = road.task.loss(config.loss, model=work, approximate_tail=config.labels.approximate_tail)
    count = max(1, min(_SCORING // config.train.batch_size, feed.steps_per_epoch))
    try:
        batches = list(itertools.islice(feed.epoch(0), count))
    finally:
        feed.close()
    return prune(work, keep, of=of, batches=batches, loss=loss, input=input).cpu()


def done(settings: Any) -> list[str]:
    """Return what the settings do to the network, in words."""
    words = []
    if settings.prune:
        words.append(f"pruned by {settings.prune:.0%}")
    if settings.target:
        words.append(f"pruned to {settings.target}")
    if settings.share:
        words.append(f"shared by {settings.share} blocks")
    if settings.quantize == "qat":
        words.append(f"trained for {settings.bits}-bit weights")
    return words


def names_of(steps: Sequence[str], quantize: str, before: str) -> dict[str, str]:
    """Return how the table calls the fp32 network, named by what was done to it, and its int8 file."""
    kind = f"{quantize} int8 file" if quantize in ("dynamic", "static") else "int8 file"
    if not steps:
        return {"student": f"{before}, student", "int8": f"{before}, {kind}"}
    return {"student": ", ".join(steps), "int8": f"{', '.join(steps)}: {kind}"}


def trains(settings: Any) -> bool:
    """Whether anything is trained again."""
    changed = settings.quantize == "qat" or settings.prune or settings.target or settings.share
    return bool(settings.recover and changed)


def refuse(settings: Any, model: nn.Module) -> None:
    """Refuse a student that cannot be made smaller in the ways that are asked for, before a run is begun.

    Raises:
        PocketError: Its kind or its depth does not allow it.
    """
    if settings.prune or settings.target:
        prunable(model)
    if settings.share:
        share(model, settings.share)


def rounding_of(settings: Any) -> Rounding:
    """Return how the settings want an int8 file."""
    static = settings.quantize in ("static", "qat")
    asked = ""
    if settings.quantize != "none" or settings.target:
        asked = (
            "Give the command again with --resume and a larger --max-drop (nothing is trained anew), or leave "
            f"{'--target' if settings.quantize == 'none' else '--quantize'} away."
        )
    return Rounding("static" if static else "dynamic", min(settings.bits, BITS), settings.max_drop, asked)


def recovered(config: RunConfig, settings: Any) -> RunConfig:
    """Return the config with which a compressed student is trained again."""
    step: Step = "prune" if settings.prune or settings.target else "share" if settings.share else "quantize"
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
        if layer.weight_scale is not None:
            layer.weight_scale.mul_(layer.weight.norm() / before[name])
    return True


def _files_before(origin: Reopened) -> list[Entry]:
    """The rows of the run that was compressed, and of those before it, measured again beside the new ones."""
    return [
        Entry(f"before-{number}{key}", f"{run.folder.name}{name}", "other", origin.input[0],
              file_answers(run.folder / file), None, run.folder / file, extra=_counted(run))
        for number, run in enumerate(origin.chain, start=1)
        for key, name, file in (("", ", student", FP32), ("-int8", ", int8 file", INT8))
        if (run.folder / file).is_file()
    ]  # fmt: skip


def _counted(run: Run) -> dict[str, Any]:
    """Return the parameters and operations of a run's student, as it counted them."""
    row = find(run.results["rows"], "student")
    return {name: row.get(name) for name in ("parameters", "flops")}
