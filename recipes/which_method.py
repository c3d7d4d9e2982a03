"""Which method? Every family of distillation on one student, one teacher, equal steps, paired over seeds.

Shows   what each objective is worth beside plain labels and beside z-scored logits, and what a step of it costs. Logits
        objectives read the store; objectives on features run the teacher on every batch and are added to z-scored
        logits, as their papers do. One seed of the z-scored logits comes from the live teacher: its losses must be
        those of the stored labels.
Paper   the reviews arXiv 2404.00936 and 2302.02108 lay the families out; the files of `pocketvit.objectives` name more.
Data    CIFAR-10, and the published ResNet-20 for it (0.27 M parameters, 91.73 %), given as --images DATA,WEIGHTS.
Cost    about 60 minutes on one processor core (no AVX-512); --small: about 10 minutes.
Command pocketvit run recipes/which_method.py --images data/cifar10.npz,cifar10_resnet20-12fca82f.th
Result  docs/which-method.md
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TermConfig, TrainConfig, ViewConfig
from pocketvit.errors import PocketError
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.objectives.terms import TERMS
from pocketvit.road.images import open_road
from pocketvit.road.label import label_road
from pocketvit.teachers import load_teacher

VIEW = ViewConfig(view_size=32, crop="padded", flip=0.5, randaugment_ops=1, randaugment_magnitude=7.0, erase=0.25)
LOGITS = {  # objective -> its temperature
    "kl": 4.0,
    "hard": 1.0,
    "zscore": 2.0,
    "dkd": 4.0,
    "dist": 4.0,
}
FEATURES = ("fitnets", "locality", "vkd", "vitkd", "rkd", "similarity", "manifold", "attention_transfer", "cskd")


def config(small: bool = False) -> RunConfig:
    """The student of every arm; only what it matches changes.

    It is measured with plain patches and AdamW; `distill` takes a convolution before the patches, and Muon.
    """
    epochs = 3 if small else 10
    return RunConfig(
        network=NetworkConfig("pocket_xs", patch=8, stem="patch"),
        labels=LabelConfig(views=epochs),
        view=VIEW,
        loss=LossConfig(objective="zscore", temperature=2.0, weight=0.9),
        train=TrainConfig(
            epochs=epochs,
            batch_size=128,
            optimizer="adamw",
            learning_rate=1e-3,
            warmup=1 / epochs,
            precision="fp32",
        ),
    )


def recipe(images: str | None, folder: Path, small: bool) -> str:
    """Label 3,000 images once with the published teacher, then train 15 methods x 3 seeds on them (one seed live)."""
    data, _, weights = (images or "data/cifar10.npz,cifar10_resnet20-12fca82f.th").partition(",")
    if not weights:
        raise PocketError("name the data and the teacher's weights: --images data/cifar10.npz,cifar10_resnet20.th")
    base = config(small)
    road = open_road(data, base.view, folder.parent / "shared").reduced(1000 if small else 3000)
    teacher = load_teacher(weights, arch="cifar_resnet20", input_size=32, norm="imagenet")
    store = label_road(road, [teacher], base.labels)

    def with_loss(**changes) -> RunConfig:
        return dataclasses.replace(base, loss=dataclasses.replace(base.loss, **changes))

    arms = [Arm("alone", "labels alone", base)]
    for name, temperature in LOGITS.items():
        arms.append(Arm(name, name, with_loss(objective=name, temperature=temperature), (teacher,), store))
    for name in FEATURES:
        method = with_loss(terms=(TermConfig(name),))
        arms.append(Arm(name, f"zscore + {name} ({TERMS[name].family})", method, (teacher,), store))
    live = Arm("live", "zscore, live teacher", base, (teacher,), live=True)
    found = run_arms(road, [live], range(1), folder)
    found |= run_arms(road, arms, range(3), folder)
    arms.append(live)
    return report_arms(road, arms, found, folder, against="zscore", teachers=[teacher], title=__doc__)
