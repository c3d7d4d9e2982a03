"""Two students that learn together, without a teacher: deep mutual learning (see `objectives.mutual`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from ..config import RunConfig
from ..models.peers import Peers
from ..objectives.mutual import mutual_loss
from .images import Road
from .students import input_of, make_network, start_network
from .train import train_network, validation

_SECOND = 1 << 32  # added to the seed of the second student's weights: no seed of another training


def train_mutual(road: Road, config: RunConfig, folder: Path) -> nn.Module:
    """Train two students of one shape, of other initial weights, on the same batches; return the better one.

    Both are in every checkpoint. Each epoch's line of metrics has the validation scores of the better one, and of both
    as ``peers``. Without a labelled validation split beside the scored one it is the first that is returned.

    Args:
        road: Images and views; every epoch has a fresh view.
        config: Of each student; its loss as `objectives.mutual.MUTUAL` has it.
        folder: Receives checkpoints and metrics.
    """
    network, train = dataclasses.replace(config.network, tokens=0), config.train
    students = []
    for seed in (train.seed, train.seed + _SECOND):
        students.append(make_network(network, road, drop_path=train.drop_path, seed=seed))
        start_network(students[-1], network, ())
    side = input_of(network, students[0], road)
    check, score = validation(road, side), road.task.score

    def evaluate(peers: nn.Module) -> dict[str, Any]:
        found: list[dict[str, Any]] = [check(one) for one in peers.children()] if check else [{}]
        better = max(found, key=lambda one: one.get(score, 0.0))
        return {**better, "peers": [one.get(score) for one in found]}

    loss = mutual_loss(road.task.loss(config.loss))
    train_network(road, config, folder, model=Peers(*students), input=side, loss=loss, evaluate=evaluate)
    chosen = check if road.dataset.val is not road.scored else None  # else on the images that it is scored on
    return max(students, key=lambda one: chosen(one)[score]) if chosen else students[0]
