"""The stage that saves a statistics card beside a trained network, where one was asked for."""

from __future__ import annotations

import logging

from ..config import RunConfig
from ..models.names import is_pretrained
from ..settings import Settings
from ..sources import Dataset
from ..sources.tiles import independent
from ..synthesis.card import FEW, FILE, measure_card, read_card, why_no_card
from ..tasks import task_named
from ..teachers import load_teacher
from .answering import batches
from .base import Cost, Stage, Walk
from .rates import training_seconds

log = logging.getLogger("pocketvit")


def check_card(settings: Settings, config: RunConfig, dataset: Dataset) -> None:
    """Refuse a card of a network that has no use for one, before it is trained."""
    network = config.network
    if not getattr(settings, "statistics_card", False) or network.replace_norm is not None:
        return
    if is_pretrained(network.name):
        module = load_teacher(network.name).module
    else:
        module = task_named(dataset.task).network(network, classes=len(dataset.classes), side=config.view.view_size)
    useless = why_no_card(module)
    if useless:
        raise settings.refused("statistics_card", f"of no use for {network.name}: {useless}. Leave it away")


class Statistics(Stage):
    """Moments of what the layers of the saved network are fed by the training images, as they are used later."""

    name = "statistics"
    reads = ("images", "files")
    everyone = False

    def cost(self, walk: Walk) -> Cost:
        if not walk.settings.statistics_card:
            return Cost()
        return Cost(training_seconds(walk)[0] / (3 * walk.config.train.epochs))  # a step is about three forward passes

    def run(self, walk: Walk) -> None:
        if not walk.settings.statistics_card:
            return
        source, path = walk.road.dataset.train, walk.folder / "student" / FILE
        teacher = load_teacher(walk.folder / "student", device=str(walk.road.device))
        useless = why_no_card(teacher.module)
        if useless:  # known only now, and no reason to lose a training
            log.warning("warning  no %s: %s", FILE, useless)
            walk.notes.append(f"no statistics card was saved: {useless}")
            return
        if path.is_file() and read_card(path).weights == teacher.fingerprint["weights"]:
            return
        card = measure_card(teacher, batches(source, walk.road.view), independent(source))
        card.write(path)
        log.info("card     %s: %s", path, card.words)
        few = (
            f"; of fewer than {FEW:,} images, it tells more of single ones than it should" if card.images < FEW else ""
        )
        if few:
            log.warning("warning  %s is of %d images%s", FILE, card.images, few)
        walk.notes.append(f"student/{FILE} holds {card.words}: it says something of these images{few}")
