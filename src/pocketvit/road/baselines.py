"""The stage of what stands beside a student: itself without a teacher, with all labels, and what one might ship."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from torch import nn

from ..config import LossConfig, NetworkConfig, RunConfig
from ..errors import PocketError
from ..files import counted
from ..models.inputs import input_stats
from ..sources.targets import labelled
from ..views import Views
from .base import Cost, Stage, Walk
from .decide import class_weights, learning_rate_for
from .images import Road
from .light import TEACHER_SEED
from .rates import training_seconds
from .students import make_network
from .train import pupils, train_network

log = logging.getLogger("pocketvit")


def train_alone(road: Road, config: RunConfig, folder: Path) -> nn.Module | None:
    """The same student on an equal budget, with the ground truth alone and a fresh view every epoch; None without."""
    count = int(labelled(road.dataset.train.targets).sum())
    if not count:
        return None
    stem = ", with convolutions of its own" if config.network.stem == "teacher" else ""
    log.info("baseline the same student without a teacher%s, %s labels", stem, f"{count:,}")
    return train_network(road.labelled_alone(), without_teachers(config, road), folder)


def without_teachers(config: RunConfig, road: Road) -> RunConfig:
    """Return a student's config for learning from the ground truth alone."""
    weights = class_weights(road.dataset.train, config.train.balance)  # of the labels that this one sees
    loss = LossConfig(label_smoothing=road.task.smoothing, class_weights=weights)
    return dataclasses.replace(config, loss=loss)


def train_against(road: Road, config: RunConfig, folder: Path, name: str) -> nn.Module:
    """Another network, with its own weights and at its own resolution, fine-tuned for as many epochs."""
    log.info("against  %s, pretrained, fine-tuned for %s", name, counted(config.train.epochs, "epoch"))
    model = make_network(NetworkConfig(name), road, seed=config.train.seed)
    stats = input_stats(model)
    rate = learning_rate_for("adamw", config.train.batch_size, pretrained=True)
    train = dataclasses.replace(config.train, optimizer="adamw", learning_rate=rate, progressive=0.0)
    config = dataclasses.replace(without_teachers(config, road), network=NetworkConfig(name), train=train)
    views = Views(road.dataset.train, road.view, seed=TEACHER_SEED)
    side = (stats.input_size, stats.mean, stats.std)
    return train_network(road, config, folder, model=model, input=side, views=views)


class Baselines(Stage):
    """Networks to compare the student with, each on an equal budget.

    Args:
        ceiling: Whether a student that saw few labels is also compared with itself on all of them.
    """

    name = "baselines"
    reads = ("images",)
    writes = ("alone", "ceiling", "against")

    def __init__(self, *, ceiling: bool = True) -> None:
        self.ceiling = ceiling

    def cost(self, walk: Walk) -> Cost:
        wanted = self.wanted(walk, self.ceiling)
        if not wanted:
            return Cost()
        seconds, weights = training_seconds(walk)
        return Cost(len(wanted) * seconds, len(wanted) * 7 * weights)

    def trains(self, walk: Walk) -> int:
        return len(self.wanted(walk, self.ceiling))

    def run(self, walk: Walk) -> None:
        wanted = self.wanted(walk, self.ceiling)
        if "alone" in wanted:
            alone = train_alone(pupils(walk), walk.config, walk.folder / "alone")
            if alone is not None:
                walk.networks["alone"] = alone
        if "ceiling" in wanted:
            new = ", its stem new" if walk.config.network.stem == "teacher" else ""
            log.info("ceiling  the same student with all labels%s", new)
            config = without_teachers(walk.config, walk.road)
            walk.networks["ceiling"] = train_network(walk.road.labelled_alone(), config, walk.folder / "ceiling")
        if "against" in wanted:
            try:
                name = with_weights(walk.settings.against)
                walk.networks["against"] = train_against(
                    pupils(walk).labelled_alone(), walk.config, walk.folder / "against", name
                )
            except PocketError as error:  # a comparison that fails, for want of a network say, must not cost the run
                log.warning("warning  %s", error)
                walk.extra["against_failed"] = str(error)

    @staticmethod
    def wanted(walk: Walk, ceiling: bool = True) -> list[str]:
        """Return the keys of the networks that are asked for."""
        settings = walk.settings
        asked = {
            "alone": settings.baseline
            and not walk.untaught  # the student itself is that
            and bool(labelled(walk.road.dataset.train.targets).any()),
            "ceiling": ceiling and bool(getattr(settings, "few_labels", 0)),
            "against": bool(getattr(settings, "against", None)),
        }
        return [name for name, wanted in asked.items() if wanted]


def with_weights(name: str) -> str:
    """Return a bare timm name with the tag of its default weights: a comparison is never with an untrained network."""
    import timm

    from ..models.names import is_pretrained

    cfg = None if is_pretrained(name) else timm.get_pretrained_cfg(name)
    return f"{name}.{cfg.tag}" if cfg is not None and cfg.tag else name
