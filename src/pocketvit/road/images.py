"""The first stage: images opened, checked, split and packed; and the `Road`, what is fixed before any network."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import LabelConfig, ViewConfig
from ..errors import PocketError
from ..files import sha256_of
from ..models.cifar_resnet import IMAGENET_MEAN, IMAGENET_STD
from ..settings import Bench, Pack, Settings
from ..settings.groups import BUILT_IN, Images, Reading
from ..sources import Dataset, open_images, open_test_images, pack_dataset
from ..sources.base import Source
from ..sources.packing import bound_for, pack_bytes
from ..sources.subset import Subset, balanced, few_labelled, repeated
from ..sources.targets import labelled
from ..sources.unlabelled import unlabelled_as
from ..synthesis.bank import Bank, find_bank, open_bank
from ..tasks import Task, task_for, task_named
from ..training.distributed import Processes, join_processes
from ..training.predict import plain_pixels
from ..training.step import Input
from ..views import Views
from ..views.kinds import PHOTO
from .base import Cost, Stage, Walk

log = logging.getLogger("pocketvit")

# Views do not depend on the student's seed, so that students of every seed share one store.
VIEW_SEED = 0
_KEPT = 1 << 29  # bytes of a rendered split that are kept: little beside the memory of any machine


@dataclass
class Road:
    """What is fixed before the first network is loaded, and shared by everything that is trained after it."""

    dataset: Dataset
    views: Views  # of the training split
    shared: Path  # packs, adapted teachers and labels, used by every run beside it
    processes: Processes  # this one among those of `torchrun`, and its device
    _rendered: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def task(self) -> Task:
        return task_named(self.dataset.task)

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
        """See `scored_of`."""
        return scored_of(self.dataset)

    def pixels(self, source: Source) -> Source | torch.Tensor:
        """Return a split's plain views uint8 [N, 3, S, S], rendered once; the split itself where they are too many."""
        size = self.view.view_size
        if len(source) * size * size * 3 > _KEPT:
            return source
        if source.fingerprint not in self._rendered:
            self._rendered[source.fingerprint] = plain_pixels(source, self.view)
        return self._rendered[source.fingerprint]

    def store_folder(self, labels: LabelConfig) -> Path:
        """Where the labels of these images and views are kept, whoever the teachers are."""
        key = sha256_of([self.dataset.train.fingerprint, self.views.fingerprint, labels.top_k])[:10]
        return self.shared / "labels" / f"{self.dataset.name}-{key}"

    def with_train(self, train: Source) -> Road:
        """Return the same road with other training images."""
        dataset = dataclasses.replace(self.dataset, train=train)
        return dataclasses.replace(self, dataset=dataset, views=Views(train, self.view, seed=VIEW_SEED))

    def viewed(self, view: ViewConfig) -> Road:
        """Return the same road with other views of its training images."""
        if view == self.view:
            return self
        views = Views(self.dataset.train, view, seed=VIEW_SEED)
        return dataclasses.replace(self, views=views, _rendered={})

    def reduced(self, images: int | np.ndarray) -> Road:
        """Return the same road with some training images: a number, the classes taking turns, or positions."""
        train = self.dataset.train
        return self.with_train(Subset(train, balanced(train, images) if isinstance(images, int) else images))

    def with_few_labels(self, count: int) -> Road:
        """Return the same road with all but ``count`` training labels forgotten, the classes taking turns."""
        return self.with_train(few_labelled(self.dataset.train, count))

    def labelled_alone(self) -> Road:
        """Return a road of the labelled training images: as many steps, each image in as many views as that takes.

        For whoever learns from labels alone: images without any would be empty places in its batches.
        """
        source = self.dataset.train
        rows = np.flatnonzero(labelled(source.targets))
        return self if len(rows) in (0, len(source)) else self.with_train(repeated(source, rows, len(source)))


def known(source: Source | None) -> bool:
    """Whether a split has a labelled image."""
    return source is not None and bool(labelled(source.targets).any())


def scored_of(dataset: Dataset) -> Source | None:
    """Return the split that figures are taken on: test, else validation; a labelled one where there is one."""
    splits = [source for source in (dataset.test, dataset.val) if source is not None and len(source)]
    return next((source for source in splits if known(source)), splits[0] if splits else None)


def open_road(images: Any, view: ViewConfig, shared: Path, *, device: str | None = None, tell: bool = True) -> Road:
    """Open, check, say and pack images of any kind; choose the device.

    Args:
        images: As `open_images` takes them, or the opened dataset.
        view: Of the training images.
        shared: Folder of packs, adapted teachers and labels.
        device: None for a CUDA device where there is one.
        tell: What was found in the images, and decided.
    """
    dataset = images if isinstance(images, Dataset) else open_images(images)
    if tell:
        tell_dataset(dataset)
    if dataset.train is None or len(dataset.train) < 2:
        raise PocketError(f"{dataset.name} has fewer than two training images; there is nothing to learn from.")
    dataset = pack_dataset(dataset, shared / "packs", bound=bound_for(view.view_size))
    return Road(dataset, Views(dataset.train, view, seed=VIEW_SEED), shared, join_processes(device or "auto"))


def open_dataset(settings: Images | Pack | Bench) -> Dataset:
    """Open what the settings name: the images, and what of group, tiles and other sets a verb has."""
    images = settings.images
    bank = find_bank(images)
    if bank is not None:
        return _open_bank(bank, settings)
    beside: dict[str, Any] = {
        name: getattr(settings, name, None) for name in ("window", "group", "tile", "val", "test", "unlabelled")
    }
    named = getattr(settings, "resume", False)
    moved = isinstance(images, str) and images not in BUILT_IN and not Path(images).exists()
    if moved and named and not isinstance(named, bool):
        raise PocketError(
            f"the images of {named} are not at {images} any more. Say where they are: "
            f"`pocketvit {settings.verb} IMAGES --resume {shlex.quote(str(named))}`."
        )
    dataset = images if isinstance(images, Dataset) else open_images(
        images, labels=settings.table, memory=memory_of(settings), **beside
    )  # fmt: skip
    modality = getattr(settings, "modality", None)
    if modality is not None:
        dataset = dataclasses.replace(dataset, modality=None if modality == PHOTO else modality)
    return dataset


def memory_of(settings: Settings) -> Path | None:
    """Where is remembered what was found of the files; nowhere where nothing is to be written."""
    out = getattr(settings, "out", None)
    return None if out is None or getattr(settings, "plan", False) else Path(out) / "shared" / "checked"


def _open_bank(file: Path, settings: Reading) -> Dataset:
    """Open synthetic images: all are for training, and real test images are of any kind and size."""
    more = find_bank(getattr(settings, "unlabelled", None))
    for name in ("val", "group", "tile", "table", *(["unlabelled"] if more is None else [])):
        if getattr(settings, name, None) is not None:
            raise settings.refused(name, f"{file} holds synthetic images without labels. Leave it away")
    bank = open_bank(file.parent)
    made, test = bank.dataset(), open_test(settings, bank.kind)  # memory-mapped, however large
    if more is not None:
        made = _joined(made, bank, open_bank(more.parent), settings)
    if test is None:
        return made
    made = unlabelled_as(made, test.task, len(test.classes))
    return dataclasses.replace(made, classes=test.classes, test=test.test)


def _joined(made: Dataset, bank: Bank, more: Bank, settings: Settings) -> Dataset:
    """Return the images of two banks of one teacher, as those of a first and a second round."""
    if (bank.kind, bank.images.shape[1:], bank.logits.shape[1]) != (
        more.kind, more.images.shape[1:], more.logits.shape[1],
    ):  # fmt: skip
        raise settings.refused("unlabelled", f"these images are of another size or other classes than {bank.file}")
    both = open_images(str(bank.file), unlabelled=str(more.file), val_fraction=0, progress=False)
    return dataclasses.replace(made, train=both.train, notes=both.notes, checks=both.checks)


def open_test(settings: Any, kind: str) -> Dataset | None:
    """Open real images beside synthetic ones: the test split where there is one, else all; None without ``test``.

    Args:
        settings: Of the verb.
        kind: Of the outputs of the teacher that the synthetic ones were made from.
    """
    if getattr(settings, "test", None) is None:
        return None
    found = open_test_images(settings.test, window=settings.window)
    if task_named(found.task).kind != kind:
        raise settings.refused(
            "test", f"the teacher is one for {task_for(kind).name} and these images are for {found.task}. Give others"
        )
    return found


def tell_dataset(dataset: Dataset) -> None:
    """Say what was found and decided."""
    log.info("images   %s", dataset.name)
    for line in (*dataset.checks.lines(), *dataset.notes):
        log.info("         %s", line)


class Open(Stage):
    """Images opened and checked, the split fixed, pixels packed."""

    name = "open"
    writes = ("images",)

    def cost(self, walk: Walk) -> Cost:
        dataset = walk.images
        bound = bound_for(walk.config.view.view_size)
        size = sum(pack_bytes(source, bound) for source in dataset.splits.values())
        return Cost(bytes=size, told=(*dataset.checks.lines(), *dataset.notes))

    def run(self, walk: Walk) -> None:
        images = walk.images if isinstance(walk.images, Dataset) else open_dataset(walk.settings)
        walk.road = open_road(images, walk.config.view, shared_folder(walk), device=walk.device)


def shared_folder(walk: Walk) -> Path:
    """What runs beside each other share."""
    return walk.folder.parent / "shared"
