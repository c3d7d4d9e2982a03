"""Making the network that is trained: from scratch, or with weights that are there."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from timm.layers import PatchEmbed
from torch import nn

from ..config import NetworkConfig, RunConfig
from ..errors import PocketError
from ..models import LADDER
from ..models.flops import count_parameters
from ..models.inputs import input_stats
from ..models.names import is_pretrained
from ..models.norms import zero_init_last
from ..models.renorm import replace_norm
from ..models.saving import recipe_of
from ..models.selection import select_weights, vit_in
from ..settings import listed
from ..settings.base import near
from ..settings.groups import Architecture
from ..settings.teachers import Teachers
from ..settings.verbs import Distilling
from ..sources import Dataset
from ..tasks import task_named
from ..teachers import Teacher, load_teacher
from ..training.step import Input
from .decide import USUAL_STUDENT, network_of
from .images import Road
from .starts import NONE, TEACHER
from .viewing import view_size

PRETRAINED = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"  # 5.7 M, Apache-2.0: a plain ViT prunes and exports best
SMALL = 7_000_000  # parameters up to which a network is a student's size: pocket_xl has 6.3 M
PHOTOGRAPHS = 96  # pixels of a side from which such weights are at home

D = TypeVar("D", bound=Distilling)


def choose_student(settings: D, dataset: Dataset, teachers: Sequence[Any] = ()) -> tuple[D, list[str]]:
    """Return the settings with a student, and what is to be said of its weights.

    Pretrained where weights are named, which must be there before anything long is done; where nothing is named, a
    small pretrained one for images of `PHOTOGRAPHS` pixels and more, if it can be had. Else it is `USUAL_STUDENT`, or
    of a ViT as teacher that is no larger a size below that can start from its weights.

    Raises:
        PocketError: The weights that are named cannot be had.
    """
    name = str(settings.student)
    if name != "auto":
        if not is_pretrained(name):
            return settings, []
        task = task_named(dataset.task)
        try:
            teacher = load_teacher(name)
            if task.finetunes:  # what cannot be made again cannot be saved
                recipe_of(teacher.module)
            else:  # it may be of a form that this task has no use for
                side = settings.size or task.side(view_size(dataset.train))
                task.started(teacher, classes=max(1, len(dataset.classes)), side=side, detector=settings.detector)
        except PocketError as error:
            cost = _from_scratch(len(dataset.train), settings)
            raise PocketError(f"--student {name}: {error} Or take --student {USUAL_STUDENT}: {cost}") from None
        return settings, [f"student  {name}: its pretrained weights, under a new head"]
    side = settings.size or view_size(dataset.train)
    shape = (settings.stem, settings.attention, settings.patch, settings.tokens, settings.init_from)
    free = shape == ("auto", "plain", None, 0, None)
    name = _smaller_than(settings, side, teachers)
    usual = dataclasses.replace(settings, student=name)
    why = f"as its teacher is a ViT no larger than {USUAL_STUDENT} (--student names another)"
    smaller = [] if name == USUAL_STUDENT else [f"student  {name}, {why}"]
    data_free = getattr(settings, "data_free", False)  # pretrained weights have seen images
    if side < PHOTOGRAPHS or data_free or not free or not task_named(dataset.task).finetunes:
        return usual, smaller
    try:
        load_teacher(PRETRAINED)
    except PocketError:
        cost = _from_scratch(len(dataset.train), settings)
        told = f"student  {name}, as no pretrained one can be had without the hub: {cost}"
        return usual, [told, *smaller]
    chosen = f"student  {PRETRAINED}: its pretrained weights (Apache-2.0), under a new head (--student names another)"
    return dataclasses.replace(settings, student=PRETRAINED), [chosen]


def _smaller_than(settings: Architecture, side: int, teachers: Sequence[Any]) -> str:
    """Return `USUAL_STUDENT`, or of a ViT as first teacher that is no larger the next size below.

    It is no deeper and no wider, so that it can start from that one's weights; nor as large, which would be a copy.
    """
    module = getattr(teachers[0], "module", None) if teachers else None  # stored boxes have none
    try:
        teacher = vit_in(module)
    except PocketError:  # it is of another kind
        return USUAL_STUDENT
    sizes = list(LADDER)[: 1 + list(LADDER).index(USUAL_STUDENT)]

    def fits(name: str) -> bool:
        stem = "patch" if type(teacher.patch_embed) is PatchEmbed else network_of(settings, name, side).stem
        body = LADDER[name].model_args(stem)
        mine, theirs = (body["depth"], body["embed_dim"]), (len(teacher.blocks), teacher.embed_dim)
        return mine != theirs and all(one <= other for one, other in zip(mine, theirs, strict=True))

    return next(filter(fits, reversed(sizes)), sizes[0])


def _from_scratch(images: int, settings: Teachers) -> str:
    named = bool(listed(settings.teacher))
    what = "what it cannot take from its teacher it learns from scratch" if named else "it learns from scratch"
    behind = f"stays {'' if named else 'far '}behind" if images < 20_000 else "needs hours to come near"
    return (
        f"{what}, which with {images:,} images {behind} a pretrained one. Give weights that you have as --student "
        f"{_small_teacher(settings) or 'local-dir:FOLDER.'}"
    )


def _small_teacher(settings: Teachers) -> str:
    """Return the teacher's own name and size, where it has weights that are small enough for a student's; or ""."""
    named = [one for one in listed(settings.teacher) if isinstance(one, str | Path)]
    if not named or not is_pretrained(str(named[0])):
        return ""
    try:
        module = load_teacher(str(named[0])).module
        recipe_of(module)
    except PocketError:
        return ""
    weights = count_parameters(module)
    if weights > SMALL:
        return ""
    return f"{shlex.quote(str(named[0]))}: the teacher itself has {weights / 1e6:.1f} M parameters."


def make_network(
    config: NetworkConfig, road: Road, *, taught: bool = False, drop_path: float = 0.0, seed: int = 0
) -> nn.Module:
    """Return the network that a config describes, for the road's classes and views, on its device.

    Args:
        config: A name with weights of its own (NAME.TAG, hf-hub:, local-dir:, a folder) starts from these, under a new
            head.
        road: Gives classes and side.
        taught: Whether it has teachers: without, more than one distillation token has nothing to listen to, and a
            student with a teacher's first layers has convolutions of its own instead.
        drop_path: Of networks that have it.
        seed: Of the initial weights.

    Raises:
        PocketError: It cannot be made.
    """
    torch.manual_seed(seed)
    classes = len(road.dataset.classes)
    if config.stem == "teacher" and not taught:
        config = dataclasses.replace(config, stem="conv", cut=None)
    if is_pretrained(config.name):
        teacher = load_teacher(config.name)
        model = road.task.started(teacher, classes=classes, side=road.view.view_size, detector=config.detector)
        model.requires_grad_(True)
    else:
        tokens = config.tokens if taught or config.stem == "coadvise" else min(config.tokens, 1)
        side = road.view.view_size
        model = road.task.network(config, classes=classes, side=side, tokens=tokens, drop_path=drop_path)
    if config.replace_norm is not None:
        model = _renormed(model, config.replace_norm)
    return model.to(road.device)


def start_network(model: nn.Module, config: NetworkConfig, teachers: Sequence[Teacher]) -> str:
    """Start an untrained network from a larger one, and its stem from its teacher's, if it is to be; say from what.

    Args:
        model: As `make_network` made it; is changed in place.
        config: Of the network.
        teachers: Of the network; without any it does not start from one.

    Raises:
        PocketError: The weights cannot be had, or do not fit.
    """
    told = []
    if config.stem == TEACHER and teachers:
        stem: Any = model.patch_embed
        stem.take(teachers[0].module)
        weights = sum(weight.numel() for weight in stem.layers.parameters())
        told.append(
            f"begins with the layers of {teachers[0].name} up to {stem.layer}, which stay as they are "
            f"({weights / 1e3:,.0f} k weights)"
        )
    if config.init_from is not None and (config.init_from != TEACHER or teachers):
        try:
            larger = teachers[0] if config.init_from == TEACHER else load_teacher(config.init_from)
            told.append(f"starts from {larger.name}: {select_weights(model, larger.module)}")
        except PocketError as error:
            a_word = config.init_from != TEACHER and config.init_from.isalpha()
            meant = near(config.init_from, (TEACHER, NONE)) if a_word else ""
            why = f"give {TEACHER}, {NONE}, or weights as --teacher takes them{meant}" if meant else error
            raise PocketError(f"--init-from {config.init_from}: {why}") from None
    return "; ".join(told)


def check_start(config: RunConfig, dataset: Dataset, teachers: Sequence[Teacher]) -> list[str]:
    """Try what `make_network` and `start_network` will do, before anything long; return what is to be said of it."""
    network, task = config.network, task_named(dataset.task)
    if is_pretrained(network.name):
        if network.init_from is not None:
            raise PocketError(f"--init-from: {network.name} has weights of its own. Leave one of the two away.")
        return []
    if network.init_from is None and network.stem != TEACHER and task.finetunes:
        if not network.name.startswith("pocket_"):
            side = config.view.view_size
            try_network(task.network(network, classes=2, side=side, tokens=network.tokens), network.name, side)
        return []
    if network.init_from == TEACHER and not teachers:
        raise PocketError("--init-from teacher: no teacher is named. Name the weights to start from instead.")
    # A detector cannot be made of every network and size.
    model = task.network(
        network, classes=max(1, len(dataset.classes)), side=config.view.view_size, tokens=network.tokens
    )
    told = start_network(model, network, teachers)
    return [f"student  {told}"] if told else []


def try_network(model: nn.Module, name: str, side: int) -> None:
    """Show a network a black picture, since many of timm's are made for one size, and say so of those that are.

    Raises:
        PocketError: It cannot take it.
    """
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, 3, side, side))
    except Exception as error:  # whatever the network's own code says of a size
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
        own = known.input_size[-1] if known is not None else side
        remedy = f"Add --size {own}, or choose another." if own != side else "Choose another."
        raise PocketError(f"{name} takes no pictures of {side} pixels ({why[:120]}). {remedy}") from error


def input_of(config: NetworkConfig, model: nn.Module, road: Road) -> Input:
    """Return what a network is fed: the view as it is, or what weights of its own were trained with."""
    if not is_pretrained(config.name) and config.name.startswith("pocket_"):
        return road.input
    stats = input_stats(model)
    return (stats.input_size if is_pretrained(config.name) else road.view.view_size), stats.mean, stats.std


def _renormed(model: nn.Module, kind: str) -> nn.Module:
    """Return an untrained network with another normalization, whose residual blocks start as their shortcuts."""
    if kind == "frozen":
        raise PocketError("frozen BatchNorm needs trained statistics. Name weights, or choose another --replace-norm.")
    model = replace_norm(model, kind)  # type: ignore[arg-type]
    zero_init_last(model)
    return model
