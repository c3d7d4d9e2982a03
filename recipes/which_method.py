"""Which method? Every family of distillation on one student, one teacher, equal steps.

Shows   what each objective is worth beside plain labels and beside z-scored logits. Objectives on logits read the
        store; those on features run the teacher on every batch and are added to z-scored logits, as their papers do,
        with the weights that were published; where these drown the rest, with smaller ones, too. The schedule,
        smaller pictures first, and the teacher's first layers as stem stand beside.
Paper   the reviews arXiv 2404.00936 and 2302.02108 lay the families out; the files of `pocketvit.objectives` name more.
Data    a folder with CIFAR-10 as cifar10.npz (MedMNIST layout; 10,000 of its training images are learned, its test
        split is scored) and the weights of a CIFAR ResNet (cifar10_resnet20-12fca82f.th of akamaster's repository).
Cost    about three hours of one processor core; --small: about 10 minutes.
Command pocketvit run recipes/which_method.py --images data/
Result  docs/which-method.md
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, NamedTuple

from _cifar import open_cifar

from pocketvit.config import (
    LabelConfig,
    LossConfig,
    NetworkConfig,
    RunConfig,
    Stem,
    TermConfig,
    TrainConfig,
    ViewConfig,
)
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.objectives.terms import TERMS
from pocketvit.road.images import open_road
from pocketvit.road.label import label_road
from pocketvit.road.stems import with_stem

EPOCHS, IMAGES = 12, 10_000
VIEW = ViewConfig(view_size=32, crop="padded", flip=0.5)


class Method(NamedTuple):
    """What the student matches."""

    objective: str = "zscore"
    temperature: float = 2.0
    term: str | None = None
    weight: float = 1.0  # of the term
    share: float = 0.9  # of the loss that is the teacher's
    stem: Stem = "conv"
    epochs: int = EPOCHS
    progressive: float = 0.0  # share of the steps in smaller pictures
    schedule: Literal["wsd", "cosine"] = "wsd"

    @property
    def name(self) -> str:
        """As the table shows it."""
        parts = [self._matched]
        parts.append("the teacher's first layers as stem" * (self.stem == "teacher"))
        parts.append("smaller pictures first" * (self.progressive > 0))
        parts.append("a cosine" * (self.schedule == "cosine"))
        parts.append(f"{self.epochs} epochs" * (self.epochs != EPOCHS))
        return ", ".join(filter(None, parts))

    @property
    def _matched(self) -> str:
        if not self.share:
            return "labels alone"
        if self.term is None:
            return f"{self.objective}, T = {self.temperature:g}" if self.objective != "hard" else "hard"
        return f"zscore + {self.term}{f':{self.weight:g}' * (self.weight != 1)} ({TERMS[self.term].family})"


ARMS = {
    "zscore": Method(),
    "alone": Method(share=0.0),
    "kl": Method("kl", 4.0),
    "kl-1": Method("kl", 1.0),
    "hard": Method("hard", 1.0),
    "dkd": Method("dkd", 4.0),
    "dist": Method("dist", 4.0),
    **{term: Method(term=term) for term in TERMS if term != "minilm"},  # which needs a ViT as teacher
    "attention_transfer-light": Method(term="attention_transfer", weight=0.01),
    "rkd-light": Method(term="rkd", weight=0.1),
    "pkt-light": Method(term="pkt", weight=0.1),
    "alone-cosine": Method(share=0.0, schedule="cosine"),
    "zscore-cosine": Method(schedule="cosine"),
    "alone-smaller": Method(share=0.0, epochs=16, progressive=0.6),
    "zscore-smaller": Method(epochs=16, progressive=0.6),
    "zscore-smaller-long": Method(epochs=28, progressive=0.6),
    "fitnets-smaller": Method(term="fitnets", epochs=16, progressive=0.6),
    "stem": Method(stem="teacher"),
    "stem-long": Method(stem="teacher", epochs=20),
    "stem-fitnets": Method(term="fitnets", stem="teacher"),
}


def config(method: Method = ARMS["zscore"], small: bool = False) -> RunConfig:
    """The student of every arm; only what it matches changes."""
    epochs = 3 if small else method.epochs
    terms = () if method.term is None else (TermConfig(method.term, method.weight),)
    return RunConfig(
        network=NetworkConfig("pocket_xs", stem=method.stem),
        labels=LabelConfig(views=min(epochs, EPOCHS)),
        view=VIEW,
        loss=LossConfig(method.objective, method.temperature, weight=method.share, terms=terms),
        train=TrainConfig(
            epochs=epochs,
            batch_size=64,
            optimizer="muon",
            learning_rate=5e-3,
            schedule=method.schedule,
            progressive=method.progressive,
            precision="fp32",
            ema=0.99 if method.term == "mean_teacher" else 0.0,
        ),
    )


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(ARMS), seeds: int = 1) -> str:
    """Label a view for each epoch once, then train every method on the same images."""
    dataset, teacher = open_cifar(images)
    base = config(small=small)
    # Nothing is chosen on validation images: the last weights count.
    road = open_road(dataset, base.view, folder.parent / "shared").reduced(1_000 if small else IMAGES)
    store = label_road(road, [teacher], base.labels)
    arms = []
    for key in only:
        chosen, taught = config(ARMS[key], small), ARMS[key].share > 0
        if chosen.network.stem == "teacher":
            chosen = dataclasses.replace(chosen, network=with_stem(chosen.network, teacher, VIEW.view_size))
        arms.append(Arm(key, ARMS[key].name, chosen, (teacher,) if taught else (), store if taught else None))
    found = run_arms(road, arms, range(seeds), folder)
    return report_arms(road, arms, found, folder, against=only[0], teachers=[teacher], title=__doc__ or "")
